"""7xx: values, and the two layouts against each other."""

import shutil
from functools import partial
from pathlib import Path

import torch

from tests.damage import Damage, Tensors, edit_tensors
from tests.defects.defect import Defect
from tests.repos import HF, NATIVE, PARAMS, convert, good_repo

LAYER = "language_model.model.layers.1"
WQ = "layers.0.attention.wq"


def change(name: str, tensor: str, index: tuple[int, ...], value: float) -> Damage:
    """Set one value of a tensor."""

    def edit(tensors: Tensors) -> None:
        tensors[tensor][index] = value

    return edit_tensors(name, edit)


def fill(name: str, tensor: str, value: int) -> Damage:
    """Make all words of a tensor alike."""
    return edit_tensors(name, lambda tensors: tensors[tensor].fill_(value))


def shuffle_rows(tensors: Tensors, tensor: str) -> None:
    """Swap two rows."""
    tensors[tensor][[0, 1]] = tensors[tensor][[1, 0]]


def base_model_beside(repo: Path) -> None:
    """Put the consolidated set of the model before quantization in the place of the other."""
    base = good_repo("bf16")
    for name in (NATIVE, PARAMS):
        shutil.copy(base / name, repo / name)


def reordered(repo: Path) -> None:
    """Order the rows of packed Q and K for another reader, but say that vLLM is meant."""
    convert(repo, "--force", "--reader", "native")
    edit_tensors(NATIVE, len, {"format": "pt", "mmfmt.reader": "vllm"})(repo)


def other_rows(tensors: Tensors, heads: int, name: str) -> None:
    """Bring the rows of every tensor of a HF module, packed or not, into Mistral's order."""
    for tensor in (t for t in tensors if name in t and not t.endswith("weight_shape")):
        found = tensors[tensor]
        halves = found.reshape(heads, 2, -1, *found.shape[1:])
        tensors[tensor] = halves.transpose(1, 2).reshape(found.shape).contiguous()


def random_rows(tensors: Tensors) -> None:
    """Weights of Q and K as before any training."""
    generator = torch.Generator().manual_seed(1)
    for name in (t for t in tensors if ".q_proj.weight" in t or ".k_proj.weight" in t):
        values = torch.randn(tensors[name].shape, generator=generator)
        tensors[name] = values.to(tensors[name].dtype)


def wrong_rows(name: str, heads: int) -> Damage:
    """Planted in model.safetensors."""
    return edit_tensors(HF, lambda tensors: other_rows(tensors, heads, name))


def alone(repo: Path) -> None:
    """Leave the consolidated set only, with packed rows of another reader than it says."""
    reordered(repo)
    for path in repo.iterdir():
        if path.name not in (NATIVE, PARAMS, "tekken.json", "README.md"):
            path.unlink()


def other_global_scale(repo: Path) -> None:
    """Halve the global scale of one Q, in both layouts."""
    name = f"{LAYER}.self_attn.q_proj.weight_global_scale"
    edit_tensors(HF, lambda tensors: tensors[name].mul_(0.5))(repo)
    convert(repo, "--force")


VALUES = partial(Defect, level="bytes")
HF_ONLY = partial(VALUES, repo="hf-w4a16")

DEFECTS: list[Defect] = [
    Defect("MMF701", "base model beside", base_model_beside),
    VALUES("MMF702", "one value", change(NATIVE, "norm.weight", (0,), 1.5)),
    VALUES(
        "MMF702",
        "two rows",
        edit_tensors(NATIVE, lambda t: shuffle_rows(t, f"{WQ}.weight_packed")),
        seen="V03",
    ),
    VALUES("MMF702", "rows of another reader", reordered),
    HF_ONLY("MMF703", "NaN", change(HF, f"{LAYER}.input_layernorm.weight", (3,), torch.nan)),
    HF_ONLY("MMF703", "scale", change(HF, f"{LAYER}.mlp.up_proj.weight_scale", (3, 0), torch.inf)),
    HF_ONLY("MMF704", "zero", change(HF, f"{LAYER}.mlp.up_proj.weight_scale", (3, 0), 0)),
    HF_ONLY("MMF705", "zeros", fill(HF, f"{LAYER}.mlp.up_proj.weight_packed", 0)),
    HF_ONLY("MMF706", "shape", change(HF, f"{LAYER}.mlp.up_proj.weight_shape", (0,), 7)),
    HF_ONLY("MMF707", "packed Q", wrong_rows("self_attn.q_proj", 8), seen="rows of one layout"),
    HF_ONLY("MMF707", "vision K", wrong_rows("attention.k_proj", 4)),
    VALUES("MMF707", "packed rows, consolidated only", alone, seen="wq/wk rows"),
    VALUES("MMF707", "BF16 K", wrong_rows("self_attn.k_proj", 2), repo="hf-bf16"),
    VALUES("MMF708", "random weights", edit_tensors(HF, random_rows), repo="hf-bf16"),
    VALUES("MMF709", "one scale of three", other_global_scale, repo="nvfp4"),
]
