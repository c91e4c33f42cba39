"""HF -> consolidated -> HF and back again: every tensor bit for bit, every config field."""

import json
from pathlib import Path

import pytest
import transformers

from tests import builders
from tests.conftest import Run

READERS = ("vllm", "native")
ODD = builders.Geometry(hidden=96, heads=3, kv_heads=1, head_dim=88, ff=144, layers=2)
SCHEMES = {
    "none": None,
    "W3 asym group": builders.scheme("pack-quantized", 3, "group", False, 24),
    "W4 sym group": builders.scheme("pack-quantized", 4, "group", True, 24),
    "W8A8 channel": builders.scheme("int-quantized"),
    "FP8 tensor": builders.scheme("float-quantized", strategy="tensor"),
}


def bits(folder: Path, stem: str = "model") -> dict[str, object]:
    """Every tensor of a set, by name."""
    return {name: builders.bits_of(t) for name, t in builders.load_set(folder, stem).items()}


def succeed(outcome: object) -> None:
    """The command must have exited with 0."""
    assert getattr(outcome, "code", None) == 0, outcome


def meaning(folder: Path) -> dict[str, object]:
    """config.json as transformers' own class understands it, without its quantization."""
    body = transformers.AutoConfig.from_pretrained(folder).to_dict()
    for key in ("quantization_config", "transformers_version", "architectures", "mistral_extras"):
        body.pop(key, None)
    return json.loads(json.dumps(body, default=str))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", builders.KINDS)
def test_hf_and_back(
    tmp_path: Path, to_consolidated: Run, to_hf: Run, kind: str, name: str, reader: str
) -> None:
    """The second HF set is the first; so is a second consolidated set made of it."""
    source, native, back, again = (tmp_path / n for n in ("hf", "native", "back", "again"))
    builders.save_model(source, kind, ODD)
    if SCHEMES[name]:
        builders.quantize_repo(source, SCHEMES[name])
    succeed(to_consolidated(source, native, "--reader", reader))
    succeed(to_hf(native, back, "--names", "legacy"))
    assert bits(back) == bits(source)
    assert meaning(back) == meaning(source)
    succeed(to_consolidated(back, again, "--reader", reader))
    assert bits(again, "consolidated") == bits(native, "consolidated")
    assert builders.read_json(again / "params.json") == builders.read_json(native / "params.json")


def test_names(tmp_path: Path, to_hf: Run, to_consolidated: Run) -> None:
    """Both generations hold the same tensors; new names are written where nothing is said."""
    succeed(
        to_consolidated(builders.copy_repo(builders.W4A16, tmp_path / "hf"), tmp_path / "native")
    )
    succeed(to_hf(tmp_path / "native", tmp_path / "new"))
    succeed(to_hf(tmp_path / "native", tmp_path / "legacy", "--names", "legacy"))
    new, legacy = bits(tmp_path / "new"), bits(tmp_path / "legacy")
    assert {builders.renamed(name, "legacy", "new"): data for name, data in legacy.items()} == new
    assert "model.language_model.embed_tokens.weight" in new
