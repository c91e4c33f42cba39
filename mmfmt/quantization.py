"""Quantization configs: which scheme a module has, and which parameters that asks for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from mmfmt.checkpoint import FLOATS, LINEAR_KINDS, Module, Parameter
from mmfmt.errors import MmfmtError
from mmfmt.ignore import matches
from mmfmt.layout import Family, Symbols, evaluate
from mmfmt.naming import hf_namings, naming
from mmfmt.schemas import table

Faults = Iterator[tuple[str, str]]
Expected = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
"""Accepted dtypes and the shape of each parameter, by suffix."""


@dataclass(frozen=True)
class Scheme:
    """How one config group quantizes: a format of `schemes.toml` and its arguments."""

    group: str
    format: str
    bits: int
    type: str
    strategy: str
    group_size: int | None
    symmetric: bool
    activations: str
    static_input: bool
    symmetric_input: bool
    targets: tuple[str, ...]

    @property
    def label(self) -> str:
        """A short name for messages: `pack-quantized int4 group`."""
        size = f" {self.group_size}" if self.strategy == "group" else ""
        inputs = f", activations {self.activations}" if self.activations else ""
        return f"{self.format} {self.type}{self.bits} {self.strategy}{size}{inputs}"

    def expected(self, out: int, into: int) -> Expected:
        """Dtypes and shape by suffix of a module whose unquantized weight is [out, into]."""
        symbols = self._symbols(out, into)
        parameters = table("schemes")[self.format]["parameters"]
        return {
            suffix: self._parameter(columns, symbols)
            for suffix, columns in parameters.items()
            if self._applies(columns.get("when", "always"))
        }

    def _symbols(self, out: int, into: int) -> dict[str, int]:
        symbols = {"out": out, "in": into, "bits": self.bits, "group_size": self.group_size or 0}
        return symbols | {
            "groups": evaluate(table("schemes")["strategies"][self.strategy], symbols)
        }

    def _parameter(
        self, columns: Mapping[str, Any], symbols: Symbols
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        if self.strategy == "tensor":
            columns = columns.get("per_tensor", columns)
        return tuple(columns["dtype"]), tuple(evaluate(s, symbols) for s in columns["shape"])

    def _applies(self, when: str) -> bool:
        return {
            "always": True,
            "asymmetric": not self.symmetric,
            "static": self.static_input,
            "static asymmetric": self.static_input and not self.symmetric_input,
        }[when]


@dataclass(frozen=True)
class Quantization:
    """A compressed-tensors config. `place` names it in messages (`config.json: ...`)."""

    body: Mapping[str, Any]
    place: str
    family: Family

    @cached_property
    def schemes(self) -> tuple[Scheme, ...]:
        """The config groups; MmfmtError names a format that is not supported."""
        groups = self.body.get("config_groups") or {}
        return tuple(self._scheme(name, group) for name, group in groups.items())

    @property
    def ignore(self) -> tuple[str, ...]:
        return tuple(self.body.get("ignore") or ())

    def scheme_of(self, module: Module) -> Scheme | None:
        """The scheme that targets a linear module: by exact name, by regex, by class."""
        names = _known_names(self.family, module)
        kinds: tuple[Callable[[str], bool], ...] = (
            lambda target: target in names,
            lambda target: target.startswith("re:") and any(matches(target, n) for n in names),
            lambda target: target == "Linear" and module.row.kind in LINEAR_KINDS,
        )
        for kind in kinds:
            for scheme in self.schemes:
                if any(kind(target) for target in scheme.targets):
                    return scheme
        return None

    def _scheme(self, name: str, group: Mapping[str, Any]) -> Scheme:
        place = f"{self.place}.config_groups.{name}"
        weights = group.get("weights") or {}
        inputs = group.get("input_activations") or {}
        scheme = Scheme(
            group=name,
            format=group.get("format") or self.body.get("format") or "",
            bits=weights.get("num_bits", 0),
            type=weights.get("type", ""),
            strategy=weights.get("strategy") or _default_strategy(weights),
            group_size=weights.get("group_size"),
            symmetric=weights.get("symmetric", True),
            activations=_activations(inputs),
            static_input=bool(inputs) and not inputs.get("dynamic", False),
            symmetric_input=inputs.get("symmetric", True),
            targets=tuple(group.get("targets") or ()),
        )
        _check_supported(scheme, weights, place)
        return scheme


def _known_names(family: Family, module: Module) -> tuple[str, ...]:
    """Every name under which a config may mean the module, whatever its prefix generation."""
    namings = [*hf_namings(family), naming(family, "vllm", family.vllm)]
    return tuple(n.module(module.row, module.slots) for n in namings if n.has(module.row))


def _activations(inputs: Mapping[str, Any]) -> str:
    if not inputs:
        return ""
    when = "dynamic" if inputs.get("dynamic") else "static"
    return f"{when} {inputs.get('type')}{inputs.get('num_bits')} {inputs.get('strategy')}"


def _default_strategy(weights: Mapping[str, Any]) -> str:
    # compressed-tensors infers it from group_size: none = tensor, -1 = channel
    size = weights.get("group_size")
    return "tensor" if size is None else "channel" if size == -1 else "group"


def _check_supported(scheme: Scheme, weights: Mapping[str, Any], place: str) -> None:
    for fault in _unsupported(scheme, weights):
        raise MmfmtError(place, f"{fault} is not supported yet")


def _unsupported(scheme: Scheme, weights: Mapping[str, Any]) -> Iterator[str]:
    known = table("schemes").get(scheme.format) if scheme.format != "strategies" else None
    if known is None:
        yield f"format {scheme.format!r}"
        return
    if scheme.type != known["type"] or scheme.bits not in known["bits"]:
        yield f"{scheme.type} of {scheme.bits} bits in {scheme.format}"
    if scheme.strategy not in known["strategies"]:
        yield f"strategy {scheme.strategy!r} in {scheme.format}"
    if scheme.strategy == "group" and not _positive(scheme.group_size):
        yield f"group_size {scheme.group_size!r}"
    if weights.get("actorder") not in (None, False, "static", "weight"):
        yield f"actorder {weights['actorder']!r}"


def _positive(size: int | None) -> bool:
    return size is not None and size > 0


def parse_quantization(
    body: Mapping[str, Any] | None, place: str, family: Family
) -> Quantization | None:
    """A quantization config as found in a file; None where there is none.

    Raises MmfmtError for methods and compressions that no layout conversion supports yet.
    """
    if not body:
        return None
    method = str(body.get("quant_method", "")).lower().replace("_", "-")
    if method != "compressed-tensors":
        raise MmfmtError(f"{place}.quant_method", f"{method or 'none'!r} is not supported yet")
    sparsity = body.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        raise MmfmtError(f"{place}.sparsity_config", f"{sparsity['format']} cannot be converted")
    if body.get("kv_cache_scheme"):
        raise MmfmtError(f"{place}.kv_cache_scheme", "a quantized kv cache is not supported yet")
    if body.get("transform_config"):
        raise MmfmtError(f"{place}.transform_config", "transforms are not supported yet")
    return Quantization(body, place, family)


def module_faults(module: Module, scheme: Scheme | None, symbols: Symbols) -> Faults:
    """(suffix, fault) for every parameter that is missing, extra, or of wrong dtype or shape.

    `scheme` is None for an unquantized module.
    """
    shape = module.row.weight_shape(symbols)
    if scheme is None:
        expected: Expected = {"weight": (FLOATS, shape)}
        if module.row.bias and symbols.get(module.row.bias):
            expected["bias"] = (FLOATS, shape[:1])
    else:
        expected = scheme.expected(*shape)
        yield from _division_faults(scheme, shape[1])
    yield from _parameter_faults(module, expected)


def _division_faults(scheme: Scheme, into: int) -> Faults:
    if scheme.strategy == "group" and scheme.group_size and into % scheme.group_size:
        yield "weight_scale", f"group size {scheme.group_size} does not divide {into} columns"


def _parameter_faults(module: Module, expected: Expected) -> Faults:
    found = {canonical_suffix(suffix): p.entry for suffix, p in module.parameters.items()}
    for suffix in expected.keys() - found.keys():
        yield suffix, "is missing"
    for suffix in found.keys() - expected.keys():
        yield suffix, "is not expected here"
    for suffix in expected.keys() & found.keys():
        dtypes, shape = expected[suffix]
        entry = found[suffix]
        if entry.dtype not in dtypes:
            yield suffix, f"is {entry.dtype}, expected {' or '.join(dtypes)}"
        if entry.shape != shape and not _same_vector(entry.shape, shape):
            yield suffix, f"has shape {list(entry.shape)}, expected {list(shape)}"


def _same_vector(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    # [out] for [out, 1] and [] for [1]: loaders take either
    return (
        found == tuple(size for size in expected if size != 1) and len(expected) - len(found) == 1
    )


def canonical_suffix(suffix: str) -> str:
    """compressed-tensors' name for a parameter that a reader wants under another name."""
    for reader in table("readers").values():
        for name, renamed in reader["scale_names"].items():
            if suffix == renamed:
                return str(name)
    return suffix


@dataclass(frozen=True)
class Carried:
    """What a parameter is in the other layout: suffix, dtype, shape, and what becomes of values."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    value: str = ""


def carry(parameter: Parameter, scheme: Scheme | None, layout: str) -> Carried:
    """A parameter of a module as it stands in a layout, `hf` or `native`."""
    entry = parameter.entry
    return Carried(canonical_suffix(parameter.suffix), entry.dtype, entry.shape)


@dataclass(frozen=True)
class RowAction:
    """How a permutation of a module's output rows acts on a stored parameter.

    `kind`: `none`, `gather` along `axis`, or `unpack` (gather values packed into I32 words along
    `axis`, `bits` wide, in a `packing` of convert/steps.py).
    """

    kind: str
    axis: int = 0
    bits: int = 0
    packing: str = "dense"


def row_action(parameter: Parameter, scheme: Scheme | None, out: int) -> RowAction:
    """Raises MmfmtError where the parameter has no exact image with its rows in another order."""
    action, shape = table("suffixes")[parameter.suffix]["rows"], parameter.entry.shape
    if action == "keep" or (action != "gather" and prod(shape) == 1):
        return RowAction("none")
    if shape[0] == out:
        return RowAction("gather")
    if action == "unpack" and scheme:
        return RowAction("unpack", 0, scheme.bits)
    raise MmfmtError(parameter.name, f"{list(shape)} has no exact image in another row order")
