"""1xx and 2xx: files, index files, headers."""

import json
import os
import re
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.damage import (
    Damage,
    both,
    copy,
    drop_field,
    edit_json,
    edit_tensors,
    put,
    remove,
    set_field,
    write,
)
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
        shard = repo / f"model-0000{number}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, shard, {"format": "pt"})
    (repo / HF).unlink()
    (repo / f"{HF}.index.json").unlink()


def orphan(repo: Path) -> None:
    """Leave a shard that no index names."""
    save_file({"x": torch.ones(1)}, repo / "consolidated-extra.safetensors")


def rename_shards(repo: Path) -> None:
    """Count five shards where there are four, in the index too."""
    index = (repo / INDEX).read_text()
    (repo / INDEX).write_text(index.replace("-of-00004", "-of-00005"))
    for path in repo.glob("consolidated-*-of-00004.safetensors"):
        path.rename(path.with_name(path.name.replace("-of-00004", "-of-00005")))


def two_counts(repo: Path) -> None:
    """Number one shard of another count than the others, without an index."""
    (repo / INDEX).unlink()
    (repo / FIRST).rename(repo / FIRST.replace("-of-00004", "-of-00003"))


def empty_shard(repo: Path) -> None:
    """Leave a shard without tensors, which no index names because there is none."""
    (repo / INDEX).unlink()
    save_file({}, repo / "consolidated-extra.safetensors", {"mmfmt.reader": "vllm"})


def old_sharding(repo: Path) -> None:
    """Leave a single model.safetensors, which transformers takes first, beside a new sharding."""
    tensors = load_file(repo / HF)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:50], names[50:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, repo / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    total = sum(tensor.nbytes for tensor in tensors.values())
    body = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (repo / f"{HF}.index.json").write_text(json.dumps(body))


def sums(repo: Path) -> None:
    """Write SHA256SUMS with coreutils."""
    names = sorted(path.name for path in repo.iterdir())
    command = ["sha256sum", "--", *names]
    made = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    (repo / SUMS).write_text(f"# made by hand\n{made.stdout}")


def edit_sums(old: str, new: str) -> Damage:
    """Write SHA256SUMS, and replace something in it by a regular expression."""

    def damage(repo: Path) -> None:
        sums(repo)
        (repo / SUMS).write_text(re.sub(old, new, (repo / SUMS).read_text(), count=1))

    return damage


SUMS = "SHA256SUMS"
EDITED = both(write("notes.txt", "1"), sums, write("notes.txt", "2"))
HF_INDEX = f"{HF}.index.json"

DEFECTS: list[Defect] = [
    Defect("MMF101", "no params", remove(PARAMS), seen="vllm#17132"),
    Defect("MMF101", "no tekken", remove("tekken.json"), seen="vllm#17210"),
    Defect("MMF101", "no weights", remove(NATIVE), seen="vllm#19953"),
    Defect(
        "MMF101",
        "no params and no tekken",
        both(remove(PARAMS), remove("tekken.json")),
        seen="vllm#15027",
    ),
    Defect("MMF102", "no processor", remove("processor_config.json")),
    Defect("MMF102", "no config", remove(CONFIG)),
    Defect(
        "MMF102",
        "no tokenizer",
        remove("tokenizer.json"),
        repo="hf-w4a16",
        seen="llm-compressor#1795",
    ),
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
    Defect(
        "MMF104",
        "promised",
        edit_json(INDEX, lambda b: b["weight_map"].update({"layers.9.x.weight": FIRST})),
        repo="sharded",
    ),
    Defect("MMF105", "size", set_field(INDEX, "metadata.total_size", 1), repo="sharded"),
    Defect("MMF106", "orphan", orphan, repo="sharded"),
    Defect("MMF106", "older sharding", old_sharding),
    Defect("MMF107", "duplicate", duplicate, repo="sharded"),
    Defect("MMF108", "no index", split_hf),
    Defect("MMF109", "not JSON", write(INDEX, b"{"), repo="sharded"),
    Defect("MMF109", "no map", drop_field(INDEX, "weight_map"), repo="sharded"),
    Defect("MMF109", "empty map", set_field(INDEX, "weight_map", {}), repo="sharded"),
    Defect("MMF109", "numbers", set_field(INDEX, "weight_map", {"x": 1}), repo="sharded"),
    Defect("MMF109", "no metadata", drop_field(HF_INDEX, "metadata")),
    Defect("MMF110", "both read", remove(HF_INDEX), seen="vllm#40765"),
    Defect("MMF111", "five of four", rename_shards, repo="sharded"),
    Defect("MMF111", "two counts", two_counts, repo="sharded"),
    Defect("MMF112", "capital", copy(NATIVE, "Consolidated-all.safetensors")),
    Defect("MMF112", "old name", copy(HF, "pytorch_model.safetensors")),
    Defect("MMF113", "absent", edit_sums("tekken.json", "tekken.jso")),
    Defect("MMF113", "outside", edit_sums("tekken.json", "../tekken.json")),
    Defect("MMF113", "twice", edit_sums(r"(.*\n)$", r"\1\1")),
    Defect("MMF113", "no hash", edit_sums("[0-9a-f]{64}", "0123")),
    Defect("MMF113", "not text", write(SUMS, b"\xff\n")),
    Defect(
        "MMF114",
        "edited",
        both(write("notes.txt", "1"), sums, write("notes.txt", "2")),
        level="bytes",
    ),
    Defect("MMF114", "other hash", edit_sums("[0-9a-f]{64}", "0" * 64), level="bytes"),
    Defect("MMF201", "truncated", truncate(NATIVE)),
    Defect("MMF201", "truncated in HF", truncate(HF)),
    Defect("MMF201", "empty", write(NATIVE, b"")),
    Defect("MMF201", "not safetensors", write(HF, b"version https://git-lfs.github.com/spec/v1\n")),
    Defect(
        "MMF201",
        "no weights at all",
        edit_json(INDEX, lambda b: b["weight_map"].update({"x": "tekken.json"})),
        repo="sharded",
    ),
    Defect("MMF202", "no format", edit_tensors(HF, len, {"made": "by hand"})),
    Defect("MMF202", "another format", edit_tensors(HF, len, {"format": "numpy"})),
    Defect("MMF203", "empty shard", empty_shard, repo="sharded"),
]
