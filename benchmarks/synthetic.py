"""Synthetic W4A16 checkpoints in the HF layout, of any size: real names and shapes, no weights."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfmt.checkpoint import expected_modules
from mmfmt.configs import open_config, to_params
from mmfmt.convert.plan import Plan
from mmfmt.header import Entry, Header, encode_header, nbytes
from mmfmt.layout import family, flatten
from mmfmt.naming import naming
from mmfmt.quantization import parse_quantization

Tensor = tuple[str, str, tuple[int, ...]]

WEIGHTS = {
    **{"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128},
    "dynamic": False,
}
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}},
    "ignore": ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "lm_head"],
}
# Mistral-Medium-3.5-128B
MEDIUM_TEXT = {
    **{"hidden_size": 12288, "num_hidden_layers": 88, "num_attention_heads": 96},
    **{"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 28672},
    **{"vocab_size": 131072, "max_position_embeddings": 262144},
}
MEDIUM_VISION = {
    **{"hidden_size": 1664, "num_hidden_layers": 48, "num_attention_heads": 16},
    **{"intermediate_size": 8192, "image_size": 1540, "patch_size": 14, "num_channels": 3},
}
# of which a layer is 200 MB in W4A16, and 30 MB
LARGE_TEXT = {
    **{"hidden_size": 5120, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    **{"intermediate_size": 20480, "vocab_size": 32768, "max_position_embeddings": 32768},
}
SMALL_TEXT = LARGE_TEXT | {
    **{"hidden_size": 2048, "num_attention_heads": 16, "intermediate_size": 8192},
    "vocab_size": 8192,
}
LARGE_VISION = MEDIUM_VISION | {"num_hidden_layers": 4}
SMALL_VISION = LARGE_VISION | {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2},
}
TOKENIZER = Path("examples/tinystral-base/tekken.json")


def make(source: Path, gigabytes: float) -> Path:
    """A W4A16 repo of about this size, with random bytes for weights."""
    shard_bytes = round(min(1e9, gigabytes * 1e9 / 4))
    write_repo(source, sized(gigabytes), shard_bytes, fill=os.urandom(1 << 24))
    return _completed(source)


def make_medium(source: Path) -> Path:
    """Mistral-Medium-3.5-128B in W4A16 as its 75 GB would lie on a disk, in sparse files."""
    write_repo(source, config(MEDIUM_TEXT, MEDIUM_VISION), shard_bytes=5_000_000_000)
    return _completed(source)


def _completed(source: Path) -> Path:
    """With a tokenizer; prints what the repo has become."""
    shutil.copy(TOKENIZER, source)
    size = sum(path.stat().st_size for path in source.iterdir())
    print(f"{size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} shards", flush=True)
    return source


def sized(gigabytes: float) -> dict[str, Any]:
    """config.json of a W4A16 model of about this size, by its number of layers."""
    text, vision = (LARGE_TEXT, LARGE_VISION) if gigabytes > 2 else (SMALL_TEXT, SMALL_VISION)
    one, two = (_bytes(config(text | {"num_hidden_layers": n}, vision)) for n in (1, 2))
    layers = 1 + max(0, round((gigabytes * 1e9 - one) / (two - one)))
    return config(text | {"num_hidden_layers": layers}, vision)


def _bytes(body: dict[str, Any]) -> int:
    return sum(nbytes(dtype, shape) or 0 for _, dtype, shape in tensors(body))


def config(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """config.json of a W4A16 Mistral3 model with these dimensions."""
    common = {"rms_norm_eps": 1e-5, "sliding_window": None, "tie_word_embeddings": False}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    tower = {"model_type": "pixtral", "hidden_act": "silu", "rope_theta": 10000.0}
    return {
        "architectures": ["Mistral3ForConditionalGeneration"],
        **{"model_type": "mistral3", "dtype": "bfloat16", "image_token_index": 10},
        **{"spatial_merge_size": 2, "multimodal_projector_bias": False},
        "tie_word_embeddings": False,
        "text_config": {"model_type": "ministral3", **common, "rope_parameters": rope, **text},
        "vision_config": {**tower, **vision},
        "quantization_config": QUANTIZATION,
    }


def tensors(body: dict[str, Any]) -> Iterator[Tensor]:
    """(name, dtype, shape) of every tensor of a W4A16 checkpoint, module by module."""
    symbols = flatten(to_params(open_config(body), has_output=True))
    names = naming(family("pixtral"), "hf", "new")
    quantization = parse_quantization(body["quantization_config"], "config.json", names.family)
    assert quantization
    scheme = quantization.schemes[0]
    for row, slots in expected_modules(names, symbols):
        if not row.required:
            continue
        module, shape = names.module(row, slots), row.weight_shape(symbols)
        if row.kind != "linear" or row.unquantized:
            yield f"{module}.weight", "BF16", shape
            continue
        for suffix, (dtypes, stored) in scheme.expected(shape).items():
            yield f"{module}.{suffix}", dtypes[0], stored


def write_repo(folder: Path, body: dict[str, Any], shard_bytes: int, fill: bytes = b"") -> None:
    """A repo of shards with an index; sparse files unless `fill` gives bytes to repeat."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_split(tensors(body), shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shard, fill)
        weight_map |= dict.fromkeys((tensor[0] for tensor in shard), name)
    (folder / "config.json").write_text(json.dumps(body, indent=2))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_sparse(plan: Plan) -> None:
    """What a plan would write, with holes in the place of the data."""
    folder = Path(plan.target)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in plan.shards:
        _write_shard(
            folder / shard.name,
            [(tensor.name, tensor.dtype, tensor.shape) for tensor in shard.tensors],
            b"",
            {"format": "pt", **dict(shard.metadata)},
        )
    for name, text in plan.texts:
        (folder / name).write_text(text)
    for name, source in plan.copies:
        shutil.copy(source, folder / name)


def _split(found: Iterator[Tensor], limit: int) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    size = 0
    for name, dtype, shape in found:
        length = nbytes(dtype, shape) or 0
        if shard and size + length > limit:
            yield shard
            shard, size = [], 0
        shard.append((name, dtype, shape))
        size += length
    yield shard


def _write_shard(
    path: Path, shard: list[Tensor], fill: bytes, metadata: dict[str, str] | None = None
) -> None:
    entries: dict[str, Entry] = {}
    end = 0
    for name, dtype, shape in shard:
        start, end = end, end + (nbytes(dtype, shape) or 0)
        entries[name] = Entry(dtype, shape, start, end)
    with path.open("wb") as file:
        file.write(encode_header(Header(entries, metadata or {"format": "pt"})))
        data_start = file.tell()
        for offset in range(0, end if fill else 0, len(fill) or 1):
            file.write(fill[: end - offset])
        file.truncate(data_start + end)
        os.fsync(file.fileno())
