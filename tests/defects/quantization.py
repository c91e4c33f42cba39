"""4xx: quantized tensors and what the configs say of them."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.damage import (
    Damage,
    Tensors,
    both,
    drop,
    drop_field,
    edit_json,
    edit_tensors,
    put,
    rename,
    set_field,
)
from tests.defects.defect import Defect
from tests.repos import CONFIG, FIRST, HF, NATIVE, PARAMS, W4A16, convert


def unquantize_v(name: str, module: str) -> Damage:
    """Make one value projection unquantized."""

    def edit(tensors: Tensors) -> None:
        for suffix in ("weight_packed", "weight_scale", "weight_shape"):
            del tensors[f"{module}.{suffix}"]
        tensors[f"{module}.weight"] = torch.ones(128, 256, dtype=torch.bfloat16)

    return edit_tensors(name, edit)


def ignore_too(name: str, section: str, entry: str) -> Damage:
    """Append to an ignore list."""
    return edit_json(name, lambda body: body[section]["ignore"].append(entry))


def quantize_vision(tensors: Tensors) -> None:
    """Pretend that a vision projection is packed."""
    weight = tensors.pop(f"{VISION_WV}.weight")
    tensors[f"{VISION_WV}.weight_packed"] = torch.zeros(128, 16, dtype=torch.int32)
    tensors[f"{VISION_WV}.weight_scale"] = torch.ones(128, 1, dtype=torch.float16)
    tensors[f"{VISION_WV}.weight_shape"] = torch.tensor(weight.shape)


def legacy_ignore(body: dict[str, Any]) -> None:
    """Write the ignore list in legacy names, which transformers does not match."""
    quantization = body["quantization_config"]
    quantization["ignore"] = [name.removeprefix("model.") for name in quantization["ignore"]]


V_HF = "model.language_model.layers.0.self_attn.v_proj"
V_VLLM = "language_model.model.layers.0.self_attn.v_proj"
MIXED = both(
    unquantize_v(HF, "language_model.model.layers.0.self_attn.v_proj"),
    unquantize_v(NATIVE, "layers.0.attention.wv"),
    ignore_too(CONFIG, "quantization_config", V_HF),
    ignore_too(PARAMS, "quantization", V_VLLM),
)
INT32, F16 = torch.int32, torch.float16
WQ, W1 = "layers.0.attention.wq", "layers.0.feed_forward.w1"
UP = "language_model.model.layers.0.mlp.up_proj"
VISION_WV = "vision_encoder.transformer.layers.0.attention.wv"


def quantize_nothing(repo: Path) -> None:
    """Say that a BF16 repo is quantized."""
    body = json.loads((W4A16 / CONFIG).read_text())["quantization_config"]
    set_field(CONFIG, "quantization_config", body)(repo)


def reorder(repo: Path) -> None:
    """Order the rows of the consolidated set for the native reader."""
    convert(repo, "--force", "--reader", "native")


DEFECTS: list[Defect] = [
    Defect("MMF401", "no scale", drop(NATIVE, f"{WQ}.weight_scale")),
    Defect("MMF401", "no shape", drop(NATIVE, f"{WQ}.weight_shape")),
    Defect(
        "MMF401", "narrow", put(NATIVE, f"{W1}.weight_packed", torch.zeros(512, 31, dtype=INT32))
    ),
    Defect(
        "MMF401", "zeros", put(NATIVE, f"{W1}.weight_zero_point", torch.zeros(64, 2, dtype=INT32))
    ),
    Defect("MMF401", "dtype", put(NATIVE, f"{W1}.weight_packed", torch.zeros(512, 32).long())),
    Defect("MMF401", "groups", put(HF, f"{UP}.weight_scale", torch.ones(512, 3, dtype=F16))),
    Defect("MMF402", "undeclared", drop_field(PARAMS, "quantization")),
    Defect("MMF403", "v unquantized", MIXED),
    Defect("MMF404", "legacy names", edit_json(CONFIG, legacy_ignore)),
    Defect("MMF404", "quantized but ignored", ignore_too(PARAMS, "quantization", V_VLLM)),
    Defect("MMF404", "too short", set_field(CONFIG, "quantization_config.ignore", ["lm_head"])),
    Defect("MMF405", "quantized vision", edit_tensors(NATIVE, quantize_vision)),
    Defect(
        "MMF407",
        "mixed readers",
        edit_tensors(FIRST, len, {"mmfmt.reader": "native"}),
        repo="sharded",
    ),
    Defect(
        "MMF407",
        "unknown reader",
        edit_tensors(FIRST, len, {"mmfmt.reader": "other"}),
        repo="sharded",
    ),
    Defect(
        "MMF406", "scale", rename(NATIVE, f"{WQ}.qscale_weight", f"{WQ}.weight_scale"), repo="int8"
    ),
    Defect("MMF402", "nothing quantized", quantize_nothing, repo="hf-bf16"),
    Defect("MMF408", "native rows", reorder),
]
