"""The bytes of a segment, a bounded piece at a time: to be written, or to be compared."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

from mmfmt.convert.plan import Blocks, Copy, Segment, Sinusoids
from mmfmt.repo import CHUNK
from mmfmt.storage import OpenFile, Range, Storage

if TYPE_CHECKING:
    from mmfmt.arrays import Array

# less where steps unpack words: a byte for every bit
BLOCKS_CHUNK = 2 << 20

Files = Mapping[str, OpenFile]
"""Open source files by name."""


@contextmanager
def opened(storage: Storage, segments: Iterable[Segment]) -> Iterator[Files]:
    """The source files of segments, whose bytes will be asked for in this order."""
    files: dict[str, OpenFile] = {}
    try:
        for name, ranges in _ranges(segments).items():
            files[name] = storage.open(name, ranges)
        yield files
    finally:
        for file in files.values():
            file.close()


def _ranges(segments: Iterable[Segment]) -> Mapping[str, list[Range]]:
    """The bytes that segments read, by file, neighbouring ones joined."""
    found: dict[str, list[Range]] = {}
    for segment in segments:
        if isinstance(segment, Sinusoids):
            continue
        ranges = found.setdefault(segment.source, [])
        start = segment.offset
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, segment.offset + source_bytes(segment)))
    return found


def source_bytes(segment: Copy | Blocks) -> int:
    """How many bytes of the source a segment is made of."""
    return segment.length if isinstance(segment, Copy) else segment.count * _block_bytes(segment)


def _block_bytes(segment: Blocks) -> int:
    return prod(segment.shape) * int(segment.dtype[-1])  # as in "<i4"


def stream(segment: Segment, files: Files) -> Iterator[memoryview]:
    """The output bytes of a segment in pieces of about CHUNK.

    A piece keeps its bytes until the one after the next is asked for. Raises MmfmtError where
    the source ends too early or cannot be read.
    """
    match segment:
        case Sinusoids():
            from mmfmt.convert.sinusoids import sinusoids

            yield _bytes(sinusoids(segment.rows, segment.columns, segment.dtype))
        case Copy():
            yield from _copied(segment, files[segment.source])
        case Blocks():
            yield from _made(segment, files[segment.source])


def _copied(segment: Copy, file: OpenFile) -> Iterator[memoryview]:
    views = [memoryview(bytearray(min(CHUNK, segment.length))) for _ in range(2)]
    for start in range(0, segment.length, CHUNK):
        view = views[0][: segment.length - start]
        file.read_into(view, segment.offset + start)
        yield view
        views.reverse()


def _made(segment: Blocks, file: OpenFile) -> Iterator[memoryview]:
    """A few blocks at a time through the steps."""
    import numpy as np

    block_bytes = _block_bytes(segment)
    batch = min(segment.count, max(1, BLOCKS_CHUNK // block_bytes))
    for first in range(0, segment.count, batch):
        count = min(batch, segment.count - first)
        # steps like Reorder may hand through what they were given: a buffer for each piece
        data = np.empty(count * block_bytes, np.uint8)
        file.read_into(data.data, segment.offset + first * block_bytes)
        blocks = data.view(segment.dtype).reshape(count, *segment.shape)
        for step in segment.steps:
            blocks = step(blocks)
        yield _bytes(blocks)


def _bytes(array: "Array") -> memoryview:
    import numpy as np

    return np.ascontiguousarray(array).data.cast("B")
