"""Tokenizer files of mistral-common: special token ids, and the whole of a tekken.json."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.repo import Repo, read_json
from mmfmt.schemas import table, validate

IMAGE_TOKENS = {
    "image_token_id": "[IMG]",
    "image_break_token_id": "[IMG_BREAK]",
    "image_end_token_id": "[IMG_END]",
}
CONTROL_TOKENS = {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}
_BYTES = 256
# bytes of a token; Mistral's have 78 at most
_LONGEST = 1000


@dataclass(frozen=True)
class Tekken:
    """A tekken.json that mistral-common takes: special tokens first, then the regular ones."""

    name: str
    body: Mapping[str, Any]

    @property
    def pattern(self) -> str:
        """The regular expression that splits text before it is encoded."""
        return str(self.body["config"]["pattern"])

    @property
    def size(self) -> int:
        """How many ids there are; rows of `vocab` beyond are not used."""
        return int(self.body["config"]["default_vocab_size"])

    @property
    def special_count(self) -> int:
        """How many ids stand before those of regular tokens."""
        return int(self.body["config"]["default_num_special_tokens"])

    @cached_property
    def named(self) -> Mapping[str, int]:
        """Ids of the special tokens that have a name of their own."""
        tokens = self.body.get("special_tokens")
        if tokens is None:
            return {token: id for id, token in enumerate(_old_special_tokens())}
        return {token["token_str"]: token["rank"] for token in tokens}

    @cached_property
    def special(self) -> Mapping[str, int]:
        """Ids of all special tokens, fillers included."""
        filler = table("tokenizers")["filler"]
        unnamed = range(len(self.named), self.special_count)
        return {**self.named, **{filler.format(id=id): id for id in unnamed}}

    @cached_property
    def regular(self) -> tuple[bytes, ...]:
        """The bytes of each regular token, by rank; its id is `special_count` more."""
        rows = self.body["vocab"][: self.size - self.special_count]
        try:
            return tuple(base64.b64decode(row["token_bytes"]) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise MmfmtError(f"{self.name}: vocab", "token_bytes must be base64") from error

    @cached_property
    def images(self) -> Mapping[str, Any] | None:
        """How images are cut: the section `image`, or `multimodal` up to v11."""
        return self.body.get("multimodal") or self.body.get("image")


def open_tekken(repo: Repo, name: str) -> Tekken:
    """A tekken.json, checked as mistral-common does when it loads it.

    MmfmtError names the first fault.
    """
    body = repo.json(name)
    validate(body, "tekken", name)
    tekken = Tekken(name, body)
    for place, fault in (*_special_faults(tekken), *_regular_faults(tekken)):
        raise MmfmtError(f"{name}: {place}", fault, "take the file of the base model")
    return tekken


def _special_faults(tekken: Tekken) -> Iterator[tuple[str, str]]:
    version = int(tekken.body["config"]["version"].removeprefix("v"))
    tokens = tekken.body.get("special_tokens")
    if tokens is None and version > 7:
        yield "special_tokens", f"are missing, which v{version} must list"
    if tekken.body.get("multimodal") and version > 11:
        yield "multimodal", f"must be called image in v{version}"
    if sorted(tekken.named.values()) != list(range(len(tokens or tekken.named))):
        yield "special_tokens", "must have different names, and ranks from 0 without a gap"
    if len(tekken.named) > tekken.special_count:
        found = f"{len(tekken.named)} tokens, more than default_num_special_tokens"
        yield "special_tokens", f"{found} ({tekken.special_count})"


def _regular_faults(tekken: Tekken) -> Iterator[tuple[str, str]]:
    wanted, rows = tekken.size - tekken.special_count, tekken.body["vocab"]
    if not 0 <= wanted <= len(rows):
        counts = f"{tekken.size} ids without {tekken.special_count} special tokens"
        yield "config.default_vocab_size", f"{counts} leave {wanted}, but vocab has {len(rows)}"
        return
    for rank, (row, token) in enumerate(zip(rows, tekken.regular, strict=False)):
        if row.get("rank") != rank:
            yield f"vocab[{rank}]", f"rank {row.get('rank')!r}, expected {rank}"
        if len(token) > _LONGEST:  # looking at how it is merged would take for ever
            yield f"vocab[{rank}]", f"a token of {len(token)} bytes, more than {_LONGEST}"
        if rank < _BYTES and token != bytes([rank]):
            yield f"vocab[{rank}]", f"{token!r}, expected the byte {rank}"
    if len(set(tekken.regular)) < len(tekken.regular):
        yield "vocab", "has a token twice"


def special_ids(path: Path) -> dict[str, int]:
    """Ids of the image tokens by their params.json name; tokens the file lacks are left out.

    A special token's id is its rank in tekken.json. SentencePiece files are asked through
    mistral-common (which needs sentencepiece). Raises MmfmtError for a file that is neither.
    """
    return _named_ids(path, IMAGE_TOKENS)


def control_ids(path: Path) -> dict[str, int]:
    """Ids that begin, end and pad a text, by their name in HF configs; as `special_ids`."""
    return _named_ids(path, CONTROL_TOKENS)


def _named_ids(path: Path, names: Mapping[str, str]) -> dict[str, int]:
    ids = _tekken_ids(path) if path.suffix == ".json" else sentencepiece_pieces(path)
    return {name: ids[token] for name, token in names.items() if token in ids}


def _tekken_ids(path: Path) -> Mapping[str, int]:
    # read here, since importing mistral-common takes longer than the rest of a verification
    body = read_json(path)
    validate(body, "tekken", path.name)
    return Tekken(path.name, body).named


def sentencepiece_pieces(path: Path) -> Mapping[str, int]:
    """The id of every piece of a SentencePiece file. MmfmtError for a file that is none."""
    try:
        from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

        pieces = SentencePieceTokenizer(str(path)).vocab()
    except Exception as error:  # mistral-common raises many kinds for a bad file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MmfmtError(path.name, f"mistral-common cannot read it: {reason}") from error
    return {piece: id for id, piece in enumerate(pieces)}


def _old_special_tokens() -> list[str]:
    names: list[str] = table("tokenizers")["old_special_tokens"]
    return names
