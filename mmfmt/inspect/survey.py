"""From a repo to the facts that are told of it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from mmfmt.checkpoint import Checkpoint
from mmfmt.errors import MmfmtError
from mmfmt.ignore import listed
from mmfmt.inspect.facts import (
    File,
    Group,
    Inspection,
    LayoutFacts,
    Other,
    Part,
    Quantized,
    Scheme,
    Size,
    total,
)
from mmfmt.inspect.glyphs import glyphs
from mmfmt.inspect.model_map import grids
from mmfmt.inspect.modules import Placed, Survey
from mmfmt.inspect.readable import ReadableSet, readable
from mmfmt.inspect.tree import tree
from mmfmt.model import Model, hf_model, native_model
from mmfmt.quantization import Quantization
from mmfmt.reader import METADATA_KEY
from mmfmt.repo import Repo
from mmfmt.schemas import table

LAYOUTS = {"hf": "Hugging Face", "consolidated": "Consolidated"}


def inspect(repo: Repo, layouts: Iterable[str] = tuple(LAYOUTS)) -> Inspection:
    """What headers and JSON files tell of a repo, and of these of its layouts.

    Raises MmfmtError if it has none of them, or none of which anything can be read.
    """
    models = {"hf": hf_model(repo), "consolidated": native_model(repo)}
    there = {key: models[key] for key in layouts if models[key].weights.exists}
    asked = {key: readable(model.weights) for key, model in there.items()}
    read = {key: weights for key, weights in asked.items() if weights.headers}
    if not read:
        raise _nothing(repo, asked.values())
    told = (_layout(key, replace(models[key], weights=set_), set_) for key, set_ in read.items())
    lost = (fault for key in asked if key not in read for fault in asked[key].faults.values())
    return Inspection(repo.storage.label, tuple(told), tuple(_files(repo, asked)), tuple(lost))


def _nothing(repo: Repo, asked: Iterable[ReadableSet]) -> MmfmtError:
    for weights in asked:
        for fault in weights.faults.values():
            return MmfmtError(repo.storage.label, f"nothing of it can be read: {fault}")
    fix = "name a folder with model*.safetensors or consolidated*.safetensors"
    return MmfmtError(repo.storage.label, "holds no such checkpoint", fix)


def _layout(key: str, model: Model, weights: ReadableSet) -> LayoutFacts:
    survey = Survey(model, list(weights.faults.values()))
    placed = survey.placed.values()
    others = tuple(_others(model, placed))
    rest = Size(len(others), 0, sum(other.bytes for other in others))
    return LayoutFacts(
        key=key,
        label=LAYOUTS[key],
        naming=model.checkpoint.naming.label,
        config_file=model.config_file,
        row_order=_row_order(model),
        quantized=_quantized(survey.quantization) if survey.quantization else None,
        size=total(item.size for item in placed) + rest,
        schemes=tuple(_schemes(placed)),
        parts=tuple(_parts(survey)),
        grids=grids(survey),
        tree=tree(survey),
        others=others,
        faults=tuple(survey.faults),
    )


def _row_order(model: Model) -> str:
    """The readers that the shards of a consolidated set record; `transformers` for HF sets."""
    if not model.native:
        return "transformers"
    headers = model.weights.headers.values()
    labels = {header.metadata.get(METADATA_KEY, "not recorded") for header in headers}
    return ", ".join(sorted(labels))


def _quantized(said: Quantization) -> Quantized:
    groups = (Group(s.group, s.short, s.label, s.targets) for s in said.schemes)
    kv = said.body.get("kv_cache_scheme") or {}
    _, kept = listed(table("ignore_lists").get(said.method, {}).get("keys", ()), said.body)
    return Quantized(
        method=said.method,
        place=said.place,
        groups=tuple(groups),
        ignore=tuple(kept or ()),
        kv_cache=f"{kv.get('type')}{kv.get('num_bits')} {kv.get('strategy')}" if kv else "",
    )


def _schemes(placed: Iterable[Placed]) -> Iterator[Scheme]:
    """Quantized ones first, then by the bytes that they take."""
    by_name: dict[str, list[Placed]] = defaultdict(list)
    for item in placed:
        by_name[item.named.name].append(item)
    sizes = {name: total(item.size for item in items) for name, items in by_name.items()}
    named = {name: items[0].named for name, items in by_name.items()}
    order = sorted(named.values(), key=lambda n: (not n.quantized, -sizes[n.name].bytes))
    signs = glyphs(order)
    for name, label, quantized in ((n.name, n.label, n.quantized) for n in order):
        count = len(by_name[name])
        yield Scheme(name, label, quantized, signs[name], count, sizes[name])


def _parts(survey: Survey) -> Iterator[Part]:
    """In the order of the layout table."""
    rows = survey.model.checkpoint.naming.family.rows
    parts: dict[str, list[Placed]] = {row.part: [] for row in rows}
    for placed in survey.placed.values():
        parts[placed.module.row.part].append(placed)
    for name, items in parts.items():
        if items:
            yield Part(name, total(item.size for item in items), tuple(_bytes_by_scheme(items)))


def _bytes_by_scheme(placed: Iterable[Placed]) -> list[tuple[str, int]]:
    counted: dict[str, int] = defaultdict(int)
    for item in placed:
        counted[item.named.name] += item.size.bytes
    return list(counted.items())


def _others(model: Model, placed: Iterable[Placed]) -> Iterator[Other]:
    """The tensors that were counted with no module."""
    counted = {p.name for item in placed for p in item.module.parameters.values()}
    rest = {name: e for name, e in model.weights.tensors.items() if name not in counted}
    reasons = _reasons(model.checkpoint) if rest else {}
    for name, entry in rest.items():
        reason = reasons.get(name, f"no {model.checkpoint.naming.label} tensor has this name")
        yield Other(name, entry.dtype, entry.shape, entry.nbytes, reason)


def _reasons(checkpoint: Checkpoint) -> dict[str, str]:
    twins = [*checkpoint.doubled.items(), *((n, m) for m, n in checkpoint.doubled.items())]
    reasons = {name: f"holds the same parameter as {twin}" for name, twin in twins}
    return reasons | {extra.name: extra.reason for extra in checkpoint.extras}


def _files(repo: Repo, sets: Mapping[str, ReadableSet]) -> Iterator[File]:
    weights = {
        name: _weight_file(key, found, name)
        for key, found in sets.items()
        for name in (*found.on_disk, *found.shards)
    }
    for name, size in repo.storage.sizes.items():
        yield weights.get(name) or File(name, size)


def _weight_file(key: str, found: ReadableSet, name: str) -> File:
    header, size = found.headers.get(name), found.storage.sizes[name]
    if header:
        return File(name, size, key, len(header.tensors))
    return File(name, size, key, note=found.faults.get(name, "the index does not name it"))
