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
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

FORMATS = {
    "W4A16_ASYM": "pack-quantized",
    "W8A8": "int-quantized",
    "FP8_DYNAMIC": "float-quantized",
}


def scheme_of(preset: str) -> QuantizationScheme:
    """Give compressed-tensors' own scheme of this name, with its file format."""
    scheme = preset_name_to_scheme(preset, ["Linear"])
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


def scale_and_zero(weight: torch.Tensor, args: QuantizationArgs) -> Tensors:
    """Derive scale and zero point from the least and greatest value of each group or row."""
    groups = weight.unflatten(1, (-1, args.group_size or weight.shape[1]))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    return {"weight_scale": scale, "weight_zero_point": zero_point}


def compress(name: str, weight: torch.Tensor, scheme: QuantizationScheme) -> Tensors:
    """Give what compressed-tensors writes in place of one weight."""
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    module = {"weight": weight, **scale_and_zero(weight, scheme.weights)}
    prefix = name.removesuffix("weight")
    parts = compressor.compress(module, scheme).items()
    return {prefix + suffix: part.contiguous() for suffix, part in parts}


def quantize(tensors: Tensors, scheme: QuantizationScheme) -> Tensors:
    """Round the language model's linear layers to the nearest value, keep everything else."""
    result: Tensors = {}
    for name, tensor in tensors.items():
        result |= compress(name, tensor, scheme) if is_quantized(name) else {name: tensor}
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
