"""Exports of llm-compressor and AutoRound as they are: what fires is a defect, the rest loads.

transformers judges both, in another version than the one that exported.
"""

import shutil
from pathlib import Path

import pytest
import transformers

from tests.builders import BF16, read_json
from tests.conftest import Run

from .verified import EVERY, QUICK, found

pytestmark = pytest.mark.exports

PRESETS = ("W4A16", "W4A16_ASYM", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16")
ONESHOT = (*PRESETS, "FP8", "NVFP4", "gptq", "mixed", "text", "text-kv")
MODEL_FREE = ("W4A16", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16")
ROUND = ("FP8_BLOCK", "float32", "text-W4A16", "text-W4A16-asym", "text-W8A8", "text-mixed")
# quantization methods that transformers needs packages for
OTHER_METHODS = [
    "auto-round-legacy-gptq",
    *(f"auto-round-text-{name}" for name in ("gptq", "awq", "native", "by-files")),
]
CLEAN = [
    *(f"oneshot-{name}" for name in ONESHOT),
    *(f"model-free-{name}" for name in MODEL_FREE),
    *(f"auto-round-{name}" for name in ROUND),
    *OTHER_METHODS,
]
DEFECTS = {
    # The ignore list has the legacy names of the files (vision_tower..., language_model.lm_head).
    # transformers compares it with its modules' (model.vision_tower..., lm_head): all miss.
    "oneshot-legacy-W4A16_ASYM": {"MMF404"},
    "oneshot-legacy-FP8_DYNAMIC": {"MMF404"},
    "auto-round-legacy-W4A16": {"MMF404"},
    # To model_free_ptq "Linear" means embeddings as well, to readers it does not.
    "model-free-embeddings": {"MMF402"},
    # modules_to_not_convert has model.language_model.layers: all that is quantized.
    "auto-round-legacy-awq": {"MMF404"},
    # The projector is quantized, with it the patch merger, which vLLM builds as nn.Linear.
    "auto-round-by-files": {"MMF405"},
    # Layers are written under legacy names; those of the source then count as forgotten and are
    # copied, unquantized, and the index's total_size is 0. vLLM 0.32 stops: "There is no module
    # or parameter named 'layers.0.mlp.down_proj.weight'".
    "auto-round-W4A16": {"MMF304", "MMF105"},
}
# what transformers reports of a load
FAULTS = {
    "oneshot-legacy-W4A16_ASYM": {"missing_keys", "unexpected_keys", "mismatched_keys"},
    "oneshot-legacy-FP8_DYNAMIC": {"missing_keys"},
    "auto-round-legacy-W4A16": {"missing_keys", "unexpected_keys"},
    "model-free-embeddings": {"unexpected_keys"},
    # no fault of the exports: transformers 5.17 reads packed zero points, 5.24 does not
    "oneshot-W4A16_ASYM": {"mismatched_keys"},
    "auto-round-text-W4A16-asym": {"mismatched_keys"},
    # nor this: transformers has no quantized cache, and does not expect its scales
    "oneshot-text-kv": {"unexpected_keys"},
}
READ = [n for n in (*CLEAN, *DEFECTS) if n not in (*OTHER_METHODS, "auto-round-legacy-awq")]
REFUSED = {
    "model-free-embeddings": "no config group targets it",
    "auto-round-by-files": "is quantized, which cannot be carried",
    "auto-round-W4A16": "no legacy HF pixtral tensor has this name",
}
# verified by every rule; the others have the same tokenizer
LOADED = {"oneshot-W4A16", "oneshot-text", "model-free-W8A8", "auto-round-FP8_BLOCK"}

each = pytest.mark.parametrize("name", [*CLEAN, *DEFECTS])


def test_every_export_is_verified(exports: Path) -> None:
    made = {path.name for path in exports.iterdir() if (path / "config.json").exists()}
    assert made == {*CLEAN, *DEFECTS}


@each
def test_findings(exports: Path, name: str) -> None:
    """A defect trips its rule; nothing else fires."""
    rules = EVERY if name in LOADED else QUICK
    assert found(exports / name, rules) == DEFECTS.get(name, set())


@pytest.mark.parametrize("name", READ)
def test_transformers_agrees(exports: Path, name: str) -> None:
    """It finds all weights in place, save in exports that mmfmt finds fault with."""
    architecture = read_json(exports / name / "config.json")["architectures"][0]
    _, report = getattr(transformers, architecture).from_pretrained(
        exports / name, output_loading_info=True, ignore_mismatched_sizes=True
    )
    assert {fault for fault, keys in report.items() if keys} == FAULTS.get(name, set())


@each
def test_dual_repo(exports: Path, name: str, tmp_path: Path, to_consolidated: Run) -> None:
    """What is whole converts; the repo with both layouts has no defect that was not there."""
    repo = shutil.copytree(exports / name, tmp_path / "repo")
    outcome = to_consolidated(repo, "--tokenizer-from", BF16, "--quiet")
    if name in REFUSED:
        assert REFUSED[name] in outcome.error
    else:
        assert outcome.code == 0, outcome
        rules = EVERY if name in LOADED else QUICK
        assert found(repo, rules) == DEFECTS.get(name, set())
