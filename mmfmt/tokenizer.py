"""Special token ids of a mistral-common tokenizer file."""

from pathlib import Path

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
    # heavy: pydantic models, the whole vocabulary
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    try:
        tokenizer = MistralTokenizer.from_file(str(path)).instruct_tokenizer.tokenizer
    except Exception as error:  # mistral-common raises many kinds for a bad file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MmfmtError(path.name, f"mistral-common cannot read it: {reason}") from error
    return {
        name: found
        for name, token in IMAGE_TOKENS.items()
        if (found := _special_id(tokenizer, token)) is not None
    }


def _special_id(tokenizer: object, token: str) -> int | None:
    try:
        found = int(tokenizer.get_special_token(token))  # type: ignore[attr-defined]
    except ValueError:
        return None
    # SentencePiece answers <unk> (0) for a token it does not have
    return found or None
