"""Mutations of safetensors headers: some damage the format, some keep it and say strange things."""

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from mmfmt.header import DTYPE_BITS, nbytes
from mmfmt.layout import families
from mmfmt.naming import hf_namings, native
from mmfmt.schemas import table
from tests.fuzz import byte_mutations, hostile, json_mutations
from tests.fuzz.memory import Content

Tensors = dict[str, Any]

_SLOTS = (
    "0",
    "1",
    "2",
    "7",
    "9999",
    "999999",
    "1000000",
    "00",
    "-1",
    "",
    "²",
    "x",
    "0.0",
    "9" * 50,
)
_SHAPES: tuple[list[int], ...] = (
    *([], [0], [1], [2], [0, 0], [2**32, 0], [0, 2**40], [2**20, 0, 7], [1] * 300, [2**31]),
    *([65_536, 0, 4], [65_537, 0, 4], [2**62], [3, 3], [328, 32], [32, 32], [1, 1, 1], [2, 8]),
)
_HUGE = 1 << 62
_DTYPES = list(DTYPE_BITS)


def mutated(random: Random, content: Content) -> Content:
    """A weight file with another header; its data are holes."""
    length = int.from_bytes(content.head[:8], "little")
    header = content.head[8 : 8 + length]
    data = max(content.size - 8 - length, 0)
    kind, body = random.random(), json_mutations.body_of(header)
    if kind < 0.15 or not body:
        return Content(byte_mutations.mutated(random, content.head[: 8 + length]), data)
    if kind < 0.25:
        return Content(random.choice(_LENGTHS)(length) + header, data)
    if kind < 0.5 or not _is_plain(body):
        return _file(json_mutations.mutated(random, body), data)
    while True:
        body = random.choice(_CHANGES)(random, body)
        if random.random() < 0.6:
            return _laid_out(body)


def _is_plain(body: Tensors) -> bool:
    """Whether no other mutation has been here before."""
    entries = (entry for name, entry in body.items() if name != "__metadata__")
    return all(isinstance(e, dict) and e.get("dtype") in _DTYPES and _sizes(e) for e in entries)


def _sizes(entry: dict[str, Any]) -> bool:
    shape = entry.get("shape")
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


_LENGTHS: tuple[Callable[[int], bytes], ...] = (
    lambda length: (length + 1).to_bytes(8, "little"),
    lambda length: (length - 1).to_bytes(8, "little"),
    lambda length: length.to_bytes(8, "big"),
    lambda length: (0).to_bytes(8, "little"),
    lambda length: (2**64 - 1).to_bytes(8, "little"),
    lambda length: (99_999_999).to_bytes(8, "little"),
    lambda length: length.to_bytes(8, "little")[:5],
)


def _file(text: bytes, data: int) -> Content:
    return Content(len(text).to_bytes(8, "little") + text, data)


def _laid_out(tensors: Tensors) -> Content:
    """A valid file of these tensors, as far as there can be one."""
    body, end = {}, 0
    for name, entry in tensors.items():
        if name == "__metadata__":
            body[name] = entry
            continue
        length = nbytes(entry["dtype"], tuple(entry["shape"])) or 0
        start, end = end, end + length
        body[name] = {**entry, "data_offsets": [start, end]}
    return _file(json_mutations.written(body).encode(), min(end, _HUGE))


@cache
def _patterns() -> tuple[str, ...]:
    """Every module name that a layout knows, and those of stacks, slots as `{layer}`."""
    namings = [n for family in families() for n in (native(family), *hf_namings(family))]
    known = {n.pattern(row) for n in namings for row in n.family.rows if n.has(row)}
    return tuple(sorted(known | {name for n in namings for name in n.stacks.values()}))


def _known_name(random: Random) -> str:
    module = random.choice(_patterns())
    while "{" in module:
        before, _, rest = module.partition("{")
        module = before + random.choice(_SLOTS) + rest.partition("}")[2]
    suffix = random.choice((*table("suffixes"), "weight", "weight", "weight"))
    return random.choice((f"{module}.{suffix}", f"{module}.{suffix}", module))


def _strange_name(random: Random, name: str) -> str:
    strange = random.choice(hostile.TEXTS)
    return random.choice((strange, name + strange, strange + name, name.replace(".", strange)))


def _tensor(random: Random, tensors: Tensors) -> str:
    return random.choice([name for name in tensors if name != "__metadata__"] or ["a"])


def _renamed(random: Random, tensors: Tensors) -> Tensors:
    old = _tensor(random, tensors)
    new = _known_name(random) if random.random() < 0.5 else _strange_name(random, old)
    return {new if name == old else name: entry for name, entry in tensors.items()}


def _next_door(random: Random, tensors: Tensors) -> Tensors:
    """A tensor in the place of another in the model: another number, or another suffix."""
    old = _tensor(random, tensors)
    module, _, suffix = old.rpartition(".")
    parts = [random.choice(_SLOTS) if part.isdigit() else part for part in module.split(".")]
    suffix = random.choice((suffix, suffix, *table("suffixes")))
    new = ".".join((*parts, suffix))
    return {new if name == old else name: entry for name, entry in tensors.items()}


def _dropped(random: Random, tensors: Tensors) -> Tensors:
    gone = _tensor(random, tensors)
    return {name: entry for name, entry in tensors.items() if name != gone}


def _added(random: Random, tensors: Tensors) -> Tensors:
    return {**tensors, _known_name(random): _entry(random)}


def _many(random: Random, tensors: Tensors) -> Tensors:
    """Dozens of tensors more, of names alike."""
    stem, entry = random.choice(("layers", "a.b", "model.layers", "x")), _entry(random)
    suffix = random.choice(tuple(table("suffixes")))
    return {**tensors, **{f"{stem}.{number}.{suffix}": entry for number in range(40)}}


def _entry(random: Random) -> dict[str, Any]:
    return {"dtype": random.choice(_DTYPES), "shape": random.choice(_SHAPES)}


def _reshaped(random: Random, tensors: Tensors) -> Tensors:
    name = _tensor(random, tensors)
    entry = tensors.get(name) or _entry(random)
    shape = list(entry["shape"])
    shapes = (shape[::-1], [*shape, 1], [1, *shape], shape[1:], [2 * n for n in shape], [0, *shape])
    return {**tensors, name: {**entry, "shape": random.choice((*shapes, random.choice(_SHAPES)))}}


def _retyped(random: Random, tensors: Tensors) -> Tensors:
    name = _tensor(random, tensors)
    entry = tensors.get(name) or _entry(random)
    return {**tensors, name: {**entry, "dtype": random.choice(_DTYPES)}}


def _metadata(random: Random, tensors: Tensors) -> Tensors:
    known = {"format": random.choice(("pt", "", "np", *hostile.TEXTS))}
    strange = {random.choice(hostile.TEXTS): random.choice(hostile.TEXTS)}
    reader = {"mmfmt.reader": random.choice(("native", "vllm", *hostile.TEXTS))}
    return {"__metadata__": random.choice((known, strange, reader)), **tensors}


_CHANGES: tuple[Callable[[Random, Tensors], Tensors], ...] = (
    *(_renamed, _next_door, _dropped, _added, _many, _reshaped, _reshaped, _retyped, _metadata),
)
