"""Special token ids of a mistral-common tokenizer file."""

from pathlib import Path
from typing import Any

from mmfmt.errors import MmfmtError

IMAGE_TOKENS = {
    "image_token_id": "[IMG]",
    "image_break_token_id": "[IMG_BREAK]",
    "image_end_token_id": "[IMG_END]",
}


def special_ids(path: Path) -> dict[str, int]:
    """Ids of the image tokens by their params.json name; tokens the file lacks are left out.

    Reads tekken.json and the SentencePiece files through mistral-common.
    """
    try:
        tokenizer = _open(path)
    except Exception as error:  # mistral-common raises many kinds for a bad file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MmfmtError(path.name, f"mistral-common cannot read it: {reason}") from error
    return {
        name: found
        for name, token in IMAGE_TOKENS.items()
        if (found := _special_id(tokenizer, token)) is not None
    }


def _open(path: Path) -> Any:
    # heavy imports: pydantic models, numpy
    if path.suffix == ".json":
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        return Tekkenizer.from_file(path)
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(str(path))


def _special_id(tokenizer: Any, token: str) -> int | None:
    try:
        found = int(tokenizer.get_special_token(token))
    except ValueError:
        return None
    # SentencePiece answers <unk> (0) for a token it does not have
    return found or None
