"""1xx: which files are there, and whether the index files tell the truth."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.repo import WeightSet
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Subject


@rule("MMF101")
def incomplete_consolidated_set(subject: Subject) -> Iterator[Problem]:
    """`consolidated*.safetensors`, `params.json` and `tekken.json` are there together, or not
    at all (a `tokenizer.model.v*` counts as tekken.json, which alone does no harm).

    vLLM decides separately about config, weights and tokenizer. A part of the set sends them
    different ways: without params.json it reads consolidated weights with the HF config and
    fails on images; without tekken.json it asks for --tokenizer-mode mistral; params.json
    without weights is a promise that mistral loaders run into (vllm#19953, #17132, #15027).

    Repair: add the missing file (mmfmt convert writes all of them), or remove the others.
    """
    weights = bool(subject.repo.native.on_disk) or subject.repo.native.has_index
    parts = {
        "consolidated*.safetensors": weights,
        "params.json": subject.repo.has("params.json"),
        "tekken.json": subject.repo.tokenizer_name is not None,
    }
    if parts["consolidated*.safetensors"] or parts["params.json"]:
        there = ", ".join(name for name, present in parts.items() if present)
        for name in (name for name, present in parts.items() if not present):
            yield Problem(name, "", f"missing, while {there} is there", "add it or remove the rest")


@rule("MMF102")
def incomplete_hf_set(subject: Subject) -> Iterator[Problem]:
    """`model*.safetensors` come with config.json, a tokenizer and, for images, a processor file.

    Without processor_config.json (or preprocessor_config.json) transformers falls back to a
    patch size of 16 and no merging, and counts image tokens wrongly without an error.

    Repair: copy the file from the base model.
    """
    if not subject.repo.hf.exists:
        return
    if not subject.repo.has("config.json"):
        yield Problem("config.json", "", "missing beside model*.safetensors", _COPY)
    if not subject.repo.has("tokenizer.json") and not subject.repo.tokenizer_name:
        yield Problem("tokenizer.json", "", "missing beside model*.safetensors", _COPY)
    processor = ("processor_config.json", "preprocessor_config.json")
    if _has_images(subject) and not any(map(subject.repo.has, processor)):
        yield Problem("processor_config.json", "", "missing from a model that takes images", _COPY)


_COPY = "copy it from the base model"


def _has_images(subject: Subject) -> bool:
    return subject.repo.has("config.json") and "vision_config" in subject.repo.json("config.json")


@rule("MMF103")
def index_missing_shard(subject: Subject) -> Iterator[Problem]:
    """Every weight file that an index names is there, inside the repo.

    Loaders stop (vLLM: FileNotFoundError) or, older ones, load garbage (sglang#32279).

    Repair: fetch or upload the missing shard, or write the index anew.
    """
    for model in subject.models:
        for shard in model.weights.shards:
            try:
                model.weights.check_shard(shard)
            except MmfmtError as error:
                yield Problem(error.place, shard, error.problem, error.fix)


@rule("MMF104")
def index_differs_from_headers(subject: Subject) -> Iterator[Problem]:
    """The index's weight_map and the shards' headers name the same tensors in the same files.

    A stale index hides tensors from some loaders and promises others that are not there
    (huggingface_hub#4725: "must be checked downstream").

    Repair: write the index anew from the headers.
    """
    for weights, index in _indexed(subject):
        found = {name: s for s, header in weights.headers.items() for name in header.tensors}
        said = index["weight_map"]
        for name in sorted(said.keys() | found.keys()):
            if said.get(name) != found.get(name):
                message = f"index says {said.get(name)}, headers say {found.get(name)}"
                yield Problem(weights.index_name, name, message, "write the index anew")


@rule("MMF105", level="warning")
def index_total_size(subject: Subject) -> Iterator[Problem]:
    """The index's total_size is the number of bytes of all tensors.

    Tools plan memory and downloads with it; a wrong one usually means a stale index.

    Repair: write the index anew from the headers.
    """
    for weights, index in _indexed(subject):
        said = (index.get("metadata") or {}).get("total_size")
        total = sum(header.data_bytes for header in weights.headers.values())
        if said is not None and said != total:
            message = f"{said}, but the tensors take {total} bytes"
            yield Problem(weights.index_name, "metadata.total_size", message, f"write {total}")


@rule("MMF106")
def orphan_shard(subject: Subject) -> Iterator[Problem]:
    """Every weight file of a layout is named by its index, if there is one.

    Loaders skip the others, or read both: leftovers of an older sharding cost a download and,
    in loaders that ignore the index, replace the right tensors.

    Repair: remove the file, or write the index anew.
    """
    for weights, _ in _indexed(subject):
        for shard in sorted(set(weights.on_disk) - set(weights.shards)):
            message = f"not named by {weights.index_name}"
            yield Problem(shard, "", message, "remove it, or write the index anew")


@rule("MMF107")
def duplicate_tensor(subject: Subject) -> Iterator[Problem]:
    """A tensor stands in one shard only.

    vLLM loads it twice and the last one wins, silently.

    Repair: remove the leftover shard.
    """
    for model in subject.models:
        headers = model.weights.headers
        counts = Counter(name for header in headers.values() for name in header.tensors)
        for name in (name for name, count in counts.items() if count > 1):
            shards = [shard for shard, header in headers.items() if name in header.tensors]
            message = f"stands in {' and '.join(shards)}"
            yield Problem(shards[-1], name, message, "remove the leftover shard")


@rule("MMF108")
def missing_index(subject: Subject) -> Iterator[Problem]:
    """Several model*.safetensors come with model.safetensors.index.json.

    transformers finds shards through the index only (unsloth#2355). A consolidated set may
    go without: vLLM then reads every file.

    Repair: write the index.
    """
    weights = subject.repo.hf
    if len(weights.on_disk) > 1 and not weights.has_index:
        message = f"missing, with {len(weights.on_disk)} shards"
        yield Problem(weights.index_name, "", message, "write it from the headers")


def _indexed(subject: Subject) -> Iterator[tuple[WeightSet, dict[str, Any]]]:
    for weights in (model.weights for model in subject.models):
        if weights.index is not None:
            yield weights, weights.index
