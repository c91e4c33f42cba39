"""The weight that a module computes with, from the parameters that it stores. Numpy only."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mmfmt.arrays import VIEWS, Array, small_floats, to_float32, unpack
from mmfmt.checkpoint import Module, Parameter
from mmfmt.errors import MmfmtError
from mmfmt.layout import Symbols
from mmfmt.quantization.faults import module_faults, packing_of
from mmfmt.quantization.scheme import DENSE, Scheme, suffix_columns

Read = Callable[[Parameter], bytes]
"""The data of a parameter, all of it."""

# elements of a weight that are in memory as F32 at once: 16 MB
CHUNK = 1 << 22
# exponent and mantissa bits of the floats that lie packed in bytes: E2M1, E2M3
_SMALL = {4: (2, 1), 6: (2, 3)}


def row_norms(module: Module, scheme: Scheme | None, symbols: Symbols, read: Read) -> Array:
    """The Euclidean norm of every output row of a rotary module, F32 [heads, head_dim].

    Raises MmfmtError as `weight_rows` does. What is not finite, or too large to be squared,
    comes out so.
    """
    with np.errstate(all="ignore"):
        rows = weight_rows(module, scheme, symbols, read)
        norms: Array = np.sqrt(np.concatenate([np.einsum("rc,rc->r", some, some) for some in rows]))
    return norms.reshape(module.row.heads(symbols))


def weight_rows(
    module: Module, scheme: Scheme | None, symbols: Symbols, read: Read
) -> Iterator[Array]:
    """The weight of a linear module as F32, a few whole rows [some, in] at a time, in file order.

    `scheme` is None for an unquantized module. Raises MmfmtError where its parameters are not
    those that the scheme asks for, and for GPTQ's asymmetric zero points.
    """
    for suffix, fault in module_faults(module, scheme, symbols):
        raise MmfmtError(f"{module.name}.{suffix}", fault)
    stored = _Stored(module, scheme, symbols, read)
    if scheme and not scheme.symmetric and "zeros" not in stored.roles:
        problem = f"the zero points of {scheme.format} cannot be told: its versions disagree by one"
        raise MmfmtError(module.name, problem)
    return stored.rows()


@dataclass(frozen=True)
class _Stored:
    """A module's parameters, by the role (`suffixes.toml`) that each has in its weight."""

    module: Module
    scheme: Scheme | None
    symbols: Symbols
    read: Read

    @cached_property
    def roles(self) -> Mapping[str, Parameter]:
        found = self.module.parameters.items()
        named = ((suffix_columns(s, self.scheme).get("role"), p) for s, p in found)
        return {role: parameter for role, parameter in named if role}

    @cached_property
    def size(self) -> tuple[int, ...]:
        return self.module.row.weight_shape(self.symbols)

    def rows(self) -> Iterator[Array]:
        zeros, scales = self._by_row("zeros"), self._scales()
        groups = self._groups(1 if scales is None else scales.shape[1])
        for rows, weight in self._codes():
            if zeros is not None:
                weight -= zeros[rows][:, groups]
            if scales is not None:
                weight *= scales[rows][:, groups]
            yield weight

    def _codes(self) -> Iterator[tuple[slice, Array]]:
        stored, (out, into) = self._view("codes"), self.size
        # words that hold several rows are not cut
        step = out if self._packed("codes") == 0 else max(1, CHUNK // into)
        for rows in (slice(first, first + step) for first in range(0, out, step)):
            yield rows, self._floats("codes", stored[rows])

    def _scales(self) -> Array | None:
        scales = self._by_row("scales")
        if scales is not None and "factor" in self.roles:
            scales = scales * self._floats("factor", self._view("factor"))
        if scales is not None and "divisor" in self.roles:
            scales = scales / self._floats("divisor", self._view("divisor"))
        return scales

    def _by_row(self, role: str) -> Array | None:
        """Zeros or scales as F32 [out, groups], of one value, one a row or a block of rows."""
        if role not in self.roles:
            return None
        values = self._floats(role, self._view(role))
        if self._block:
            values = np.repeat(values, self._block[0], axis=0)[: self.size[0]]
        return np.broadcast_to(values, (self.size[0], values.shape[1]))

    def _groups(self, count: int) -> Array:
        """The group of each column, [in]."""
        if parameter := self.roles.get("groups"):
            groups: Array = self._view("groups").ravel()
            if groups.min() < 0 or groups.max() >= count:
                raise MmfmtError(parameter.name, f"names groups outside 0 to {count - 1}")
            return groups
        size = self._block[1] if self._block else self.scheme and self.scheme.group_size
        groups = np.arange(self.size[1]) // (size or self.size[1])
        return groups.clip(max=count - 1)

    @property
    def _block(self) -> tuple[int, int] | None:
        return self.scheme.block if self.scheme and self.scheme.strategy == "block" else None

    @cached_property
    def _packing(self) -> str:
        return packing_of(self.module, self.scheme, self.symbols) if self.scheme else DENSE

    def _view(self, role: str) -> Array:
        """A parameter as stored, in two dimensions with the module's rows first."""
        parameter, shape = self.roles[role], self.size
        if self.scheme:  # vectors may be stored with a dimension less
            expected = self.scheme.expected(self.size, self._packing)
            shape = expected[self.scheme.canonical(parameter.suffix)][1]
        stored = np.frombuffer(self.read(parameter), VIEWS[parameter.entry.dtype]).reshape(shape)
        if stored.ndim < 2:
            return stored.reshape(-1, 1)
        return stored.T if self._columns(role).get("axis") else stored

    def _columns(self, role: str) -> Mapping[str, Any]:
        return suffix_columns(self.roles[role].suffix, self.scheme)

    def _packed(self, role: str) -> int | None:
        """The axis of `_view` along which values lie in words or bytes; None if they do not."""
        if role not in ("codes", "zeros") or self.roles[role].entry.dtype not in ("I32", "U8"):
            return None
        columns = self._columns(role)
        packed = int(columns.get("packed", 1))
        return 1 - packed if columns.get("axis") else packed

    def _floats(self, role: str, stored: Array) -> Array:
        """F32 values, signed: the codes in words count from minus half their range."""
        dtype, axis, scheme = self.roles[role].entry.dtype, self._packed(role), self.scheme
        if axis is None or scheme is None:
            # the scales of MX formats: exponents, whatever the dtype
            return to_float32(stored, "F8_E8M0" if dtype == "U8" else dtype)
        packing = self._columns(role).get("packing", self._packing)
        codes = unpack(stored, axis, scheme.bits, self.size[axis], packing)
        if dtype == "U8":
            return np.take(small_floats(*_SMALL[scheme.bits]), codes)
        return codes.astype(np.float32) - np.float32(1 << (scheme.bits - 1))
