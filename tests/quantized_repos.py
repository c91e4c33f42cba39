"""Good repos in other schemes than the example's, quantized by compressed-tensors here."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests import builders, test_schemes
from tests.damage import Tensors, both, edit_tensors, set_field

Quantize = Callable[[torch.Tensor], Tensors]

BF16 = builders.BF16
HF, CONFIG, MODELOPT = "model.safetensors", "config.json", "hf_quant_config.json"
VISION = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
# no weight of the example is larger; modules that loaders fuse have one global scale
LARGEST = 8.0


def quantized(folder: Path, quantize: Quantize, section: dict[str, Any]) -> None:
    """The HF layout of the BF16 example, its text projections quantized."""

    def edit(tensors: Tensors) -> None:
        for name in [n for n in tensors if builders.is_text_linear(n)]:
            module, weight = name.removesuffix(".weight"), tensors.pop(name)
            found = quantize(weight)
            tensors.update({f"{module}.{s}": t.contiguous().clone() for s, t in found.items()})

    shutil.copytree(BF16, folder)
    shutil.copy(builders.W4A16 / "README.md", folder)
    both(edit_tensors(HF, edit), set_field(CONFIG, "quantization_config", section))(folder)


def compressed(folder: Path, how: Any) -> None:
    """A scheme of compressed-tensors."""
    section = builders.quantization_config({"": how}, [])
    quantized(folder, partial(test_schemes.compressed, scheme=how, largest=LARGEST), section)


def block(folder: Path) -> None:
    """FP8 with a scale for 64 x 128 values: a head of rows."""
    how = test_schemes.scheme("FP8 block")
    how.weights = test_schemes.args(8, "float", "block", block_structure=[64, 128])
    how.input_activations = test_schemes.args(8, "float", "group", group_size=128, dynamic=True)
    compressed(folder, how)


def three_bits(folder: Path) -> None:
    """Integers of three bits, packed across words."""
    compressed(folder, test_schemes.scheme("W3"))


def nvfp4(folder: Path) -> None:
    """NVFP4."""
    compressed(folder, test_schemes.scheme("NVFP4A16"))


def two_groups(folder: Path) -> None:
    """Attention in one group, feed-forward in another, by expressions."""
    compressed(folder, test_schemes.scheme("W4"))
    body = json.loads((folder / CONFIG).read_text())["quantization_config"]
    (group,) = body["config_groups"].values()
    targets = {"group_0": ["re:.*self_attn.*"], "group_1": ["re:.*mlp.*"]}
    groups = {name: {**group, "targets": targets[name]} for name in targets}
    set_field(CONFIG, "quantization_config.config_groups", groups)(folder)


def fp8(folder: Path) -> None:
    """Static FP8 as Mistral releases it."""
    section = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    quantized(folder, test_schemes.fp8, {**section, "modules_to_not_convert": VISION})


def awq(folder: Path) -> None:
    """AWQ, groups of 32."""
    section = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
    # whole names for transformers, parts of names for vLLM
    names = [*VISION, "vision_tower", "multi_modal_projector"]
    quantized(folder, test_schemes.awq, {**section, "modules_to_not_convert": names})


def auto_round(folder: Path) -> None:
    """GPTQ's tensors in AutoRound's own format, as its exports name the blocks."""
    section = {**test_schemes.METHODS["auto-round"][1], "iters": 0, "autoround_version": "0.16.1"}
    blocks = {"block_name_to_quantize": "model.language_model.layers"}
    quantized(folder, partial(test_schemes.gptq, bits=4), section | blocks)


def modelopt(folder: Path) -> None:
    """NVFP4 of ModelOpt, which says so twice."""

    def quantize(weight: torch.Tensor) -> Tensors:
        found = test_schemes.compressed(weight, test_schemes.scheme("NVFP4"), LARGEST)
        scale = (1 / found["weight_global_scale"]).reshape(())
        own = {"weight_scale_2": scale, "input_scale": torch.tensor(0.0071)}
        return {"weight": found["weight_packed"], "weight_scale": found["weight_scale"], **own}

    said = {"quant_algo": "NVFP4", "group_size": 16}
    ignored = [f"{name}*" for name in VISION]
    quantized(folder, quantize, {"quant_method": "modelopt", **said, "ignore": ignored})
    body = {"producer": {"name": "modelopt"}, "quantization": {**said, "exclude_modules": ignored}}
    (folder / MODELOPT).write_text(json.dumps(body))


def text_only(folder: Path) -> None:
    """A text model already saved here, in four bits."""
    how = builders.scheme("pack-quantized", 4)
    shutil.copy(builders.W4A16 / "README.md", folder)
    builders.quantize_repo(folder, how, ["lm_head"])
