"""The layout tables as objects: model families and their rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from math import prod
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.schemas import table

Slots = tuple[tuple[str, int], ...]
Symbols = Mapping[str, Any]


def evaluate(expression: str, symbols: Symbols) -> int:
    """An integer from `a*b/c+d` over symbols and numbers; `/` rounds up.

    Raises MmfmtError if a symbol has no value.
    """
    if isinstance(value := symbols.get(expression), int):  # most are one symbol
        return value
    return sum(_quotient(parts, symbols) for parts in _parsed(expression))


@cache
def _parsed(expression: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Terms, each of factors above and below the fraction line."""
    terms = (term.split("/") for term in expression.split("+"))
    return tuple(tuple(tuple(part.split("*")) for part in parts) for parts in terms)


def _quotient(parts: tuple[tuple[str, ...], ...], symbols: Symbols) -> int:
    above, *below = (prod(_value(factor, symbols) for factor in part) for part in parts)
    return -(-above // prod(below))


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


@dataclass(frozen=True, eq=False)
class Row:
    """One module of a family's layout; columns as explained in `schemas/layouts/text.toml`."""

    native: str
    kind: str
    part: str
    shape: tuple[str, ...]
    slots: tuple[tuple[str, str], ...]
    hf: str = ""
    vllm: str = ""
    also: tuple[str, ...] = ()
    native_also: tuple[str, ...] = ()
    rotary: tuple[str, str] | None = None
    axes: int = 1
    rows: str = "native"
    fused: str = ""
    absent: str = ""
    present: str = ""
    bias: str = ""
    first: str = ""
    until: str = ""
    suffixes: tuple[str, ...] = ("weight",)
    required: bool = True
    made: str = ""
    unquantized: str = ""

    @cached_property
    def fields(self) -> frozenset[str]:
        """The params.json fields that its tensors show: of sizes, counts and presence."""
        sizes = (*self.shape, *(self.rotary or ()), *(field for _, field in self._used_slots))
        parts = (part for size in sizes for term in _parsed(size) for part in term)
        named = (factor for part in parts for factor in part if not factor.isdigit())
        return frozenset((*named, self.bias, self.absent, self.present, self.first, self.until))

    def expected(self, symbols: Symbols) -> bool:
        """Whether a model with these params has the module, in some layer."""
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
        slots = [slot for slot, _ in self._used_slots]
        # product lists every range, be another one empty
        ranges = self._ranges(symbols) if self.count(symbols) else [range(0)]
        for values in product(*ranges):
            yield tuple(zip(slots, values, strict=True))

    def count(self, symbols: Symbols) -> int:
        """How many instances there are; a hostile config may ask for any number."""
        return prod(numbers.stop - numbers.start for numbers in self._ranges(symbols))

    @cached_property
    def _used_slots(self) -> list[tuple[str, str]]:
        return [(slot, field) for slot, field in self.slots if f"{{{slot}}}" in self.native]

    def _ranges(self, symbols: Symbols) -> list[range]:
        used = self._used_slots
        return [self._range(slot, evaluate(field, symbols), symbols) for slot, field in used]

    def _range(self, slot: str, count: int, symbols: Symbols) -> range:
        if slot != "layer":
            return range(max(count, 0))
        end = min(_limit(self.until, symbols, count), count)
        return range(min(_limit(self.first, symbols, 0), end), end)

    def has_bias(self, symbols: Symbols) -> bool:
        """Whether the module has a bias."""
        return self.bias == "always" or bool(self.bias and symbols.get(self.bias))

    def parameters(self, symbols: Symbols) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of the unquantized module, by suffix."""
        shape = self.weight_shape(symbols)
        parameters = dict.fromkeys(self.suffixes, shape)
        return parameters | {"bias": shape[:1]} if self.has_bias(symbols) else parameters


def _limit(field: str, symbols: Symbols, default: int) -> int:
    """A layer number given by a params.json field, which may be missing."""
    return default if symbols.get(field) is None else evaluate(field, symbols)


@dataclass(frozen=True)
class Stack:
    """The experts of one layer in one tensor [experts, ...], the rows of `parts` one by one.

    `parts` are native names of rows; `write` says that the HF layout is written so.
    """

    hf: str
    parts: tuple[Row, ...]
    write: bool


@dataclass(frozen=True, eq=False)
class Family:
    """One model family of `families.toml`; columns as explained there."""

    label: str
    rows: tuple[Row, ...]
    stacks: tuple[Stack, ...]
    generations: tuple[str, ...]
    vllm: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    unread: Mapping[str, str]
    ignored: tuple[str, ...]

    def fits(self, symbols: Symbols) -> bool:
        """Whether params with these symbols describe a model of the family."""
        return all(map(symbols.get, self.present)) and not any(map(symbols.get, self.absent))

    @property
    def multimodal(self) -> bool:
        """Whether the text model is one part of several."""
        return self.vllm == "multimodal"


@cache
def families() -> tuple[Family, ...]:
    """Every family, in table order."""
    return tuple(_family(label, columns) for label, columns in table("families").items())


def family(label: str) -> Family:
    """A family by its label in `families.toml`."""
    return next(family for family in families() if family.label == label)


def _family(label: str, columns: Mapping[str, Any]) -> Family:
    layouts = [table(f"layouts/{name}") for name in columns["tables"]]
    rows = tuple(_adapted(row, columns) for layout in layouts for row in _rows(layout))
    by_name = {row.native: row for row in rows}
    return Family(
        label=label,
        rows=rows,
        stacks=tuple(_stack(s, by_name) for layout in layouts for s in layout.get("stack", ())),
        generations=tuple(columns["generations"]),
        vllm=columns["vllm"],
        present=tuple(columns.get("present", ())),
        absent=tuple(columns.get("absent", ())),
        unread=columns.get("unread", {}),
        ignored=tuple(entry for layout in layouts for entry in layout.get("ignored", ())),
    )


def _adapted(row: Row, columns: Mapping[str, Any]) -> Row:
    """A row of a shared table as one family has it."""
    adapted = replace(
        row,
        native=columns.get("renamed", {}).get(row.native, row.native),
        native_also=row.native_also + tuple(columns.get("also", {}).get(row.native, ())),
        required=row.required and row.native not in columns.get("optional", ()),
    )
    if columns.get("native_on_hub"):
        return replace(adapted, hf=adapted.native, rotary=None)
    return adapted


def _stack(columns: Mapping[str, Any], rows: Mapping[str, Row]) -> Stack:
    parts = tuple(rows[name] for name in columns["parts"])
    return Stack(columns["hf"], parts, columns.get("write", False))


def _rows(layout: Mapping[str, Any]) -> Iterator[Row]:
    common = {
        "unquantized": layout.get("unquantized", ""),
        "part": layout["part"],
        "slots": tuple(layout["slots"].items()),
    }
    for columns in layout["module"]:
        values = {**common, **{k: _frozen(v) for k, v in columns.items()}}
        if "from" in values:
            values["first"] = values.pop("from")
        yield Row(**values)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):  # rotary
        return value["heads"], value["head_dim"]
    return tuple(value) if isinstance(value, list) else value
