"""1xx and 2xx: files, index files, headers."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.damage import Damage, edit_json, put, remove, set_field
from tests.defects.defect import Defect
from tests.repos import CONFIG, FIRST, HF, INDEX, NATIVE, PARAMS


def truncate(name: str) -> Damage:
    """Cut the last byte off a file."""
    return lambda repo: os.truncate(repo / name, (repo / name).stat().st_size - 1)


def duplicate(repo: Path) -> None:
    """Put a tensor of the second shard into the first, too, and drop the index."""
    second = load_file(repo / FIRST.replace("00001", "00002", 1))
    name, tensor = next(iter(second.items()))
    put(FIRST, name, tensor)(repo)
    (repo / INDEX).unlink()


def split_hf(repo: Path) -> None:
    """Split model.safetensors in two, without an index."""
    tensors = load_file(repo / HF)
    names = sorted(tensors)
    for number, part in enumerate((names[:50], names[50:]), start=1):
        save_file({n: tensors[n] for n in part}, repo / f"model-0000{number}-of-00002.safetensors")
    (repo / HF).unlink()
    (repo / f"{HF}.index.json").unlink()


def orphan(repo: Path) -> None:
    """Leave a shard that no index names."""
    save_file({"x": torch.ones(1)}, repo / "consolidated-extra.safetensors")


DEFECTS: list[Defect] = [
    Defect("MMF101", "no params", remove(PARAMS)),
    Defect("MMF101", "no tekken", remove("tekken.json")),
    Defect("MMF101", "no weights", remove(NATIVE)),
    Defect("MMF102", "no processor", remove("processor_config.json")),
    Defect("MMF102", "no config", remove(CONFIG)),
    Defect("MMF108", "no index", split_hf),
    Defect("MMF201", "truncated", truncate(NATIVE)),
    Defect("MMF201", "truncated in HF", truncate(HF)),
    Defect("MMF103", "missing", remove(FIRST), repo="sharded"),
    Defect(
        "MMF103",
        "outside",
        edit_json(INDEX, lambda b: b["weight_map"].update({"x": "../x"})),
        repo="sharded",
    ),
    Defect(
        "MMF104",
        "not listed",
        edit_json(INDEX, lambda b: b["weight_map"].pop("norm.weight")),
        repo="sharded",
    ),
    Defect("MMF105", "size", set_field(INDEX, "metadata.total_size", 1), repo="sharded"),
    Defect("MMF106", "orphan", orphan, repo="sharded"),
    Defect("MMF107", "duplicate", duplicate, repo="sharded"),
    Defect("MMF102", "no tokenizer", remove("tokenizer.json"), repo="hf-w4a16"),
]
