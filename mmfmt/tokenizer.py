"""Special token ids of a tokenizer file of mistral-common."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mmfmt.errors import MmfmtError
from mmfmt.repo import read_json
from mmfmt.schemas import validate

IMAGE_TOKENS = {
    "image_token_id": "[IMG]",
    "image_break_token_id": "[IMG_BREAK]",
    "image_end_token_id": "[IMG_END]",
}
CONTROL_TOKENS = {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}
# what mistral-common takes where a tekken.json (up to v7) lists no special tokens
_OLD_TEKKEN = {
    **{"<s>": 1, "</s>": 2, "<pad>": 11},
    **{"[IMG]": 10, "[IMG_BREAK]": 12, "[IMG_END]": 13},
}


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
    tokens = names.values()
    ids = _tekken_ids(path) if path.suffix == ".json" else _sentencepiece_ids(path, tokens)
    return {name: ids[token] for name, token in names.items() if token in ids}


def _tekken_ids(path: Path) -> dict[str, int]:
    # read here, since importing mistral-common takes longer than the rest of a verification
    body = read_json(path)
    validate(body, "tekken", path.name)
    tokens = body.get("special_tokens")
    return {t["token_str"]: t["rank"] for t in tokens} if tokens else _OLD_TEKKEN


def _sentencepiece_ids(path: Path, tokens: Iterable[str]) -> dict[str, int]:
    try:
        from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer(str(path))
        ids = {token: int(tokenizer.get_special_token(token)) for token in tokens}
    except Exception as error:  # mistral-common raises many kinds for a bad file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MmfmtError(path.name, f"mistral-common cannot read it: {reason}") from error
    # SentencePiece answers <unk> (0) for a token it does not have
    return {token: id for token, id in ids.items() if id}
