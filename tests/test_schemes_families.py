"""Every scheme in every family, there and back: bit for bit, in both readers' row orders."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfmt.repo import open_repo
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.run import verify
from tests import builders
from tests.conftest import Run
from tests.test_roundtrip import bits, succeed
from tests.test_schemes import (
    FP8,
    GEOMETRY,
    METHODS,
    READERS,
    WEIGHTS,
    Tensors,
    compressed,
    fp8,
    scheme,
    section_of,
)

KINDS = (*builders.KINDS, *builders.OTHER_KINDS)
OUTSIDE = ("vision_tower", "audio_tower", "multi_modal_projector", "lm_head")
# left as they are by the methods that have a list of such modules
LATENT = ("q_a_proj", "kv_a_proj_with_mqa", "kv_b_proj")

Quantize = Callable[[torch.Tensor], Tensors]


def schemes() -> Iterator[tuple[str, Quantize, dict[str, Any]]]:
    """(name, how a weight becomes a module, section of config.json)."""
    for name in WEIGHTS:
        how = scheme(name)
        yield name, partial(compressed, scheme=how), section_of(how)
    yield "FP8 static", fp8, {**FP8, "activation_scheme": "static"}
    for name, (quantize, section) in METHODS.items():
        yield name, quantize, section


SCHEMES = {name: (quantize, section) for name, quantize, section in schemes()}
# the keys that hold what stays as it is, by quant_method
LEFT_OUT = {
    "compressed-tensors": "ignore",
    "awq": "modules_to_not_convert",
}
# vLLM's Voxtral has quantized audio too, where no list says otherwise
NO_LIST = ("FP8 static", "gptq 4", "gptq 3")


def experts_apart(tensors: Tensors) -> Tensors:
    """Stacked experts as the single linear modules that quantizers make of them."""
    apart: Tensors = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if not module.endswith(".experts"):
            apart[name] = tensor
            continue
        for number, expert in enumerate(tensor):
            halves = expert.chunk(2) if part == "gate_up_proj" else (expert,)
            names = ("gate_proj", "up_proj") if part == "gate_up_proj" else ("down_proj",)
            for each, half in zip(names, halves, strict=True):
                apart[f"{module}.{number}.{each}.weight"] = half.contiguous()
    return apart


def is_quantized(name: str, left_out: tuple[str, ...]) -> bool:
    """Whether a tensor is the weight of a linear module that the quantizer takes."""
    module, _, suffix = name.rpartition(".")
    last = module.rpartition(".")[2]
    linear = last.endswith(("_proj", "_proj_with_mqa")) or last in ("w1", "w2", "w3")
    return suffix == "weight" and linear and not any(part in name for part in left_out)


def quantized(folder: Path, kind: str, name: str) -> Path:
    """A tiny model of a kind whose text modules are quantized."""
    quantize, section = SCHEMES[name]
    builders.save_model(folder, kind, GEOMETRY)
    tensors: Tensors = {}
    left = {"lm_head"}
    key = LEFT_OUT.get(section["quant_method"])
    outside = (*OUTSIDE, *LATENT) if key else OUTSIDE
    for full, tensor in experts_apart(builders.load_set(folder)).items():
        module = full.removesuffix(".weight")
        if is_quantized(full, outside):
            tensors |= {f"{module}.{s}": t for s, t in quantize(tensor).items()}
            continue
        tensors[full] = tensor
        if full.endswith(".weight") and tensor.ndim == 2:
            left.add(module)
    builders.save_set(folder, [tensors])
    body = {**section, **({key: sorted(left)} if key else {})}
    builders.edit_config(folder, quantization_config=body)
    return folder


def findings(folder: Path) -> set[str]:
    """The rules on quantization that find something, but for rows in the native reader's order."""
    rules = [rule for rule in registered_rules() if rule.id.startswith("MMF4")]
    report = verify(open_repo(folder), rules)
    assert report.skipped == ()
    return {f"{f.rule} {f.message}" for f in report.findings if f.rule != "MMF408"}


POSITIONS = "audio_tower.embed_positions.weight"  # computed, not carried


def in_legacy_names(folder: Path) -> dict[str, object]:
    """Every tensor that is carried; those of a multimodal model in the names they had."""
    found = bits(folder)
    if any(name.startswith("model.language_model.") for name in found):
        found = {builders.renamed(name, "new", "legacy"): data for name, data in found.items()}
    return {name: data for name, data in found.items() if name != POSITIONS}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, run: Run, kind: str, name: str) -> None:
    """HF, consolidated in either row order, HF again in either generation of names.

    Consolidated again from there, it is what it was. No rule finds fault with what is written.
    """
    source = quantized(tmp_path / "hf", kind, name)
    if kind.startswith("voxtral") and name in NO_LIST:
        error = run("convert", "hf-to-consolidated", source, tmp_path / "out").error
        assert "is not quantized, and its method has no list to say so" in error
        return
    for reader in READERS:
        native = tmp_path / reader
        options = ("--reader", reader)
        succeed(run("convert", "hf-to-consolidated", source, native, *options))
        for names in ("legacy", "new"):
            back, again = (tmp_path / f"{reader}-{names}-{n}" for n in ("back", "again"))
            succeed(run("convert", "consolidated-to-hf", native, back, "--names", names))
            assert in_legacy_names(back) == in_legacy_names(source)
            succeed(run("convert", "hf-to-consolidated", back, again, *options))
            assert bits(again, "consolidated") == bits(native, "consolidated")
            assert findings(back) == findings(again) == set()
            before, after = (builders.read_json(f / "params.json") for f in (native, again))
            # the processor that was made on the way takes it from the tokenizer
            assert after.get("vision_encoder", {}).pop("max_image_size", 112) == 112
            assert after == before
