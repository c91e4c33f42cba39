"""A weight set matched against the layout tables: parameters, and the modules they form."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from mmfmt.errors import MmfmtError
from mmfmt.extras import Extra, extra
from mmfmt.header import Entry
from mmfmt.layout import Row, Slots, Symbols
from mmfmt.naming import Match, Naming, detect_hf, detect_native
from mmfmt.repo import HF_STEM, WeightSet
from mmfmt.schemas import table
from mmfmt.stacks import StackMatch, match_stack, splits, views

FLOATS = ("BF16", "F16", "F32")
LINEAR_KINDS = ("linear", "head", "merger", "conditioning")


@dataclass(frozen=True)
class Parameter:
    """One stored tensor, or its part in a stored stack, and the row it belongs to."""

    name: str
    shard: str
    entry: Entry
    match: Match

    @property
    def suffix(self) -> str:
        return self.match.suffix


@dataclass(frozen=True)
class Module:
    """The parameters of one module, by suffix."""

    row: Row
    slots: Slots
    name: str
    parameters: Mapping[str, Parameter]

    @cached_property
    def quantized(self) -> bool:
        """Whether any parameter is one that only a quantized module has."""
        suffixes = table("suffixes")
        if any(suffixes[suffix].get("quantized") for suffix in self.parameters):
            return True
        weight = self.parameters.get("weight")
        return weight is not None and weight.entry.dtype in _quantized_dtypes()

    @property
    def fused_group(self) -> tuple[str, Slots, str]:
        """Equal for modules that loaders fuse into one (q, k, v; gate, up)."""
        parent = self.name.rpartition(".")[0]
        return (parent, self.slots, self.row.fused or self.name)


@cache
def _quantized_dtypes() -> set[str]:
    """Dtypes that some scheme stores a `weight` in: F64 or I16 is no quantization, but a fault."""
    parameters = (columns.get("parameters", {}) for columns in table("schemes").values())
    return {
        dtype for found in parameters if "weight" in found for dtype in found["weight"]["dtype"]
    }


@dataclass(frozen=True)
class Checkpoint:
    """A weight set whose tensors are matched; the unmatched ones are in `unknown`."""

    weights: WeightSet
    naming: Naming

    @cached_property
    def matches(self) -> Mapping[str, Match | None]:
        """The row of each tensor that is a parameter of one module."""
        return {name: self.naming.match(name) for name in self.weights.tensors}

    @cached_property
    def stacks(self) -> Mapping[str, StackMatch]:
        """Tensors that hold the parameters of many modules, by name."""
        entries = self.weights.tensors
        unmatched = (name for name, match in self.matches.items() if match is None)
        found = ((name, match_stack(self.naming, name)) for name in unmatched)
        return {name: match for name, match in found if match and splits(entries[name], match)}

    @cached_property
    def extras(self) -> list[Extra]:
        """Tensors that belong to no module, but are known."""
        layout = "hf" if self.weights.stem == HF_STEM else "native"
        rest = (n for n, match in self.matches.items() if match is None and n not in self.stacks)
        return [found for name in rest if (found := extra(layout, name))]

    @cached_property
    def doubled(self) -> Mapping[str, str]:
        """Tensors with a parameter that another one, the value here, holds as well."""
        holders: dict[tuple[Row, Slots, str], str] = {}
        parameters = (p for shard in self.weights.shards for p in self.shard(shard))
        held = ((p.name, (p.match.row, p.match.slots, p.suffix)) for p in parameters)
        return {n: holders[key] for n, key in held if holders.setdefault(key, n) != n}

    @cached_property
    def unknown(self) -> list[str]:
        """Names that no table knows, or that say again what another tensor holds."""
        known = self.stacks.keys() | {extra.name for extra in self.extras}
        strange = (n for n, match in self.matches.items() if match is None and n not in known)
        return [*strange, *self.doubled]

    def shard(self, shard: str) -> list[Parameter]:
        """The parameters of one shard, in the order of their bytes."""
        entries = self.weights.headers[shard].by_offset()
        return [p for name, entry in entries for p in self.parameters(shard, name, entry)]

    def parameters(self, shard: str, name: str, entry: Entry) -> Iterator[Parameter]:
        """The parameters that a stored tensor holds: one, many in a stack, none in an extra."""
        if match := self.matches[name]:
            yield Parameter(name, shard, entry, match)
        elif stack := self.stacks.get(name):
            for part, inside in views(entry, stack):
                yield Parameter(name, shard, inside, part)

    @cached_property
    def modules(self) -> Mapping[tuple[Row, Slots], Module]:
        """Every module with at least one parameter, in file order."""
        grouped: dict[tuple[Row, Slots], dict[str, Parameter]] = {}
        for shard in self.weights.shards:
            for parameter in self.shard(shard):
                key = (parameter.match.row, parameter.match.slots)
                grouped.setdefault(key, {})[parameter.suffix] = parameter
        return {
            (row, slots): Module(row, slots, self.naming.module(row, slots), parameters)
            for (row, slots), parameters in grouped.items()
        }

    def has(self, native_name: str) -> bool:
        """Whether a module without slots is present, by its native name (`output`)."""
        return any(row.native == native_name for row, _ in self.modules)

    @property
    def linears(self) -> list[Module]:
        """Every module with a weight matrix, output head included."""
        return [module for module in self.modules.values() if module.row.kind in LINEAR_KINDS]


def open_checkpoint(weights: WeightSet) -> Checkpoint:
    """Match a weight set; its family and HF prefix generation are told from its names."""
    detect = detect_hf if weights.stem == HF_STEM else detect_native
    return Checkpoint(weights, detect(weights.tensors))


def expected_modules(naming: Naming, symbols: Symbols) -> Iterator[tuple[Row, Slots]]:
    """The modules that a model with these params has under a naming, or may have."""
    for row in naming.family.rows:
        if naming.has(row) and row.expected(symbols):
            yield from ((row, slots) for slots in row.instances(symbols))


def unknown_tensor(checkpoint: Checkpoint, name: str) -> MmfmtError:
    """The error for a tensor of `Checkpoint.unknown`."""
    shard = next(s for s, header in checkpoint.weights.headers.items() if name in header.tensors)
    if other := checkpoint.doubled.get(name):
        problem = f"holds the same parameter as {other}"
        return MmfmtError(f"{shard}: {name}", problem, "remove one of the two")
    problem = f"no {checkpoint.naming.label} tensor has this name"
    nearest = checkpoint.naming.nearest(name)
    return MmfmtError(f"{shard}: {name}", problem, f"nearest known: {nearest}")
