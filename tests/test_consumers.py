"""Who takes what, by the table, against what transformers really takes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from mmfmt.repo import open_repo
from mmfmt.schemas import table
from mmfmt.verify.consumers import MISMATCH, Choice, choices
from mmfmt.verify.probe import run
from mmfmt.verify.run import verify
from tests import tokenizer_repos
from tests.damage import Damage, both, edit_json, remove, set_field
from tests.repos import CONFIG, PARAMS, good_repo

NATIVE_FILES = ["consolidated.safetensors", PARAMS, "consolidated.safetensors.index.json"]
HF_FILES = [
    *("model.safetensors", CONFIG, "tokenizer.json", "tokenizer_config.json"),
    *("processor_config.json", "generation_config.json", "chat_template.jinja"),
]
SETTINGS, TEKKEN, FAST = "tokenizer_config.json", "tekken.json", "tokenizer.json"
START = "Expected there to be 1 prompt placeholders corresponding to 1 image items"
MODE = "This model requires `--tokenizer-mode mistral`"


def without(*names: str) -> Damage:
    """Remove files, where they are there."""

    def damage(repo: Path) -> None:
        for name in names:
            (repo / name).unlink(missing_ok=True)

    return damage


def a_class(name: str) -> Damage:
    """Name a tokenizer class."""
    return set_field(SETTINGS, "tokenizer_class", name)


def sentencepiece(repo: Path) -> None:
    """A SentencePiece file in the place of all others."""
    without(TEKKEN, FAST, SETTINGS)(repo)
    shutil.copy(tokenizer_repos.SENTENCEPIECE_IMAGES, repo / "tokenizer.model.v7m1")


LAYOUTS: dict[str, Damage] = {
    "both": without(),
    "both, no settings": without(SETTINGS),
    "both, Llama": a_class("LlamaTokenizerFast"),
    "both, PreTrained": a_class("PreTrainedTokenizerFast"),
    "both, llava": set_field(CONFIG, "model_type", "llava"),
    "both, no config": without(CONFIG),
    "tekken": without(FAST, SETTINGS),
    "tekken, no config": without(FAST, SETTINGS, CONFIG),
    "fast": without(TEKKEN),
    "fast, no config": without(TEKKEN, CONFIG),
    "mistral's class": a_class("MistralCommonBackend"),
    "mistral's class, no tekken": both(a_class("MistralCommonBackend"), without(TEKKEN)),
    "mistral's class, no config": both(a_class("MistralCommonBackend"), without(CONFIG)),
    "sentencepiece": sentencepiece,
}


def picked(load: Callable[[], Any]) -> str:
    """The class that a loader of transformers takes here; nothing where it fails."""
    try:
        return type(load()).__name__
    except (ImportError, OSError, ValueError, AttributeError):
        return ""


def by_name(repo: Path) -> dict[str, Choice]:
    """The table's choices, without a run of the loaders."""
    return {choice.consumer: choice for choice in choices(open_repo(repo))}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A copy of a good repo with both layouts."""
    return Path(shutil.copytree(good_repo("bf16"), tmp_path / "repo"))


@pytest.mark.parametrize("damage", LAYOUTS.values(), ids=LAYOUTS)
def test_transformers_takes_what_the_table_says(damage: Damage, repo: Path) -> None:
    """In each layout of files that decides."""
    without(*NATIVE_FILES)(repo)
    damage(repo)
    said = by_name(repo)
    auto = AutoTokenizer.from_pretrained
    assert said["AutoTokenizer"].tokenizer == picked(lambda: auto(repo))
    fast = picked(lambda: auto(repo, mistral_format=False))
    assert said["vLLM --tokenizer-mode hf"].tokenizer == fast
    processor = AutoProcessor.from_pretrained
    if (repo / TEKKEN).exists() or (repo / FAST).exists():
        assert said["AutoProcessor"].tokenizer == picked(lambda: processor(repo).tokenizer)
        assert said["AutoProcessor"].model == picked(lambda: processor(repo))


def test_model_types_are_those_of_transformers() -> None:
    rows = table("consumers")["auto_tokenizer"]
    said = next(row["says"][CONFIG]["model_type"] for row in rows if CONFIG in row.get("says", {}))
    mapped = TOKENIZER_MAPPING_NAMES.items()
    theirs = {kind for kind, name in mapped if name == "MistralCommonBackend"}
    assert set(said) == {kind for kind in theirs if "istral" in kind or "xtral" in kind}
    processors = table("consumers")["auto_processor"]["by_model_type"]
    assert processors == {kind: PROCESSOR_MAPPING_NAMES[kind] for kind in processors}


def test_a_good_repo_has_notes_and_no_findings(repo: Path) -> None:
    """The famous failure is named, and that it is nobody's defect."""
    report = verify(open_repo(repo))
    assert report.findings == () and report.skipped == ()
    ran = run(repo)
    auto, processor, *engines = choices(open_repo(repo), ran)
    assert auto.tokenizer == "MistralCommonBackend"
    assert MISMATCH in auto.note and "ids=[0] and text=[12]" in auto.note
    assert (processor.tokenizer, processor.note) == ("TokenizersBackend", "")
    assert [engine.note != "" for engine in engines] == [False, False, True, False, False]


# as vLLM 0.32 answered: model class, tokenizer class, and part of the error
PIXTRAL, MISTRAL3 = "PixtralForConditionalGeneration", "Mistral3ForConditionalGeneration"
MISTRAL, HF = "MistralTokenizer", "TokenizersBackend"
ENGINES: dict[str, tuple[list[str], list[tuple[str, str, str]]]] = {
    "dual": ([], [(PIXTRAL, MISTRAL, ""), (PIXTRAL, MISTRAL, ""), (PIXTRAL, HF, MODE)]),
    "no params": (
        [PARAMS],
        [(MISTRAL3, MISTRAL, START), (MISTRAL3, MISTRAL, START), (MISTRAL3, HF, "")],
    ),
    "no tekken": (
        [TEKKEN],
        [(PIXTRAL, HF, MODE), (PIXTRAL, MISTRAL, "No tokenizer file found"), (PIXTRAL, HF, MODE)],
    ),
    "HF": (NATIVE_FILES, [(MISTRAL3, HF, ""), (MISTRAL3, MISTRAL, START), (MISTRAL3, HF, "")]),
    "native": (HF_FILES, [(PIXTRAL, MISTRAL, ""), (PIXTRAL, MISTRAL, ""), (PIXTRAL, HF, MODE)]),
}
MODES = ("vLLM", "vLLM --tokenizer-mode mistral", "vLLM --tokenizer-mode hf")


@pytest.mark.parametrize("files", ENGINES)
def test_vllm(files: str, repo: Path) -> None:
    missing, expected = ENGINES[files]
    without(*missing)(repo)
    said = by_name(repo)
    for mode, (model, tokenizer, note) in zip(MODES, expected, strict=True):
        choice = said[mode]
        assert (choice.model, choice.tokenizer) == (model, tokenizer), mode
        assert note in choice.note and bool(note) == bool(choice.note), mode


def test_both_messages_of_the_failure(repo: Path) -> None:
    """vLLM gives it another name."""
    without(*NATIVE_FILES)(repo)
    note = by_name(repo)["vLLM --tokenizer-mode mistral"].note
    assert START in note and MISMATCH in note


def test_weights_follow_their_own_switch(repo: Path) -> None:
    """A forgotten file sends weights and config different ways."""
    remove(PARAMS)(repo)
    choice = by_name(repo)["vLLM"]
    assert (choice.model, choice.weights) == (MISTRAL3, "consolidated*.safetensors")


@pytest.mark.parametrize("name", [CONFIG, PARAMS, SETTINGS, "processor_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": [], "architectures": 3}'])
def test_bad_files_choose_nothing(name: str, text: str, repo: Path) -> None:
    """No file stops the table."""
    (repo / name).write_text(text)
    assert len(choices(open_repo(repo))) == 7


def test_text_models_have_no_images(repo: Path) -> None:
    """And no note on them."""
    without(*NATIVE_FILES, "processor_config.json")(repo)
    edit_json(CONFIG, lambda body: body.pop("vision_config"))(repo)
    set_field(CONFIG, "model_type", "mistral")(repo)
    assert by_name(repo)["AutoTokenizer"].note == ""
