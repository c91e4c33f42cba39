"""The plan of a conversion: frozen, printable, JSON-able (dataclasses.asdict).

It knows bytes, not models.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from mmfmt.convert.steps import Reorder, Step

Action = Literal["copied", "renamed", "row-permuted", "re-encoded"]
ACTIONS: tuple[Action, ...] = ("copied", "renamed", "row-permuted", "re-encoded")


@dataclass(frozen=True)
class Copy:
    """`length` bytes from `offset` (from the start of the file) of a source file, unchanged."""

    source: str
    offset: int
    length: int


@dataclass(frozen=True)
class Blocks:
    """`count` equal blocks from `offset`, each taken through `steps`; `length` bytes come out.

    A block is an array of `shape` and numpy `dtype`: a head, a row, or a whole small tensor.
    """

    source: str
    offset: int
    length: int
    count: int
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Sinusoids:
    """Whisper's positions, which the consolidated layout does not store: [rows, columns]."""

    rows: int
    columns: int
    dtype: str
    length: int


Segment = Copy | Blocks | Sinusoids


@dataclass(frozen=True)
class PlannedTensor:
    """One output tensor: its entry in the new header, and where its bytes come from.

    Several segments are parts of one tensor, one behind the other.
    """

    name: str
    source_name: str
    dtype: str
    shape: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def length(self) -> int:
        """Bytes of the output tensor."""
        return sum(segment.length for segment in self.segments)

    @property
    def action(self) -> Action:
        steps = [
            s for segment in self.segments if isinstance(segment, Blocks) for s in segment.steps
        ]
        if any(isinstance(step, Reorder) for step in steps):
            return "row-permuted"
        if steps:
            return "re-encoded"
        return "copied" if self.name == self.source_name else "renamed"


@dataclass(frozen=True)
class PlannedShard:
    """One output weight file; tensors in the order of their bytes."""

    name: str
    tensors: tuple[PlannedTensor, ...]
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def data_bytes(self) -> int:
        return sum(tensor.length for tensor in self.tensors)

    @property
    def actions(self) -> Counter[Action]:
        return Counter(tensor.action for tensor in self.tensors)

    def segments(self) -> Iterator[Segment]:
        """The tensors' segments, neighbouring copies joined into one."""
        return _joined(segment for tensor in self.tensors for segment in tensor.segments)


def _joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    pending: Segment | None = None
    for segment in segments:
        if both := pending and _union(pending, segment):
            pending = both
            continue
        if pending:
            yield pending
        pending = segment
    if pending:
        yield pending


def _union(first: Segment, second: Segment) -> Copy | None:
    """One copy for two that adjoin."""
    if not isinstance(first, Copy) or not isinstance(second, Copy):
        return None
    if first.source != second.source or first.offset + first.length != second.offset:
        return None
    return Copy(first.source, first.offset, first.length + second.length)


@dataclass(frozen=True)
class Dropped:
    """A tensor of the source that the other layout has no use for."""

    name: str
    reason: str


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
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def data_bytes(self) -> int:
        return sum(shard.data_bytes for shard in self.shards)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files written, in the order in which they are published."""
        names = [shard.name for shard in self.shards]
        return (*names, *(name for name, _ in self.copies), *(name for name, _ in self.texts))
