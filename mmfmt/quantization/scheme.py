"""Schemes: how a module is quantized, and which parameters that asks for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any

from mmfmt.layout import Symbols, evaluate
from mmfmt.schemas import table

Expected = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
"""Accepted dtypes and the shape of each parameter, by suffix."""

DENSE, PADDED = "dense", "padded"
# parameters that some writers leave out
POSSIBLE = "possible"


@dataclass(frozen=True)
class Scheme:
    """How modules are quantized: a format of `schemes.toml` and its arguments.

    `activations` is a label; `static_input` means calibrated scales for whole tensors,
    `local_input` a calibrated scale over those of small groups. `block` is (rows, columns).
    """

    group: str
    format: str
    bits: int
    type: str
    strategy: str
    group_size: int | None = None
    block: tuple[int, int] | None = None
    symmetric: bool = True
    activations: str = ""
    static_input: bool = False
    local_input: bool = False
    symmetric_input: bool = True
    targets: tuple[str, ...] = ("Linear",)

    @property
    def label(self) -> str:
        """A short name for messages: `pack-quantized int4 group`."""
        size = f" {self.group_size}" if self.strategy in ("group", "tensor_group") else ""
        size = f" {self.block[0]}x{self.block[1]}" if self.block else size
        zeros = "" if self.symmetric else " asymmetric"
        inputs = f", activations {self.activations}" if self.activations else ""
        return f"{self.format} {self.type}{self.bits}{zeros} {self.strategy}{size}{inputs}"

    @property
    def short(self) -> str:
        """What people call it: `W4A16 g128`, `FP8 channel static`, `NVFP4A16 g16`."""
        weights = table("schemes")[self.format].get("short", f"W{self.bits}")
        bits = re.search(r"\d+", self.activations)
        # of floats that go without saying: both sides alike
        inputs = "" if bits and self.type == "float" else f"A{bits[0] if bits else 16}"
        words = (weights + inputs, self._grain, *self._remarks())
        return " ".join(words)

    @property
    def _grain(self) -> str:
        if self.block:
            return f"{self.block[0]}x{self.block[1]}"
        return f"g{self.group_size}" if self.group_size else self.strategy

    def _remarks(self) -> Iterator[str]:
        if not self.symmetric:
            yield "asym"
        if self.static_input:
            yield "static"

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The columns of each parameter that the scheme asks for, by canonical suffix."""
        columns = table("schemes")[self.format]["parameters"]
        return {suffix: self._chosen(c) for suffix, c in columns.items() if self._applies(c)}

    def suffixes(self, native: bool) -> frozenset[str]:
        """Every parameter that modules of the format can have in a layout."""
        return _suffixes(self, native)

    @property
    def possible(self) -> set[str]:
        """Parameters that may be absent."""
        return {s for s, columns in self.parameters.items() if columns.get("when") == POSSIBLE}

    def _chosen(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**columns, **columns.get(self.strategy, {})}

    def _applies(self, columns: Mapping[str, Any]) -> bool:
        return {
            "always": True,
            POSSIBLE: True,
            "asymmetric": not self.symmetric,
            "static": self.static_input,
            "static asymmetric": self.static_input and not self.symmetric_input,
            "local": self.local_input,
        }[columns.get("when", "always")]

    def expected(self, size: tuple[int, ...], packing: str = DENSE) -> Expected:
        """Dtypes and shape by suffix of a module whose unquantized weight is [out, in]."""
        return dict(_expected(self, size, packing))

    def shapes(self, size: tuple[int, ...], packing: str) -> Expected:
        """As `expected`, computed anew."""
        symbols = self._symbols(*size)
        shapes = {
            suffix: columns.get(packing, columns["shape"])
            for suffix, columns in self.parameters.items()
        }
        return {
            suffix: (tuple(columns["dtype"]), tuple(evaluate(s, symbols) for s in shapes[suffix]))
            for suffix, columns in self.parameters.items()
        }

    def _symbols(self, out: int, into: int) -> Symbols:
        rows, columns = self.block or (out, into)
        symbols = {"out": out, "in": into, "bits": self.bits, "per_word": 32 // self.bits}
        symbols |= {"block_out": rows, "block_in": columns, "group_size": self.group_size or into}
        groups = evaluate(table("schemes")["strategies"][self.strategy], symbols)
        return symbols | {"groups": groups}

    def packing(self, packed_shape: tuple[int, ...], size: tuple[int, ...]) -> str:
        """`dense`, or `padded` where weight_packed has the shape of compressed-tensors <= 0.17."""
        shapes = (self.expected(size, p).get("weight_packed") for p in (DENSE, PADDED))
        dense, padded = (shape and shape[1] for shape in shapes)
        return PADDED if packed_shape == padded != dense else DENSE

    def canonical(self, suffix: str) -> str:
        """A parameter's own suffix, where the consolidated layout has another for it."""
        return _own_suffixes(self).get(suffix, suffix)


@cache
def _expected(scheme: Scheme, size: tuple[int, ...], packing: str) -> Expected:
    # a model has thousands of modules of a handful of sizes
    return scheme.shapes(size, packing)


@cache
def _own_suffixes(scheme: Scheme) -> Mapping[str, str]:
    """The scheme's own suffixes by those of the consolidated layout."""
    said = (
        (own, columns.get("native", {}).get("suffix")) for own, columns in scheme.parameters.items()
    )
    return {**reader_suffixes(), **{suffix: own for own, suffix in said if suffix}}


@cache
def _suffixes(scheme: Scheme, native: bool) -> frozenset[str]:
    columns = table("schemes")[scheme.format]["parameters"]
    if not native:
        return frozenset(columns)
    chosen = {s: {**c, **c.get(scheme.strategy, {})}.get("native", {}) for s, c in columns.items()}
    own = {renamed.get("suffix", suffix) for suffix, renamed in chosen.items()}
    return frozenset(own | {renamed for renamed, s in reader_suffixes().items() if s in own})


def reader_suffixes() -> Mapping[str, str]:
    """compressed-tensors' names of parameters that a reader wants under another name."""
    scales = [reader["scale_names"].items() for reader in table("readers").values()]
    return {renamed: own for names in scales for own, renamed in names}


def suffix_columns(suffix: str, scheme: Scheme | None) -> Mapping[str, Any]:
    """A suffix's columns of `suffixes.toml`: those of the scheme's format, where it has its own."""
    columns: Mapping[str, Any] = table("suffixes")[suffix]
    return columns.get(scheme.format, columns) if scheme else columns


def same_vector(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """[out] for [out, 1], and [] for [1]: loaders take either."""
    return prod(found) == prod(expected) and len(found) == len(expected) - 1 and 1 in expected
