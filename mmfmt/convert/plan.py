"""The plan of a conversion: frozen, printable, JSON-able (dataclasses.asdict).

It knows bytes, not models.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Literal

from mmfmt import __version__
from mmfmt.convert.steps import Reorder, Step
from mmfmt.header import BLOCK, Entry, Header

Action = Literal["copied", "renamed", "row-permuted", "re-encoded"]
ACTIONS: tuple[Action, ...] = ("copied", "renamed", "row-permuted", "re-encoded")


@dataclass(frozen=True)
class Copy:
    """`length` bytes from `offset` (from the start of the file) of a source file, unchanged.

    `source` is the file's name in the source repo.
    """

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

    @property
    def sources(self) -> frozenset[str]:
        """Names of the source files that bytes are read from."""
        segments = (segment for tensor in self.tensors for segment in tensor.segments)
        return frozenset(s.source for s in segments if not isinstance(s, Sinusoids))

    @property
    def header(self) -> Header:
        """The header of the file; its data starts as `_congruent` says."""
        entries: dict[str, Entry] = {}
        end = 0
        for tensor in self.tensors:
            start, end = end, end + tensor.length
            entries[tensor.name] = Entry(tensor.dtype, tensor.shape, start, end)
        return Header(entries, dict(self.metadata)).starting_at(_congruent(self.tensors))


def _congruent(tensors: Iterable[PlannedTensor]) -> int:
    """Where in a block the data has to start for most bytes to keep their place in a block.

    File systems share whole blocks only, so that copies elsewhere in a block cost a copy.
    """
    offset, weights = 0, Counter({0: 1})
    for segment in (segment for tensor in tensors for segment in tensor.segments):
        if isinstance(segment, Copy):
            weights[(segment.offset - offset) % BLOCK] += segment.length
        offset += segment.length
    # an odd start would put every tensor where its values are not aligned
    return max((place for place in weights if place % 8 == 0), key=lambda place: weights[place])


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
class SourceFile:
    """A weight file of the source as it was planned from: bytes of its header, and their sha256."""

    name: str
    size: int
    header_bytes: int
    header_sha256: str


@dataclass(frozen=True)
class Plan:
    """Everything a conversion will write into `target`.

    `source` and `target` are addresses of repos: folders, or hf://org/name[@commit]. `texts` are
    small files by name with their content, written after the shards in this order; `copies` are
    (name, local path) of companion files. `replaces` are files that lie in the target and give
    way to the new ones: an older set, of whatever sharding.
    """

    source: str
    target: str
    sources: tuple[SourceFile, ...]
    shards: tuple[PlannedShard, ...]
    texts: tuple[tuple[str, str], ...] = field(repr=False, default=())
    copies: tuple[tuple[str, str], ...] = ()
    replaces: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()

    @cached_property
    def identity(self) -> str:
        """sha256, in hex, of all that decides on the bytes of the shards, wherever they lie."""
        parts = (__version__, *self.sources, *self.shards)
        # as dataclasses.asdict has them, which copies everything first
        return sha256(json.dumps(parts, default=vars).encode()).hexdigest()

    def sources_of(self, shard: PlannedShard) -> tuple[SourceFile, ...]:
        """The source files that a shard is made from."""
        names = shard.sources
        return tuple(file for file in self.sources if file.name in names)

    def part(self, number: int, count: int) -> tuple[PlannedShard, ...]:
        """The shards of one of `count` parts, which are numbered from 1."""
        return self.shards[number - 1 :: count]

    @property
    def data_bytes(self) -> int:
        return sum(shard.data_bytes for shard in self.shards)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files written, in the order in which they are published."""
        return (*(shard.name for shard in self.shards), *self.small_files)

    @property
    def small_files(self) -> tuple[str, ...]:
        """Names of the files beside the shards, in the order in which they are published."""
        return tuple(name for name, _ in (*self.copies, *self.texts))
