"""Rotary modules judged by the row order of their weights, kind by kind over all layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmfmt.arrays import Array
from mmfmt.checkpoint import Module, Parameter
from mmfmt.convert.steps import Order
from mmfmt.layout import Row
from mmfmt.model import Model
from mmfmt.quantization.dequantize import row_norms
from mmfmt.reader import recorded_or_vllm
from mmfmt.repo import Advance
from mmfmt.schemas import table
from mmfmt.verify.parallel import parallel
from mmfmt.verify.row_order import RowOrder, row_order


@dataclass(frozen=True)
class Judged:
    """Rotary modules whose rows must lie in one order, and how they do lie."""

    modules: tuple[Module, ...]
    expected: Order
    found: RowOrder

    @property
    def shard(self) -> str:
        """The file of the first module."""
        return next(p.shard for p in self.modules[0].parameters.values())

    @property
    def scores(self) -> str:
        """For messages: how well each order fits."""
        hf, native = f"{self.found.hf:.1f}", f"{self.found.native:.1f}"
        return f"scores of {self.found.heads} heads: Hugging Face's {hf}, Mistral's {native}"


def judged(model: Model, advance: Advance) -> Iterator[Judged]:
    """Every kind of rotary module of a layout; reads the weights of Q and K."""
    for (_, expected), modules in _groups(model).items():
        yield Judged(tuple(modules), expected, _order(model, modules, advance))


def _order(model: Model, modules: list[Module], advance: Advance) -> RowOrder:
    def read(parameter: Parameter) -> bytes:
        advance(parameter.entry.nbytes)
        return model.weights.read(parameter.shard, parameter.entry)

    def norms(module: Module) -> Array:
        return row_norms(module, model.scheme_of_quantized(module), model.symbols, read)

    return row_order((found for _, found in parallel(norms, modules)), modules[0].row.axes)


def _groups(model: Model) -> Mapping[tuple[Row, Order], list[Module]]:
    """Rotary modules by row and the order in which their rows should lie."""
    groups: dict[tuple[Row, Order], list[Module]] = {}
    for module in model.checkpoint.modules.values():
        orders = {_expected(model, module, suffix) for suffix in _moving(module)}
        if module.row.rotary and len(orders) == 1:  # of MXFP8, scales and codes lie apart
            groups.setdefault((module.row, orders.pop()), []).append(module)
    return groups


def _moving(module: Module) -> list[str]:
    return [s for s in module.parameters if table("suffixes")[s]["rows"] != "keep"]


def _expected(model: Model, module: Module, suffix: str) -> Order:
    reader = recorded_or_vllm(model.weights) if model.native else None
    return "native" if reader and reader.wants_native_rows(module.row, suffix) else "hf"
