"""The layout tables as objects: rows, the ways to name them, and what a name matches."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.schemas import table

FAMILIES = ("dense_text", "pixtral_vision")

Slots = tuple[tuple[str, int], ...]
Symbols = Mapping[str, Any]


def evaluate(expression: str, symbols: Symbols) -> int:
    """An integer from `a*b/c` over symbols and numbers; `/` rounds up.

    Raises MmfmtError if a symbol has no value.
    """
    above, *below = (_product(part, symbols) for part in expression.split("/"))
    return -(-above // prod(below))


def _product(expression: str, symbols: Symbols) -> int:
    return prod(_value(term, symbols) for term in expression.split("*"))


def _value(term: str, symbols: Symbols) -> int:
    value = int(term) if term.isdigit() else symbols.get(term)
    if not isinstance(value, int):
        raise MmfmtError("params", f"{term} has no value", "the config must give it")
    return value


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects as one dict with dotted keys: the symbols of the layout tables."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@dataclass(frozen=True)
class Row:
    """One module of a layout table; columns as explained in `schemas/layouts/dense_text.toml`."""

    native: str
    hf: str
    kind: str
    shape: tuple[str, ...]
    slots: tuple[tuple[str, str], ...]
    rotary: tuple[str, str] | None = None
    rows: str = "native"
    fused: str = ""
    absent: str = ""
    present: str = ""
    bias: str = ""
    unquantized: str = ""

    def expected(self, symbols: Symbols) -> bool:
        """Whether a model with these params has the module."""
        if self.absent and symbols.get(self.absent):
            return False
        return not self.present or bool(symbols.get(self.present))

    def weight_shape(self, symbols: Symbols) -> tuple[int, ...]:
        """Shape of the unquantized weight, [out, in] for a linear module."""
        return tuple(evaluate(size, symbols) for size in self.shape)

    def heads(self, symbols: Symbols) -> tuple[int, int]:
        """Head count and head size of a rotary module."""
        assert self.rotary
        return evaluate(self.rotary[0], symbols), evaluate(self.rotary[1], symbols)

    def instances(self, symbols: Symbols) -> Iterator[Slots]:
        """The slot values of every instance of the module in a model."""
        used = [(slot, field) for slot, field in self.slots if f"{{{slot}}}" in self.native]
        ranges = [range(evaluate(field, symbols)) for _, field in used]
        for values in product(*ranges):
            yield tuple(zip((slot for slot, _ in used), values, strict=True))


@cache
def rows() -> tuple[Row, ...]:
    """Every row of every family, in table order."""
    return tuple(row for family in FAMILIES for row in _family_rows(table(f"layouts/{family}")))


def _family_rows(family: Mapping[str, Any]) -> Iterator[Row]:
    common = {"unquantized": family.get("unquantized", "")}
    slots = tuple(family["slots"].items())
    for columns in family["module"]:
        values = {**common, **columns, "shape": tuple(columns["shape"]), "slots": slots}
        if "rotary" in columns:
            values["rotary"] = (columns["rotary"]["heads"], columns["rotary"]["head_dim"])
        yield Row(**values)


@dataclass(frozen=True)
class Match:
    """What a tensor name says: the row, its slot values, and the parameter's suffix."""

    row: Row
    slots: Slots
    suffix: str


class Naming:
    """One way to name modules: the native names, or the HF names of one prefix generation.

    Patterns match whole names; a name is looked up by its shape (numbers made `#`), then
    checked against the few patterns of that shape.
    """

    def __init__(self, label: str, patterns: Mapping[Row, str]) -> None:
        self.label = label
        self._patterns = dict(patterns)
        self._by_shape: dict[str, list[tuple[Row, re.Pattern[str]]]] = {}
        for row, pattern in self._patterns.items():
            candidates = self._by_shape.setdefault(_name_shape(pattern), [])
            candidates.append((row, _compile(pattern)))

    def has(self, row: Row) -> bool:
        """Whether this naming has a name for the row (text models have no vision rows)."""
        return row in self._patterns

    def module(self, row: Row, slots: Slots) -> str:
        """The module's name; slots as in `Match`."""
        return self._patterns[row].format(**dict(slots))

    def match(self, name: str) -> Match | None:
        """The row that a tensor name belongs to, or None."""
        module, _, suffix = name.rpartition(".")
        if suffix not in table("suffixes"):
            return None
        for row, pattern in self._by_shape.get(_name_shape(module), []):
            if found := pattern.fullmatch(module):
                slots = tuple((slot, int(value)) for slot, value in found.groupdict().items())
                return Match(row, slots, suffix)
        return None

    def nearest(self, name: str) -> str:
        """The known tensor name most like an unknown one, slots as `{layer}`."""
        module, _, suffix = name.rpartition(".")
        if self.match(f"{module}.weight"):
            known = [f"{module}.{suffix}" for suffix in table("suffixes")]
        else:
            suffix = suffix if suffix in table("suffixes") else "weight"
            known = [f"{pattern}.{suffix}" for pattern in self._patterns.values()]
        return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


def _name_shape(pattern: str) -> str:
    parts = pattern.split(".")
    return ".".join("#" if part.isdigit() or part.startswith("{") else part for part in parts)


def _compile(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    # no leading zeros: a name has exactly one spelling
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>0|[1-9][0-9]{0,5})", escaped))


@cache
def native() -> Naming:
    """Mistral's own names."""
    return Naming("native", {row: row.native for row in rows()})


@cache
def naming(group: str, generation: str) -> Naming:
    """HF-style names with the prefixes of `generations.toml` (`hf`/`new`, `vllm`/`text`, ...)."""
    prefixes = table("generations")[group][generation]
    patterns = {row: _fill(row.hf, prefixes) for row in rows()}
    named = {row: pattern for row, pattern in patterns.items() if pattern}
    return Naming(f"{generation} HF" if group == "hf" else f"{group} {generation}", named)


def _fill(pattern: str, prefixes: Mapping[str, str]) -> str | None:
    prefix = pattern[1 : pattern.index("}")]
    if prefix not in prefixes:
        return None
    return prefixes[prefix] + pattern[len(prefix) + 2 :]


def detect_generation(names: Iterable[str]) -> Naming:
    """The HF prefix generation that knows most of the names (the later one if equal)."""
    known = [naming("hf", generation) for generation in reversed(table("generations")["hf"])]
    names = list(names)
    return max(known, key=lambda naming: sum(naming.match(name) is not None for name in names))
