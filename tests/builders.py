"""Hugging Face checkpoints for tests, made by the libraries that users make theirs with.

Models are built and saved by transformers, quantized by compressed-tensors, and written by
safetensors: nothing of mmfmt is used here.
"""

import copy
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmfmt.header import Entry

Tensors = dict[str, torch.Tensor]

ROOT = Path(__file__).parent.parent
W4A16 = ROOT / "examples" / "tinystral-w4a16"
BF16 = ROOT / "tests" / "data" / "tinystral-bf16"
TEKKEN = ROOT / "examples" / "tinystral-base" / "tekken.json"
PUBLISHED = ROOT / "tests" / "data" / "published"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

MULTIMODAL = ("mistral3", "llava")
KINDS = ("mistral", "ministral3", *MULTIMODAL)
# with experts, latent attention, audio
OTHER_KINDS = ("mixtral", "mistral4", "mistral3 with mistral4", "voxtral", "voxtral_realtime")

# prefixes of text, head, tower and projector, generation by generation
PREFIXES = {
    "text": ("model.", "lm_head."),
    "legacy": (
        "language_model.model.",
        "language_model.lm_head.",
        "vision_tower.",
        "audio_tower.",
        "multi_modal_projector.",
    ),
    "new": (
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.",
        "model.audio_tower.",
        "model.multi_modal_projector.",
    ),
}


@dataclass(frozen=True)
class Geometry:
    """Sizes of a tiny model; the defaults have heads that do not fill the hidden size."""

    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    ff: int = 96
    layers: int = 2
    vocab: int = 64
    vision_hidden: int = 32
    vision_heads: int = 2
    vision_layers: int = 1
    # of latent attention
    kv_rank: int = 32
    plain_dim: int = 16
    rotary_dim: int = 32
    value_dim: int = 16

    def text(self) -> dict[str, Any]:
        """The text half as arguments of transformers' config classes."""
        return {
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ff,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocab,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
        }

    def vision(self) -> dict[str, Any]:
        """The vision half, likewise."""
        return {
            "model_type": "pixtral",
            "hidden_size": self.vision_hidden,
            "num_attention_heads": self.vision_heads,
            "intermediate_size": 48,
            "num_hidden_layers": self.vision_layers,
            "image_size": 56,
            "patch_size": 14,
            "hidden_act": "silu",
        }


TINY = Geometry()


def model_config(kind: str, geometry: Geometry = TINY, **extra: Any) -> Any:
    """transformers' config object of a tiny model of a model_type."""
    text = geometry.text()
    if kind == "mistral":
        return transformers.MistralConfig(**text, **extra)
    if kind == "ministral3":
        return transformers.Ministral3Config(**text, **extra)
    if kind == "mixtral":
        return transformers.MixtralConfig(**text, num_local_experts=3, **extra)
    if kind == "mistral4":
        return transformers.Mistral4Config(**latent(geometry), **extra)
    if kind in ("voxtral", "voxtral_realtime"):
        return audio_config(kind, geometry, **extra)
    sections = {"vision_config": geometry.vision(), "image_token_index": 10}
    extra = {"tie_word_embeddings": False, **extra}
    if kind.startswith("mistral3"):
        text_config = {"model_type": "ministral3", **text}
        if kind != "mistral3":
            text_config = {"model_type": "mistral4", **latent(geometry)}
        return transformers.Mistral3Config(text_config=text_config, **sections, **extra)
    llava = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    text_config = {"model_type": "mistral", **text}
    return transformers.LlavaConfig(text_config=text_config, **sections, **llava, **extra)


def latent(geometry: Geometry) -> dict[str, Any]:
    """The text half with latent attention and experts: a dense layer, then routed ones."""
    text = geometry.text()
    del text["head_dim"], text["rms_norm_eps"]
    return {
        **text,
        "num_key_value_heads": geometry.heads,
        "moe_intermediate_size": 64,
        "n_routed_experts": 3,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": geometry.kv_rank,
        "qk_nope_head_dim": geometry.plain_dim,
        "qk_rope_head_dim": geometry.rotary_dim,
        "v_head_dim": geometry.value_dim,
    }


def audio_config(kind: str, geometry: Geometry, **extra: Any) -> Any:
    """A Voxtral config, offline or realtime; the adapter takes four frames at once."""
    audio = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_mel_bins": 8,
    }
    if kind == "voxtral":
        text = {"model_type": "llama", **geometry.text()}
        audio["max_source_positions"] = 20
        return transformers.VoxtralConfig(
            text_config=text, audio_config=audio, audio_token_id=24, **extra
        )
    audio["head_dim"] = 16
    text = {**geometry.text(), "sliding_window": 64}
    return transformers.VoxtralRealtimeConfig(text_config=text, audio_config=audio, **extra)


def build_model(config: Any) -> Any:
    """The transformers model of a config object (on the device of the caller's context)."""
    classes = {
        "mistral": transformers.MistralForCausalLM,
        "ministral3": transformers.Ministral3ForCausalLM,
        "mistral3": transformers.Mistral3ForConditionalGeneration,
        "llava": transformers.LlavaForConditionalGeneration,
        "mixtral": transformers.MixtralForCausalLM,
        "mistral4": transformers.Mistral4ForCausalLM,
        "voxtral": transformers.VoxtralForConditionalGeneration,
        "voxtral_realtime": transformers.VoxtralRealtimeForConditionalGeneration,
    }
    return classes[config.model_type](config)


def save_model(
    folder: Path,
    kind: str,
    geometry: Geometry = TINY,
    max_shard_size: str = "5GB",
    **extra: Any,
) -> Path:
    """A tiny random BF16 model saved by transformers, with a tekken.json beside it."""
    torch.manual_seed(0)
    model = build_model(model_config(kind, geometry, **extra)).to(torch.bfloat16)
    for parameter in model.parameters():
        # no two rows alike, and row means away from 0 so that zero points differ
        rows = torch.randn(parameter.shape[0], *[1] * (parameter.ndim - 1))
        parameter.data = (torch.randn(parameter.shape) + rows).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    shutil.copy(TEKKEN, folder / "tekken.json")
    return folder


def copy_repo(source: Path, folder: Path) -> Path:
    """A copy of a HF repo, with the tiny tekken.json if it has none of its own."""
    shutil.copytree(source, folder)
    if not (folder / "tekken.json").exists():
        shutil.copy(TEKKEN, folder / "tekken.json")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """A JSON object to a file."""
    path.write_text(json.dumps(body, indent=2), encoding="utf-8")


def rewrite(path: Path, content: bytes) -> None:
    """Write a file anew: ext4 flushes one that is written over to its disk at once."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def edit_config(folder: Path, **changes: Any) -> None:
    """Set top-level keys of a repo's config.json; `None` writes null."""
    write_json(folder / CONFIG, {**read_json(folder / CONFIG), **changes})


def load_set(folder: Path, stem: str = "model") -> Tensors:
    """Every tensor of a weight set, read by safetensors."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return dict(load_file(folder / f"{stem}.safetensors"))
    tensors: Tensors = {}
    for shard in sorted(set(read_json(index)["weight_map"].values())):
        tensors |= load_file(folder / shard)
    return tensors


def save_set(folder: Path, shards: Iterable[Tensors], stem: str = "model") -> None:
    """A weight set written by safetensors: one file, or several with an index."""
    groups = list(shards)
    if len(groups) == 1:
        save_file(groups[0], folder / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file(group, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, name)
    total = sum(t.numel() * t.element_size() for group in groups for t in group.values())
    body = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / f"{stem}.safetensors.index.json", body)


def edit_tensors(folder: Path, changes: Mapping[str, torch.Tensor | None]) -> None:
    """Replace, add or (with None) remove tensors of a repo's model.safetensors."""
    tensors = {**load_set(folder), **changes}
    save_set(folder, [{name: t for name, t in tensors.items() if t is not None}])


def rename_generation(folder: Path, old: str, new: str) -> None:
    """Give the tensors of model.safetensors other prefixes; not one byte of data moves."""
    path = folder / WEIGHTS
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    path.write_bytes(
        encode({renamed(name, old, new): entry for name, entry in header.items()})
        + raw[8 + length :]
    )


def encode(header: Mapping[str, Any]) -> bytes:
    """Length field and JSON of a safetensors header, whatever it says."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def renamed(name: str, old: str, new: str) -> str:
    """A tensor name of one prefix generation as another has it."""
    for before, after in zip(PREFIXES[old], PREFIXES[new], strict=False):
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def scheme(
    format_name: str,
    bits: int = 8,
    strategy: str = "channel",
    symmetric: bool = True,
    group_size: int | None = None,
) -> Any:
    """A compressed-tensors scheme for all Linear modules (activations per token if W8A8)."""
    kind = "float" if format_name == "float-quantized" else "int"
    weights = QuantizationArgs(
        num_bits=bits, type=kind, strategy=strategy, symmetric=symmetric, group_size=group_size
    )
    inputs = QuantizationArgs(num_bits=8, type=kind, strategy="token", dynamic=True)
    return QuantizationScheme(
        targets=["Linear"],
        weights=weights,
        input_activations=None if format_name == "pack-quantized" else inputs,
        format=format_name,
    )


def compressor(scheme: Any) -> Any:
    """compressed-tensors' own compressor of a scheme."""
    return BaseCompressor.get_value_from_registry(scheme.format)


def is_text_linear(name: str) -> bool:
    """Whether a HF tensor is the weight of a linear module of the language model."""
    outside = ("vision_tower", "multi_modal_projector", "lm_head")
    return name.endswith("_proj.weight") and not any(part in name for part in outside)


def quantize_module(weight: torch.Tensor, scheme: Any) -> Tensors:
    """The parameters of one compressed linear module, by suffix."""
    args = scheme.weights
    groups = weight.flatten() if args.strategy == "tensor" else weight
    if args.strategy == "group":
        groups = weight.unflatten(1, (-1, args.group_size))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    if args.strategy != "group":
        column = (1,) if args.strategy == "tensor" else (-1, 1)
        scale, zero_point = scale.reshape(column), zero_point.reshape(column)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
    compressed = compressor(scheme).compress(state, scheme)
    return {suffix: tensor.contiguous() for suffix, tensor in compressed.items()}


def quantize_repo(folder: Path, schemes: Any, ignore: Iterable[str] = ()) -> Path:
    """Quantize the language model of a repo in place; `schemes` one scheme or {regex: scheme}.

    Modules that no regex of several schemes targets stay as they are.
    """
    groups = schemes if isinstance(schemes, dict) else {"": schemes}
    tensors: Tensors = {}
    for name, tensor in load_set(folder).items():
        chosen = next((s for part, s in groups.items() if part in name), None)
        if chosen is None or not is_text_linear(name):
            tensors[name] = tensor
            continue
        module = name.removesuffix(".weight")
        for suffix, value in quantize_module(tensor, chosen).items():
            tensors[f"{module}.{suffix}"] = value
    save_set(folder, [tensors])
    edit_config(folder, quantization_config=quantization_config(groups, ignore))
    return folder


def quantization_config(groups: Mapping[str, Any], ignore: Iterable[str]) -> dict[str, Any]:
    """The section that compressed-tensors writes for schemes by the name part they target."""
    targeted = {}
    for number, (part, group) in enumerate(groups.items()):
        group = copy.deepcopy(group)
        group.targets = [f"re:.*{part}.*"] if part else ["Linear"]
        targeted[f"group_{number}"] = group
    formats = {group.format for group in groups.values()}
    config = QuantizationConfig(
        config_groups=targeted,
        format=formats.pop() if len(formats) == 1 else "mixed-precision",
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=list(ignore) or ["lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"],
    )
    body: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return body


def to_hf_rows(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Native to HF row order, as transformers' Mistral weight converters do it."""
    moved = tensor.view(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return moved.transpose(1, 2).reshape(tensor.shape)


def bits_of(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """Everything that two tensors must have in common to be the same bit for bit."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), flat.numpy().tobytes()


def file_metadata(path: Path) -> dict[str, str]:
    """`__metadata__` of a safetensors file, read by safetensors."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def packed_zero_points(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Zero points as compressed-tensors stores them: packed along dim 0."""
    return pack_to_int32(values, bits, packed_dim=0).contiguous()


def entry(dtype: str, shape: tuple[int, ...]) -> Entry:
    """A header entry at the start of a file, two bytes an element."""
    return Entry(dtype, shape, 0, 2 * prod(shape))
