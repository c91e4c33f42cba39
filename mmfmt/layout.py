"""The layout tables as objects: model families and their rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.schemas import table

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


@dataclass(frozen=True, eq=False)
class Family:
    """One model family of `families.toml`: the rows of its layout tables, and how it is named.

    `generations` are the HF prefix generations it can be saved in, `vllm` the prefixes of the
    module names that vLLM compares ignore lists with (both in `generations.toml`).
    """

    label: str
    rows: tuple[Row, ...]
    generations: tuple[str, ...]
    vllm: str
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

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
    rows = tuple(row for name in columns["tables"] for row in _rows(table(f"layouts/{name}")))
    return Family(
        label=label,
        rows=rows,
        generations=tuple(columns["generations"]),
        vllm=columns["vllm"],
        present=tuple(columns.get("present", ())),
        absent=tuple(columns.get("absent", ())),
    )


def _rows(layout: Mapping[str, Any]) -> Iterator[Row]:
    common = {"unquantized": layout.get("unquantized", "")}
    slots = tuple(layout["slots"].items())
    for columns in layout["module"]:
        values = {**common, **columns, "shape": tuple(columns["shape"]), "slots": slots}
        if "rotary" in columns:
            values["rotary"] = (columns["rotary"]["heads"], columns["rotary"]["head_dim"])
        yield Row(**values)
