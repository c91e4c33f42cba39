"""What a reader of consolidated sets expects: row order and scale names (readers.toml)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from mmfmt.checkpoint import Module
from mmfmt.layout import Row
from mmfmt.repo import WeightSet
from mmfmt.schemas import table

# where a shard's __metadata__ records the reader that its row order was made for
METADATA_KEY = "mmfmt.reader"


@dataclass(frozen=True)
class Reader:
    """One reader of `readers.toml`."""

    label: str
    native_rows: tuple[str, ...]
    scale_names: Mapping[str, str]

    def suffix(self, module: Module, suffix: str, shape: tuple[int, ...]) -> str:
        """A parameter's suffix in a consolidated set.

        A per-row scale, [out] or [out, 1], beside an unpacked `weight` of a rotary module may
        have a name of its own; everything else keeps its suffix.
        """
        per_row = shape and prod(shape) == shape[0] > 1
        if per_row and module.row.rotary and "weight" in module.parameters:
            return self.scale_names.get(suffix, suffix) if module.row.rows == "reader" else suffix
        return suffix

    def wants_native_rows(self, row: Row, suffix: str) -> bool:
        """Whether a parameter of a rotary module lies in Mistral's row order in the file."""
        if not row.rotary:
            return False
        return row.rows == "native" or "*" in self.native_rows or suffix in self.native_rows


def reader(label: str) -> Reader:
    """A reader by its label, `vllm` or `native`."""
    columns = table("readers")[label]
    return Reader(label, tuple(columns["native_rows"]), columns["scale_names"])


def reader_labels() -> tuple[str, ...]:
    return tuple(table("readers"))


def recorded_or_vllm(weights: WeightSet) -> Reader:
    """The reader that all shards record; where none does, vLLM is what reads consolidated sets."""
    said = {header.metadata.get(METADATA_KEY) for header in weights.headers.values()}
    known = [label for label in reader_labels() if said == {label}]
    return reader(known[0] if known else "vllm")
