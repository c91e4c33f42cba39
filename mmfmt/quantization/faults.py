"""What is wrong with the parameters of a module."""

from collections.abc import Iterator

from mmfmt.checkpoint import FLOATS, Module
from mmfmt.layout import Symbols
from mmfmt.quantization.scheme import DENSE, Expected, Scheme, same_vector
from mmfmt.schemas import table

Faults = Iterator[tuple[str, str]]
# of the activation order `group`, which no format of today has
G_IDX = "weight_g_idx"


def module_faults(module: Module, scheme: Scheme | None, symbols: Symbols) -> Faults:
    """(suffix, fault) for every parameter that is missing, extra, or of wrong dtype or shape.

    `scheme` is None for an unquantized module.
    """
    if module.row.kind == "attention":  # scales of the kv cache: one, or one a head
        return
    shape = module.row.weight_shape(symbols)
    if scheme is None:
        yield from _parameter_faults(module, None, _unquantized(module, symbols))
        return
    expected = scheme.expected(shape, packing_of(module, scheme, symbols))
    if "bias" in module.parameters:
        expected["bias"] = (FLOATS, shape[:1])
    yield from _division_faults(scheme, shape[1])
    yield from _parameter_faults(module, scheme, expected)


def _unquantized(module: Module, symbols: Symbols) -> Expected:
    shape = module.row.weight_shape(symbols)
    expected: Expected = {"weight": (FLOATS, shape)}
    if module.row.has_bias(symbols):
        expected["bias"] = (FLOATS, shape[:1])
    return expected


def packing_of(module: Module, scheme: Scheme, symbols: Symbols) -> str:
    """How values lie in the words of a packed module: `dense` or `padded`."""
    packed = module.parameters.get("weight_packed")
    shape = module.row.weight_shape(symbols)
    return scheme.packing(packed.entry.shape, shape) if packed else DENSE


def _division_faults(scheme: Scheme, into: int) -> Faults:
    if scheme.group_size and into % scheme.group_size:
        yield "weight_scale", f"group size {scheme.group_size} does not divide {into} columns"


def _parameter_faults(module: Module, scheme: Scheme | None, expected: Expected) -> Faults:
    found = {
        scheme.canonical(suffix) if scheme else suffix: parameter.entry
        for suffix, parameter in module.parameters.items()
    }
    possible = scheme.possible if scheme else set()
    for suffix in expected.keys() - found.keys() - possible:
        yield suffix, "is missing"
    for suffix in found.keys() - expected.keys():
        yield suffix, "is not expected here"
    for suffix in expected.keys() & found.keys():
        dtypes, shape = expected[suffix]
        entry = found[suffix]
        if entry.dtype not in dtypes:
            yield suffix, f"is {entry.dtype}, expected {' or '.join(dtypes)}"
        if entry.shape != shape and not same_vector(entry.shape, shape):
            yield suffix, f"has shape {list(entry.shape)}, expected {list(shape)}"


def foreign_suffixes(module: Module, scheme: Scheme, native: bool) -> list[str]:
    """Parameters of a quantized module that its format does not have in this layout."""
    extra = module.parameters.keys() - scheme.suffixes(native) - {G_IDX}
    return sorted(suffix for suffix in extra if table("suffixes")[suffix].get("quantized"))


def rows_cut(module: Module, scheme: Scheme, symbols: Symbols) -> Iterator[str]:
    """Whether the last block of scales in a column is cut short."""
    rows = module.row.weight_shape(symbols)[0]
    if scheme.block and rows % scheme.block[0]:
        yield f"blocks of {scheme.block[0]} rows do not divide its {rows} rows"


def heads_cut(module: Module, scheme: Scheme, symbols: Symbols) -> Iterator[str]:
    """Whether blocks of scales hold parts of heads, whose rows a reader permutes at load."""
    if scheme.block and module.row.rotary and module.row.rows == "reader":
        _, head = module.row.heads(symbols)
        if scheme.block[0] % head:
            yield f"blocks of {scheme.block[0]} rows do not hold whole heads of {head}"


def columns_cut(module: Module, scheme: Scheme, symbols: Symbols) -> Iterator[str]:
    """Whether the last block of scales in a row is cut short."""
    columns = module.row.weight_shape(symbols)[1]
    if scheme.block and columns % scheme.block[1]:
        yield f"blocks of {scheme.block[1]} columns do not divide its {columns} columns"
