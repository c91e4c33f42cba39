"""Every module of a layout with the name of its scheme and its size."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import TypeVar

from mmfmt.checkpoint import Module
from mmfmt.errors import MmfmtError
from mmfmt.inspect.facts import Size
from mmfmt.layout import Row, Symbols
from mmfmt.model import Key, Model
from mmfmt.quantization import Quantization, Scheme

T = TypeVar("T")


@dataclass(frozen=True)
class Named:
    """How a scheme, or what an unquantized module is stored in, is called: short and in full."""

    name: str
    label: str
    bits: int | None = None
    quantized: bool = True


@dataclass(frozen=True)
class Placed:
    """A module, how it is stored, what it takes, and whether it has all its parameters."""

    module: Module
    named: Named
    size: Size
    whole: bool


@dataclass(frozen=True)
class Survey:
    """A model as far as its files can be understood; `faults` collects why not further."""

    model: Model
    faults: list[str] = field(default_factory=list)

    @cached_property
    def quantization(self) -> Quantization | None:
        return self._attempt(lambda: self.model.quantization)

    @cached_property
    def symbols(self) -> Symbols | None:
        return self._attempt(lambda: self.model.symbols)

    @cached_property
    def expected(self) -> Mapping[Key, None] | None:
        """The modules that the config asks for or allows; None where it does not say."""
        return self._attempt(lambda: self.model.expected)

    @cached_property
    def placed(self) -> Mapping[Key, Placed]:
        """Every module; a tensor is counted once, with the first module that it is part of."""
        seen: set[tuple[str, int]] = set()
        return {key: self._place(m, seen) for key, m in self.model.checkpoint.modules.items()}

    def _place(self, module: Module, seen: set[tuple[str, int]]) -> Placed:
        scheme = self._scheme(module) if module.quantized else None
        named = _named(module, scheme)
        tensors, data = _counted(module, seen, self.model.checkpoint.stacks.keys())
        size = Size(tensors, self._parameters(module, scheme), data)
        return Placed(module, named, size, _has_all(module, scheme))

    def _scheme(self, module: Module) -> Scheme | None:
        quantization = self.quantization
        if quantization is None:
            return None
        return self._attempt(lambda: quantization.scheme_of(module))

    def _parameters(self, module: Module, scheme: Scheme | None) -> int | None:
        """Elements of the unquantized weight, and of the bias."""
        stored = {s: prod(p.entry.shape) for s, p in module.parameters.items()}
        plain = sum(count for s, count in stored.items() if s in (*module.row.suffixes, "bias"))
        if not module.quantized or _stored_whole(scheme):
            return plain
        shape = self._shapes.get(module.row)
        return prod(shape) + stored.get("bias", 0) if shape else None

    @cached_property
    def _shapes(self) -> Mapping[Row, tuple[int, ...] | None]:
        """The shape that each quantized row would have unquantized, where the config gives it."""
        symbols = self.symbols
        if symbols is None:
            return {}
        found = self.model.checkpoint.modules.values()
        rows = {module.row for module in found if module.row.shape and module.quantized}
        return {row: self._attempt(partial(row.weight_shape, symbols)) for row in rows}

    def _attempt(self, get: Callable[[], T]) -> T | None:
        try:
            return get()
        except MmfmtError as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None


def _named(module: Module, scheme: Scheme | None) -> Named:
    if scheme:
        return Named(scheme.short, scheme.label, scheme.bits)
    entries = sorted((p.entry for p in module.parameters.values()), key=lambda e: -e.nbytes)
    dtypes = list(dict.fromkeys(entry.dtype for entry in entries))
    if module.quantized:
        return Named(f"{dtypes[0]} ?", "quantized, but the config does not say how")
    return Named("+".join(dtypes), "not quantized", quantized=False)


def _has_all(module: Module, scheme: Scheme | None) -> bool:
    """Whether no parameter is missing that such a module must have."""
    if scheme:
        found = {scheme.canonical(suffix) for suffix in module.parameters}
        return scheme.parameters.keys() - scheme.possible <= found
    # nothing is known of other quantized modules, and kv caches have scales only
    loose = module.quantized or module.row.kind == "attention"
    return loose or module.parameters.keys() >= set(module.row.suffixes)


def _stored_whole(scheme: Scheme | None) -> bool:
    """Whether the quantized weight has the shape of the unquantized one."""
    return scheme is not None and scheme.parameters.get("weight", {}).get("shape") == ["out", "in"]


def _counted(module: Module, seen: set[tuple[str, int]], stacks: Container[str]) -> tuple[int, int]:
    """Tensors and bytes of a module, without what was counted with another one."""
    tensors = data = 0
    for parameter in module.parameters.values():
        name, entry = parameter.name, parameter.entry
        span = (name, entry.start if name in stacks else 0)
        tensors += (name, -1) not in seen
        data += 0 if span in seen else entry.nbytes
        seen |= {(name, -1), span}
    return tensors, data
