"""Special token ids are those of mistral-common, for every tokenizer file it ships."""

from pathlib import Path

import mistral_common
import pytest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mmfmt.errors import MmfmtError
from mmfmt.tokenizer import IMAGE_TOKENS, special_ids
from tests import builders

DATA = Path(mistral_common.__file__).parent / "data"
FILES = [builders.TEKKEN, *sorted(DATA.glob("tekken*.json")), *sorted(DATA.glob("*.model.v*"))]


def known(path: Path) -> dict[str, int]:
    """What mistral-common answers; 0 is <unk> in SentencePiece files."""
    tokenizer = MistralTokenizer.from_file(str(path)).instruct_tokenizer.tokenizer
    ids = {name: tokenizer.get_special_token(token) for name, token in IMAGE_TOKENS.items()}
    return {name: id for name, id in ids.items() if id}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ids_of_mistral_common(path: Path) -> None:
    """The same ids, and only for tokens that the file has."""
    assert special_ids(path) == known(path)


def test_the_files_differ() -> None:
    """The comparison above covers files with other ids, and with none."""
    assert len({tuple(special_ids(path).values()) for path in FILES}) >= 3


@pytest.mark.parametrize("text", ["{", "{}", '{"config": {}, "vocab": 3}'])
def test_no_tekken(text: str, tmp_path: Path) -> None:
    """A file that is no tekken.json is one clear error."""
    path = tmp_path / "tekken.json"
    path.write_text(text)
    with pytest.raises(MmfmtError, match=r"tekken\.json"):
        special_ids(path)


def test_no_sentencepiece_file(tmp_path: Path) -> None:
    """A damaged SentencePiece file is one clear error."""
    path = tmp_path / "tokenizer.model.v3"
    path.write_text("no model")
    with pytest.raises(MmfmtError, match="mistral-common cannot read it"):
        special_ids(path)
