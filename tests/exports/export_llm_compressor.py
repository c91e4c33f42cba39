"""Exports of llm-compressor, made as its documentation says; no part of mmfmt is used.

Usage: python llm_compressor.py SOURCES OUTPUT, in a venv of setup_exports.sh. SOURCES has a folder
for each model that a recipe names; OUTPUT gets a repo for each recipe.
"""

# mypy: disable-error-code="import-not-found"

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressed_tensors.quantization import preset_name_to_scheme
from datasets import Dataset
from llmcompressor import model_free_ptq, oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

# of the examples for vision models
VISION = ["re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
# model_free_ptq knows no classes: to it "Linear" means every tensor that is not a norm
EMBEDDINGS = ["re:.*embed_tokens"]
FP8_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}


@dataclass(frozen=True)
class Oneshot:
    """A recipe for `oneshot`, and the model that it is for: folder and classes."""

    modifier: Any
    source: str = "new"
    model: Any = AutoModelForImageTextToText
    processor: Any = AutoProcessor
    calibrated: bool = False


def quantize(scheme: str, **extra: Any) -> QuantizationModifier:
    """Rounding to nearest by a preset."""
    return QuantizationModifier(targets="Linear", scheme=scheme, ignore=VISION, **extra)


def mixed() -> QuantizationModifier:
    """W4A16 for attention, FP8 for the rest."""
    groups = {
        "attention": preset_name_to_scheme("W4A16", ["re:.*self_attn.*"]),
        "mlp": preset_name_to_scheme("FP8_DYNAMIC", ["re:.*mlp.*"]),
    }
    return QuantizationModifier(config_groups=groups, ignore=VISION)


def gptq() -> GPTQModifier:
    """GPTQ as most recipes have it: activation order, static."""
    return GPTQModifier(targets="Linear", scheme="W4A16", ignore=VISION)


def recipes() -> Mapping[str, Oneshot]:
    """Every run of `oneshot`, by the name of its repo."""
    presets = ("W4A16", "W4A16_ASYM", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16")
    text = {"source": "text", "model": AutoModelForCausalLM, "processor": AutoTokenizer}
    cached = quantize("FP8_DYNAMIC", kv_cache_scheme=FP8_CACHE)
    return {
        **{f"oneshot-{preset}": Oneshot(quantize(preset)) for preset in presets},
        "oneshot-FP8": Oneshot(quantize("FP8"), calibrated=True),
        "oneshot-NVFP4": Oneshot(quantize("NVFP4"), calibrated=True),
        "oneshot-gptq": Oneshot(gptq(), calibrated=True),
        "oneshot-mixed": Oneshot(mixed()),
        "oneshot-text": Oneshot(quantize("W4A16"), **text),
        "oneshot-text-kv": Oneshot(cached, calibrated=True, **text),
        "oneshot-legacy-W4A16_ASYM": Oneshot(quantize("W4A16_ASYM"), source="legacy"),
        "oneshot-legacy-FP8_DYNAMIC": Oneshot(quantize("FP8_DYNAMIC"), source="legacy"),
    }


def run_oneshot(recipe: Oneshot, sources: Path, output: Path) -> None:
    """Quantize and save a model with its processor, or its tokenizer."""
    source = sources / recipe.source
    model = recipe.model.from_pretrained(source, dtype="auto")
    processor = recipe.processor.from_pretrained(source)
    data = calibration(processor) if recipe.calibrated else {}
    oneshot(model=model, processor=processor, recipe=recipe.modifier, **data)
    model.save_pretrained(output, save_compressed=True)
    processor.save_pretrained(output)


def calibration(processor: Any) -> dict[str, Any]:
    """Arguments of `oneshot` for data that only has to be there."""
    tokenizer = getattr(processor, "tokenizer", processor)
    ids = tokenizer("What is two and two? It is four, and four and four is eight.")["input_ids"]
    row = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    return {"dataset": Dataset.from_list([row] * 4), "num_calibration_samples": 4}


def model_free(sources: Path, output: Path) -> None:
    """Runs of `model_free_ptq`, which reads files and never builds the model."""
    for scheme in ("W4A16", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16"):
        folder = output / f"model-free-{scheme}"
        model_free_ptq(sources / "legacy", folder, scheme=scheme, ignore=VISION + EMBEDDINGS)
    forgetful = output / "model-free-embeddings"
    model_free_ptq(sources / "legacy", forgetful, scheme="FP8_DYNAMIC", ignore=VISION)


def main(sources: Path, output: Path) -> None:
    for name, recipe in recipes().items():
        run_oneshot(recipe, sources, output / name)
    model_free(sources, output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
