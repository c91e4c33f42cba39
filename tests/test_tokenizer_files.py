"""Files made of a tekken.json, as transformers loads them, against mistral-common itself."""

import json
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, GenerationConfig

from mmfmt.convert.tokenizer_files import (
    generation_config,
    image_section,
    processor_files,
    tokenizer_files,
)
from mmfmt.errors import MmfmtError
from tests import builders
from tests.tiny_params import FAMILIES

DATA = Path(mistral_common.__file__).parent / "data"
# 131,072 ids; a tiny one of a later version
TEKKENS = {"v3": DATA / "tekken_240911.json", "v13": builders.TEKKEN}
TEXTS = [
    "Hello, world!",
    "def f(x):\n    return x**2  # c\n\n\t\tdone",
    "naïve Ünïcödé 北京 \U0001f600 नमस्ते",
    "THEY'VE 123456 don't CamelCase    \r\n",
]
SIZES = [(28, 28), (29, 28), (777, 333), (1540, 1540), (1541, 1540)]


class Made:
    """A HF repo without weights made of a tekken.json, and both tokenizers."""

    def __init__(self, tekken: Path, folder: Path) -> None:
        self.native = MistralTokenizer.from_file(str(tekken))
        self.raw: Any = self.native.instruct_tokenizer.tokenizer
        image = image_section(tekken)
        vision = {"patch_size": image["image_patch_size"], "image_size": image["max_image_size"]}
        vision["spatial_merge_size"] = image.get("spatial_merge_size", 1)
        self.texts, self.warnings = tokenizer_files(tekken)
        self.texts |= processor_files({"vision_encoder": vision}, image)
        self.texts |= generation_config(tekken)
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        config = {"model_type": "mistral3", "transformers_version": "5.0.0"}
        builders.write_json(folder / "config.json", config)
        self.folder = folder
        self.fast = AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=TEKKENS)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(TEKKENS[request.param], tmp_path_factory.mktemp("made"))


def test_nothing_is_missing(made: Made) -> None:
    """Everything that transformers reads beside config and weights."""
    assert made.warnings == []
    assert made.texts.keys() == {
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("processor_config.json", "generation_config.json"),
    }
    assert type(made.fast).__name__ == "TokenizersBackend"


def test_vocabulary(made: Made) -> None:
    """Every id stands for the same bytes, every special token has its id."""
    count = made.raw.num_special_tokens
    body = json.loads(made.texts["tokenizer.json"])
    vocabulary = body["model"]["vocab"]
    assert len(made.fast) == made.raw.n_words
    for id in range(count):
        assert made.fast.convert_ids_to_tokens(id) == made.raw.id_to_piece(id)
    letters = {letter: byte for byte, letter in _byte_letters().items()}
    for piece, id in vocabulary.items():
        if id >= count:
            expected = made.raw.id_to_byte_piece(id)
            assert bytes(letters[letter] for letter in piece) == expected
    assert len([id for id in vocabulary.values() if id >= count]) == made.raw.n_words - count


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level BPE (as GPT-2 defined it)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}


@pytest.mark.parametrize("text", TEXTS)
def test_encoding(made: Made, text: str) -> None:
    """The same ids for plain text, and the text back."""
    ids = made.fast.encode(text, add_special_tokens=False)
    assert ids == made.raw.encode(text, bos=False, eos=False)
    assert made.fast.decode(ids) == text


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("a [IMG]", max_size=9))
def test_any_text(made: Made, text: str) -> None:
    """Likewise, spelled-out special tokens read as text."""
    ids = made.fast.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ids == made.raw.encode(text, bos=False, eos=False)


def test_special_ids(made: Made) -> None:
    """[IMG] and its like are one token each, with the ids of mistral-common."""
    for name in ("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "</s>"):
        assert made.fast.encode(name, add_special_tokens=False) == [
            made.raw.get_special_token(name)
        ]
    settings_of_text = GenerationConfig.from_pretrained(made.folder)
    assert settings_of_text.bos_token_id == made.raw.bos_id
    assert settings_of_text.eos_token_id == made.raw.eos_id
    assert settings_of_text.pad_token_id == made.raw.pad_id


@pytest.mark.parametrize("size", SIZES)
def test_image_tokens(made: Made, size: tuple[int, int]) -> None:
    """As many tokens for an image, and the same, as mistral-common makes."""
    image = Image.fromarray(np.zeros((size[1], size[0], 3), dtype=np.uint8))
    processor = AutoProcessor.from_pretrained(made.folder)
    ours = processor(text="[IMG]", images=[image], add_special_tokens=False)["input_ids"][0]
    request = ChatCompletionRequest(messages=[UserMessage(content=[ImageChunk(image=image)])])
    theirs = made.native.encode_chat_completion(request).tokens
    first, last = theirs.index(made.raw.get_special_token("[IMG]")), len(theirs) - 1
    assert list(ours) == theirs[first:last]


CHATS = [
    [UserMessage(content="What is 2 + 2?")],
    [
        *(UserMessage(content="Hi"), AssistantMessage(content="Hello.")),
        UserMessage(content="Who are you?"),
    ],
    [SystemMessage(content="Be brief."), UserMessage(content="Why?")],
    [UserMessage(content=[TextChunk(text="Look: "), TextChunk(text="what now?")])],
]


@pytest.mark.parametrize("messages", CHATS, ids=str)
def test_chat_template(made: Made, messages: list[Any]) -> None:
    """A rendered chat has the ids that mistral-common gives it."""
    request = ChatCompletionRequest(messages=messages)
    plain = [message.to_openai() for message in messages]
    ours = made.fast.apply_chat_template(plain, tokenize=True, return_dict=False)
    assert ours == made.native.encode_chat_completion(request).tokens


def test_sentencepiece() -> None:
    """Nothing but a warning: no exact tokenizer.json is known."""
    texts, warnings = tokenizer_files(next(iter(sorted(DATA.glob("*.model.v*")))))
    assert texts == {}
    assert len(warnings) == 1
    assert "no exact tokenizer.json" in warnings[0]


def test_bad_tekken(tmp_path: Path) -> None:
    """What transformers cannot convert is one line that names the file."""
    body = builders.read_json(builders.TEKKEN)
    body["special_tokens"][3]["rank"] = 5000
    builders.write_json(tmp_path / "tekken.json", body)
    with pytest.raises(MmfmtError, match=r"^tekken\.json: transformers cannot convert it"):
        tokenizer_files(tmp_path / "tekken.json")


AUDIO_CLASSES = {
    "voxtral": ("WhisperFeatureExtractor", "VoxtralProcessor"),
    "voxtral_realtime": ("VoxtralRealtimeFeatureExtractor", "VoxtralRealtimeProcessor"),
}


@pytest.mark.parametrize("kind", AUDIO_CLASSES)
def test_feature_extractor(tmp_path: Path, kind: str) -> None:
    """transformers makes the spectrogram that params.json describes."""
    params = json.loads(json.dumps(FAMILIES[kind]))
    encoder = params["multimodal"]["whisper_model_args"]["encoder_args"]
    frames = encoder["audio_encoding_args"]
    frames |= {"num_mel_bins": 20, "hop_length": 80, "window_size": 300, "sampling_rate": 8000}
    for name, text in processor_files(params, {}).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    said = builders.read_json(tmp_path / "preprocessor_config.json")
    assert (type(extractor).__name__, said["processor_class"]) == AUDIO_CLASSES[kind]
    assert hasattr(transformers, said["processor_class"])
    assert extractor.mel_filters.shape == (300 // 2 + 1, 20)
    assert (extractor.hop_length, extractor.sampling_rate) == (80, 8000)
    if kind == "voxtral":
        assert extractor.n_samples == 30 * 8000
    else:
        assert extractor.win_length == 300
        assert extractor.global_log_mel_max == 1.5


def test_no_images() -> None:
    """A text model has no processor."""
    assert processor_files({"dim": 64}, {}) == {}
