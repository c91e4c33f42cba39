"""What is wrong with the parameters of a module."""

from collections.abc import Iterator

from mmfmt.checkpoint import FLOATS, Module
from mmfmt.layout import Symbols
from mmfmt.quantization.scheme import DENSE, Expected, Scheme, same_vector

Faults = Iterator[tuple[str, str]]


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
