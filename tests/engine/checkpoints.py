"""Quantized checkpoints made without an engine, and consolidated sets broken on purpose."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

FORMATS = {
    "W4A16_ASYM": "pack-quantized",
    "W8A8": "int-quantized",
    "FP8_DYNAMIC": "float-quantized",
    "FP8_BLOCK": "float-quantized",
    "MXFP8": "mxfp8-quantized",
    "NVFP4": "nvfp4-pack-quantized",
    "NVFP4A16": "nvfp4-pack-quantized",
    "W3A16_ASYM": "pack-quantized",
}
# Layers that the engine makes one of: NVFP4 has one global scale for all their weights.
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj"),
}


def scheme_of(preset: str) -> QuantizationScheme:
    """Give compressed-tensors' own scheme of this name, with its file format."""
    scheme = preset_name_to_scheme(preset.replace("W3", "W4"), ["Linear"])
    if preset.startswith("W3"):  # it has none of 3 bits
        scheme.weights.num_bits, scheme.weights.group_size = 3, 32
    scheme.format = FORMATS[preset]
    return scheme


def is_quantized(name: str) -> bool:
    """Tell the weights of the language model's linear layers from the rest."""
    return name.startswith("language_model.") and name.endswith("_proj.weight")


def ignored(tensors: Tensors) -> list[str]:
    """Name the other linear layers as transformers 5 calls the modules, not as the file does."""
    outside = ("vision_tower.", "multi_modal_projector.")
    names = [name for name in tensors if name.startswith(outside) and tensors[name].ndim == 2]
    return [f"model.{name.removesuffix('.weight')}" for name in names] + ["lm_head"]


def groups_of(weight: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """Bring the values that share a scale into the last dimension."""
    if args.strategy != "block":
        return weight.unflatten(1, (-1, args.group_size or weight.shape[1]))
    rows, columns = args.block_structure
    blocks = weight.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    return blocks.transpose(1, 2).flatten(2)


def scale_and_zero(weight: torch.Tensor, args: QuantizationArgs, shared: Tensors) -> Tensors:
    """Derive scale and zero point from the least and greatest value of each group or row."""
    groups = groups_of(weight, args)
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args, **shared)
    return {"weight_scale": scale, "weight_zero_point": zero_point}


def compress(
    name: str, weight: torch.Tensor, scheme: QuantizationScheme, shared: Tensors
) -> Tensors:
    """Give what compressed-tensors writes in place of one weight."""
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    module = {"weight": weight, **scale_and_zero(weight, scheme.weights, shared)}
    module |= {f"weight_{suffix}": scale.clone() for suffix, scale in shared.items()}
    parts = compressor.compress(module, scheme)
    if scheme.input_activations and scheme.input_activations.dynamic == "local":
        # In place of calibration: inputs go up to 200, weights to 0.4. No two layers alike.
        parts["input_global_scale"] = shared["global_scale"] / 1024
    prefix = name.removesuffix("weight")
    return {prefix + suffix: part.contiguous() for suffix, part in parts.items()}


def fused(name: str) -> str:
    """Name the engine's layer that a weight becomes a part of."""
    layer, module, _ = name.rsplit(".", 2)
    return f"{layer}.{FUSED.get(module, module)}"


def shared_scales(tensors: Tensors, scheme: QuantizationScheme) -> dict[str, Tensors]:
    """Give the global scale of each of the engine's layers, where the scheme has one."""
    if scheme.weights.strategy != "tensor_group":
        return {}
    layers: dict[str, list[torch.Tensor]] = {}
    for name in filter(is_quantized, tensors):
        layers.setdefault(fused(name), []).append(tensors[name].float().abs().max())
    return {
        layer: {"global_scale": generate_gparam(-max(greatest), max(greatest))}
        for layer, greatest in layers.items()
    }


def quantize(tensors: Tensors, scheme: QuantizationScheme) -> Tensors:
    """Round the language model's linear layers to the nearest value, keep everything else."""
    result: Tensors = {}
    scales = shared_scales(tensors, scheme)
    for name, tensor in tensors.items():
        if is_quantized(name):
            result |= compress(name, tensor, scheme, scales.get(fused(name), {}))
        else:
            result[name] = tensor
    return result


def edit_json(path: Path, edit: Callable[[dict[str, object]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=2))


def make(source: Path, preset: str, target: Path) -> None:
    """Write a quantized copy of a BF16 checkpoint in the Hugging Face layout."""
    shutil.copytree(source, target)
    tensors, scheme = load_file(source / "model.safetensors"), scheme_of(preset)
    save_file(quantize(tensors, scheme), target / "model.safetensors", {"format": "pt"})
    body = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=FORMATS[preset],
        ignore=ignored(tensors),
        quantization_status="compressed",
    ).model_dump(mode="json")
    edit_json(target / "config.json", lambda config: config.update(quantization_config=body))


def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put rows that stand pair by pair into Hugging Face order: first halves, second halves."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def swap_vision_rows(repo: Path) -> None:
    """Leave vision wq and wk in Hugging Face row order, as a forgetful converter would."""
    heads = json.loads((repo / "params.json").read_text())["vision_encoder"]["num_attention_heads"]
    for file in repo.glob("consolidated*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name.startswith("vision_encoder.") and name.endswith(("wq.weight", "wk.weight")):
                tensors[name] = halves(tensors[name], heads)
        save_file(tensors, file, {"format": "pt"})


def flip_apply_scale(repo: Path) -> None:
    """Turn YaRN's attention factor off where it is on, and on where it is off."""

    def flip(params: dict[str, object]) -> None:
        yarn = params["yarn"]
        assert isinstance(yarn, dict)
        yarn["apply_scale"] = not yarn.get("apply_scale", True)

    edit_json(repo / "params.json", flip)
