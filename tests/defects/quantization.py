"""4xx: quantized tensors, and the schemes that the configs give them."""

import json
from pathlib import Path

import torch

from tests.damage import (
    Damage,
    Tensors,
    both,
    drop,
    drop_field,
    edit_tensors,
    put,
    rename,
    set_field,
)
from tests.defects.defect import Defect
from tests.defects.ignore_lists import ignore_too, unquantize
from tests.repos import CONFIG, HF, NATIVE, PARAMS, W4A16

INT32, F16, BF16 = torch.int32, torch.float16, torch.bfloat16
WQ, W1 = "layers.0.attention.wq", "layers.0.feed_forward.w1"
TEXT_HF = "language_model.model.layers.0"
Q_HF, V_HF, UP_HF = (
    f"{TEXT_HF}.{m}" for m in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
)
VISION_WV = "vision_encoder.transformer.layers.0.attention.wv"
MERGER_HF = "multi_modal_projector.patch_merger.merging_layer"
GROUP = "quantization_config.config_groups.group_0"
WEIGHTS = f"{GROUP}.weights"
NATIVE_WEIGHTS = "quantization.config_groups.group_0.weights"
CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
SCALES = [f"language_model.model.layers.{n}.self_attn.{k}_scale" for n in range(4) for k in "kv"]

MIXED = both(
    unquantize(HF, V_HF),
    unquantize(NATIVE, "layers.0.attention.wv"),
    ignore_too(CONFIG, "model.language_model.layers.0.self_attn.v_proj"),
    ignore_too(PARAMS, "language_model.model.layers.0.self_attn.v_proj"),
)


def quantize(name: str, module: str) -> Damage:
    """Pretend that a module is packed, with one scale a row."""

    def edit(tensors: Tensors) -> None:
        rows, columns = tensors.pop(f"{module}.weight").shape
        tensors[f"{module}.weight_packed"] = torch.zeros(rows, columns // 8, dtype=INT32)
        tensors[f"{module}.weight_scale"] = torch.ones(rows, max(columns // 128, 1), dtype=F16)
        tensors[f"{module}.weight_shape"] = torch.tensor([rows, columns])

    return edit_tensors(name, edit)


def quantize_nothing(repo: Path) -> None:
    """Say that a BF16 repo is quantized."""
    body = json.loads((W4A16 / CONFIG).read_text())["quantization_config"]
    set_field(CONFIG, "quantization_config", body)(repo)


def without_merger(repo: Path) -> None:
    """Take the patch merger off the ignore list."""
    body = json.loads((repo / CONFIG).read_text())["quantization_config"]
    left = [entry for entry in body["ignore"] if not entry.endswith(MERGER_HF)]
    set_field(CONFIG, "quantization_config.ignore", left)(repo)


def padded(tensors: Tensors) -> None:
    """The shapes of one module of three bits as compressed-tensors 0.17 packed it."""
    tensors[f"{W1}.weight_packed"] = torch.zeros(512, -(-256 // 10), dtype=INT32)
    groups = tensors[f"{W1}.weight_zero_point"].shape[1]
    tensors[f"{W1}.weight_zero_point"] = torch.zeros(-(-512 // 10), groups, dtype=INT32)


def blocks(rows: int, columns: int, name: str, config: str) -> Damage:
    """Give FP8 other blocks of scales."""

    def edit(tensors: Tensors) -> None:
        for scale in [name for name in tensors if name.endswith(".weight_scale")]:
            out, into = tensors[scale.replace("weight_scale", "weight")].shape
            tensors[scale] = torch.ones(-(-out // rows), -(-into // columns), dtype=BF16)

    place = f"{config}.config_groups.group_0.weights.block_structure"
    return both(edit_tensors(name, edit), set_field(CONFIG, place, [rows, columns]))


def native_blocks(repo: Path) -> None:
    """Blocks over halves of heads, in both layouts."""
    blocks(32, 128, HF, "quantization_config")(repo)
    structure = "quantization.config_groups.group_0.weights.block_structure"
    set_field(PARAMS, structure, [32, 128])(repo)
    blocks(32, 128, NATIVE, "quantization_config")(repo)


def scales_of_cache(tensors: Tensors) -> None:
    """Scales of the kv cache, one a layer."""
    tensors.update({name: torch.ones(1) for name in SCALES})


INT_CACHE = both(
    edit_tensors(HF, scales_of_cache),
    set_field(CONFIG, "quantization_config.kv_cache_scheme", {**CACHE, "type": "int"}),
)
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
    Defect("MMF401", "groups", put(HF, f"{UP_HF}.weight_scale", torch.ones(512, 3, dtype=F16))),
    Defect(
        "MMF401",
        "no zeros",
        drop(NATIVE, f"{WQ}.weight_zero_point"),
        "3 bits",
        seen="llm-compressor#2255",
    ),
    Defect("MMF401", "symmetry", set_field(CONFIG, f"{WEIGHTS}.symmetric", False), "hf-w4a16"),
    Defect(
        "MMF401",
        "bits",
        set_field(CONFIG, f"{WEIGHTS}.num_bits", 8),
        "hf-w4a16",
        seen="auto-round#2174",
    ),
    Defect("MMF401", "group size", set_field(CONFIG, f"{WEIGHTS}.group_size", 64), "hf-w4a16"),
    Defect("MMF401", "heads in params.json", set_field(PARAMS, "n_heads", 16)),
    Defect("MMF401", "bits in params.json", set_field(PARAMS, f"{NATIVE_WEIGHTS}.num_bits", 8)),
    Defect("MMF401", "symmetry in a dual repo", set_field(CONFIG, f"{WEIGHTS}.symmetric", False)),
    Defect("MMF401", "division", set_field(CONFIG, f"{WEIGHTS}.group_size", 96), "hf-w4a16"),
    Defect(
        "MMF401", "both", put(HF, f"{UP_HF}.weight", torch.ones(512, 256, dtype=BF16)), "hf-w4a16"
    ),
    Defect("MMF402", "undeclared", drop_field(PARAMS, "quantization"), seen="vllm#16803"),
    Defect(
        "MMF402",
        "undeclared in HF",
        drop_field(CONFIG, "quantization_config"),
        seen="vllm#16128, llm-compressor#2842",
    ),
    Defect(
        "MMF402",
        "half targeted",
        set_field(CONFIG, f"{GROUP}.targets", ["re:.*self_attn.*"]),
        "hf-w4a16",
    ),
    Defect("MMF402", "misspelled target", set_field(CONFIG, f"{GROUP}.targets", ["Liner"])),
    Defect("MMF402", "nothing quantized", quantize_nothing, "hf-bf16"),
    Defect("MMF403", "v unquantized", MIXED, seen="vllm#31623"),
    Defect(
        "MMF405", "quantized vision", quantize(NATIVE, VISION_WV), "native", seen="auto-round#1312"
    ),
    Defect("MMF405", "quantized merger", both(quantize(HF, MERGER_HF), without_merger), "hf-w4a16"),
    Defect(
        "MMF421",
        "no cache scales",
        set_field(CONFIG, "quantization_config.kv_cache_scheme", CACHE),
        "hf-w4a16",
    ),
    Defect("MMF421", "no cache scheme", edit_tensors(HF, scales_of_cache), "hf-w4a16"),
    Defect("MMF421", "integer cache", INT_CACHE, "hf-w4a16"),
    Defect(
        "MMF422",
        "scale of the HF layout",
        rename(NATIVE, f"{WQ}.qscale_weight", f"{WQ}.weight_scale_inv"),
        "fp8",
        seen="vllm#39293",
    ),
    Defect(
        "MMF422",
        "scale of compressed-tensors",
        rename(HF, f"{Q_HF}.weight_scale_inv", f"{Q_HF}.weight_scale"),
        "fp8",
    ),
    Defect(
        "MMF422",
        "scale of ModelOpt",
        rename(HF, f"{Q_HF}.weight_global_scale", f"{Q_HF}.weight_scale_2"),
        "nvfp4",
        seen="imp#1433",
    ),
    Defect("MMF423", "padded", edit_tensors(NATIVE, padded), "3 bits"),
    Defect(
        "MMF424",
        "order of activations",
        put(HF, f"{UP_HF}.weight_g_idx", torch.zeros(256, dtype=INT32)),
        "hf-w4a16",
        seen="vllm#35303",
    ),
    Defect("MMF425", "cut keys", blocks(256, 128, HF, "quantization_config"), "hf-block"),
    Defect("MMF425", "cut heads", native_blocks, "block"),
    Defect("MMF426", "cut columns", blocks(64, 96, HF, "quantization_config"), "hf-block"),
]
