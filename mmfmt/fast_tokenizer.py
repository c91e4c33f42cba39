"""tokenizer.json, the file of the tokenizers library: what it says, without running it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.repo import Repo
from mmfmt.schemas import validate

# the bytes that byte-level BPE shows as the letters that they are in Latin-1 (as GPT-2 chose)
_SHOWN = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN = (byte for byte in range(256) if byte not in _SHOWN)
_LETTERS = {byte: byte for byte in _SHOWN} | {b: 256 + n for n, b in enumerate(_HIDDEN)}
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def letters_of(token: bytes) -> str:
    """How byte-level BPE writes the bytes of a token."""
    return token.decode("latin-1").translate(_LETTERS)


def bytes_of(letters: str) -> bytes:
    """The bytes that letters of byte-level BPE stand for; of other text, its UTF-8."""
    if all(ord(letter) in _BYTES for letter in letters):
        return letters.translate(_BYTES).encode("latin-1")
    return letters.encode("utf-8", "replace")


@dataclass(frozen=True)
class FastTokenizer:
    """A checked tokenizer.json."""

    name: str
    body: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        model: Mapping[str, Any] = self.body["model"]
        return model

    @cached_property
    def added(self) -> Mapping[str, Mapping[str, Any]]:
        """The added tokens by text; of several with one text, the last."""
        return {token["content"]: token for token in self.body.get("added_tokens") or []}

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Ids of the added tokens."""
        return {text: token["id"] for text, token in self.added.items()}

    @property
    def is_bpe(self) -> bool:
        """Whether the model is one of byte pairs, whose vocabulary maps tokens to ids."""
        return isinstance(self.model["vocab"], Mapping)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Ids of a BPE model's tokens, in letters that stand for bytes; added ones among them."""
        vocabulary: Mapping[str, int] = self.model["vocab"]
        return vocabulary

    @cached_property
    def size(self) -> int:
        """One more than the highest id."""
        highest = max(self.vocabulary.values()) if self.is_bpe else len(self.model["vocab"]) - 1
        return 1 + max(highest, *self.ids.values(), -1)

    @cached_property
    def merges(self) -> list[str]:
        """What is merged with what, in order: two tokens and a space between, as files of old."""
        return list(self._pairs())

    def _pairs(self) -> Iterator[str]:
        for number, merge in enumerate(self.model.get("merges") or []):
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if not isinstance(pair, list) or list(map(type, pair)) != [str, str]:
                raise MmfmtError(f"{self.name}: model.merges[{number}]", "is not a pair of tokens")
            yield f"{pair[0]} {pair[1]}"

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """What splits text before the model sees it, in order."""
        step = self.body.get("pre_tokenizer")
        if step is None:
            return []
        inner = step.get("pretokenizers") if step.get("type") == "Sequence" else [step]
        steps = inner if isinstance(inner, list) else []
        return [each for each in steps if isinstance(each, Mapping)]


def open_fast(repo: Repo, name: str) -> FastTokenizer:
    """A tokenizer.json; MmfmtError where it cannot be one."""
    body = repo.json(name)
    validate(body, "tokenizer", name)
    vocabulary = body["model"]["vocab"]
    if isinstance(vocabulary, Mapping) and not all(map(_is_id, vocabulary.values())):
        raise MmfmtError(f"{name}: model.vocab", "must map tokens to ids")
    if not vocabulary:
        raise MmfmtError(f"{name}: model.vocab", "is empty")
    return FastTokenizer(name, body)


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0
