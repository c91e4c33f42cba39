"""1xx: whether the index files tell the truth, and what to write in their place."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.header import Header
from mmfmt.repo import HF_STEM, WeightSet, index_body
from mmfmt.verify.findings import Edit, Problem, rule
from mmfmt.verify.subject import Subject

_ANEW = "write the index anew from the headers"
_NUMBERED = re.compile(r".*-(\d{1,9})-of-(\d{1,9})\.safetensors")


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
        unlike: dict[tuple[str | None, str | None], list[str]] = {}
        for name in sorted(said.keys() | found.keys()):
            if said.get(name) != found.get(name):
                unlike.setdefault((said.get(name), found.get(name)), []).append(name)
        edits = _rewritten(weights, weights.headers)
        for (here, there), names in unlike.items():
            more = f", as for {len(names) - 1} more" if len(names) > 1 else ""
            message = f"index says {here}, headers say {there}{more}"
            yield Problem(weights.index_name, names[0], message, _ANEW, edits)


@rule("MMF105", level="warning")
def index_total_size(subject: Subject) -> Iterator[Problem]:
    """The index's total_size is the number of bytes of all tensors.

    Tools plan memory and downloads with it; a wrong one usually means a stale index.

    Repair: write the index anew from the headers.
    """
    for weights, index in _indexed(subject):
        said = (index.get("metadata") or {}).get("total_size")
        total = _bytes(weights.headers.values())
        if said is not None and said != total:
            message = f"{said}, but the tensors take {total} bytes"
            edits = (Edit(weights.index_name, ("metadata", "total_size"), total),)
            place = "metadata.total_size"
            yield Problem(weights.index_name, place, message, f"write {total}", edits)


@rule("MMF106")
def orphan_shard(subject: Subject) -> Iterator[Problem]:
    """Every weight file of a layout is named by its index, if there is one.

    Loaders skip the others, or read both: leftovers of an older sharding cost a download and,
    in loaders that ignore the index, replace the right tensors. transformers takes a
    model.safetensors before any index: it then loads another model than vLLM does.

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
        fix = "write it from the headers"
        yield Problem(weights.index_name, "", message, fix, new_index(weights))


@rule("MMF109")
def malformed_index(subject: Subject) -> Iterator[Problem]:
    """An index is JSON with an object `metadata` and a weight_map from tensor to file names.

    Loaders stop at any other. transformers reads the key `metadata` whatever is in it and
    raises KeyError where the HF index has none (get_checkpoint_shard_files); vLLM does not.

    Repair: write the index anew from the headers.
    """
    for weights in (subject.repo.hf, subject.repo.native):
        if fault := _index_fault(weights):
            yield Problem(weights.index_name, "", fault, _ANEW, new_index(weights))


def _index_fault(weights: WeightSet) -> str:
    try:
        index = weights.index
    except MmfmtError as error:
        return error.problem
    if index is not None and weights.stem == HF_STEM and "metadata" not in index:
        return "has no metadata, which transformers reads"
    return ""


@rule("MMF111", level="warning")
def shard_numbering(subject: Subject) -> Iterator[Problem]:
    """Shards named NNNNN-of-MMMMM are MMMMM files, numbered from 1 without a gap.

    Two counts in one set (Medium-3.5 was seen with -of-00003 and -of-00051), or a number that is
    missing, come from two exports in one folder or a broken upload. Tools that go by names
    download or convert half a model.

    Repair: export again into an empty folder, or rename the files and write the index anew.
    """
    for model in subject.models:
        names = filter(None, map(_NUMBERED.fullmatch, model.weights.shards))
        numbers = [(int(name[1]), int(name[2])) for name in names]
        if fault := _numbering_fault(numbers):
            place = model.weights.index_name if model.weights.has_index else model.weights.shards[0]
            yield Problem(place, "", fault, "export again into an empty folder")


def _numbering_fault(numbers: list[tuple[int, int]]) -> str:
    counts = sorted({count for _, count in numbers})
    if len(counts) > 1:
        return f"shards are numbered of {' and of '.join(map(str, counts))}"
    found = {number for number, _ in numbers}
    if found and (len(found), min(found), max(found)) != (counts[0], 1, counts[0]):
        span = f"{min(found)} to {max(found)}"
        return f"{len(found)} shards are numbered {span} of {counts[0]}"
    return ""


def new_index(weights: WeightSet) -> tuple[Edit, ...]:
    """The index of all files of a set, made of their headers; nothing if one is damaged."""
    try:
        headers = {shard: weights.header(shard) for shard in weights.on_disk}
    except MmfmtError:
        return ()
    return _rewritten(weights, headers)


def _rewritten(weights: WeightSet, headers: Mapping[str, Header]) -> tuple[Edit, ...]:
    names = [name for header in headers.values() for name in header.tensors]
    if not names or len(names) != len(set(names)):  # which of two tensors is meant?
        return ()
    weight_map = {name: shard for shard, header in headers.items() for name in header.tensors}
    return (Edit(weights.index_name, (), index_body(weight_map, _bytes(headers.values()))),)


def _bytes(headers: Iterable[Header]) -> int:
    return sum(header.data_bytes for header in headers)


def _indexed(subject: Subject) -> Iterator[tuple[WeightSet, dict[str, Any]]]:
    for weights in (model.weights for model in subject.models):
        if weights.index is not None:
            yield weights, weights.index
