"""How a parameter goes from one layout to the other, and what a permutation of rows does to it."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from mmfmt.checkpoint import Module, Parameter
from mmfmt.errors import MmfmtError
from mmfmt.layout import Symbols
from mmfmt.quantization import Scheme, packing_of
from mmfmt.quantization.scheme import PADDED, suffix_columns
from mmfmt.schemas import table

if TYPE_CHECKING:
    from mmfmt.arrays import Packing


@dataclass(frozen=True)
class Carried:
    """A parameter as it stands in the other layout, of the same dtype.

    `reciprocal` means one over each value: a multiplier becomes a divisor.
    """

    suffix: str
    shape: tuple[int, ...]
    reciprocal: bool = False


def carry(parameter: Parameter, scheme: Scheme | None, layout: str) -> Carried:
    """A parameter in a layout, `hf` or `native`, whichever of them it comes from."""
    suffix, shape = parameter.suffix, parameter.entry.shape
    if scheme is None:
        return Carried(suffix, shape)
    suffix = scheme.canonical(suffix)
    native: dict[str, Any] = scheme.parameters.get(suffix, {}).get("native", {})
    if layout == "hf" or not native:
        return Carried(suffix, shape)
    shape = tuple(map(int, native["shape"])) if "shape" in native else shape
    return Carried(native.get("suffix", suffix), shape, native.get("value") == "reciprocal")


@dataclass(frozen=True)
class RowAction:
    """How a permutation of a module's output rows acts on a stored parameter.

    `kind` is none, gather (along `axis`), or unpack (gather values of `bits`, packed into I32
    words along `axis`).
    """

    kind: str
    axis: int = 0
    bits: int = 0
    packing: "Packing" = "dense"


NONE = RowAction("none")


def row_action(
    module: Module, parameter: Parameter, scheme: Scheme | None, symbols: Symbols
) -> RowAction:
    """The action on a parameter of a rotary module.

    Raises MmfmtError where the parameter has no exact image with its rows in another order.
    """
    columns = suffix_columns(parameter.suffix, scheme)
    heads, head_dim = module.row.heads(symbols)
    shape, axis = parameter.entry.shape, columns.get("axis", 0)
    if columns["rows"] == "keep" or (columns["rows"] != "gather" and prod(shape) == 1):
        return NONE
    if scheme and scheme.block and columns["rows"] == "scale":
        return NONE  # whole heads: see check_blocks
    # words that happen to be as many as rows are still words
    if columns["rows"] == "unpack" and scheme and parameter.entry.dtype == "I32":
        packing = columns.get("packing", packing_of(module, scheme, symbols))
        return RowAction("unpack", axis, scheme.bits, packing)
    if len(shape) > axis and shape[axis] == heads * head_dim:
        return RowAction("gather", axis)
    raise MmfmtError(parameter.name, f"{list(shape)} has no exact image in another row order")


def check_blocks(module: Module, scheme: Scheme, symbols: Symbols) -> None:
    """MmfmtError where rows would move between blocks that share a scale."""
    _, head_dim = module.row.heads(symbols)
    if scheme.block and scheme.block[0] % head_dim:
        problem = f"blocks of {scheme.block[0]} rows do not hold whole heads of {head_dim}"
        raise MmfmtError(f"{module.name}.weight", problem, "its rows cannot be carried exactly")


@dataclass(frozen=True)
class Repacking:
    """From the old padded packing to the dense one, along `axis`; `shape` comes out."""

    axis: int
    bits: int
    count: int
    shape: tuple[int, ...]


def repacking(
    module: Module, parameter: Parameter, scheme: Scheme | None, symbols: Symbols
) -> Repacking | None:
    """How a parameter in the old padded packing is packed anew; None for any other."""
    if scheme is None or packing_of(module, scheme, symbols) != PADDED:
        return None
    if PADDED not in scheme.parameters.get(parameter.suffix, {}):
        return None
    axis = table("suffixes")[parameter.suffix]["packed"]
    size = module.row.weight_shape(symbols)
    shape = scheme.expected(size)[parameter.suffix][1]
    return Repacking(axis, scheme.bits, size[axis], shape)
