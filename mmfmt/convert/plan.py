"""The plan of a conversion: frozen, printable, JSON-able (dataclasses.asdict).

It knows bytes, not models.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["copied", "renamed", "row-permuted"]


@dataclass(frozen=True)
class Copy:
    """`length` bytes from `offset` (from the start of the file) of a source file, unchanged."""

    source: str
    offset: int
    length: int


@dataclass(frozen=True)
class Rows:
    """Rows of `row_bytes` from HF to native order, head by head.

    A head is `head_dim` rows: the two halves of rotary pairs, woven into pairs.
    """

    source: str
    offset: int
    heads: int
    head_dim: int
    row_bytes: int

    @property
    def length(self) -> int:
        return self.heads * self.head_dim * self.row_bytes


@dataclass(frozen=True)
class PackedRows:
    """As `Rows`, for I32 words that hold `bits`-wide values of several rows (packed along dim 0).

    The stored shape is [ceil(heads * head_dim * bits / 32), columns].
    """

    source: str
    offset: int
    heads: int
    head_dim: int
    bits: int
    columns: int

    @property
    def length(self) -> int:
        return -(-self.heads * self.head_dim * self.bits // 32) * self.columns * 4


Segment = Copy | Rows | PackedRows


@dataclass(frozen=True)
class PlannedTensor:
    """One output tensor: its entry in the new header, and where its bytes come from."""

    name: str
    source_name: str
    dtype: str
    shape: tuple[int, ...]
    segment: Segment

    @property
    def action(self) -> Action:
        if not isinstance(self.segment, Copy):
            return "row-permuted"
        return "copied" if self.name == self.source_name else "renamed"


@dataclass(frozen=True)
class PlannedShard:
    """One output weight file; tensors in the order of their bytes."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def data_bytes(self) -> int:
        return sum(tensor.segment.length for tensor in self.tensors)

    @property
    def actions(self) -> Counter[Action]:
        return Counter(tensor.action for tensor in self.tensors)

    def segments(self) -> Iterator[Segment]:
        """The tensors' segments, neighbouring copies joined into one."""
        pending: Copy | None = None
        for segment in (tensor.segment for tensor in self.tensors):
            if pending and isinstance(segment, Copy) and _adjoins(pending, segment):
                pending = Copy(pending.source, pending.offset, pending.length + segment.length)
                continue
            if pending:
                yield pending
            pending = segment if isinstance(segment, Copy) else None
            if pending is None:
                yield segment
        if pending:
            yield pending


def _adjoins(first: Copy, second: Copy) -> bool:
    return first.source == second.source and first.offset + first.length == second.offset


@dataclass(frozen=True)
class Plan:
    """Everything a conversion will write into `target`.

    `texts` are small files by name with their content, written after the shards in this
    order; `copies` are (name, source path) of companion files. `replaces` are files that lie
    in the target and give way to the new ones: an older set, of whatever sharding.
    """

    source: str
    target: str
    shards: tuple[PlannedShard, ...]
    texts: tuple[tuple[str, str], ...] = field(repr=False, default=())
    copies: tuple[tuple[str, str], ...] = ()
    replaces: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def data_bytes(self) -> int:
        return sum(shard.data_bytes for shard in self.shards)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files written, in the order in which they are published."""
        names = [shard.name for shard in self.shards]
        return (*names, *(name for name, _ in self.copies), *(name for name, _ in self.texts))
