"""The bytes of a segment, a bounded piece at a time: to be written, or to be compared."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmfmt.arrays import Array
from mmfmt.convert.plan import Blocks, Copy, Segment, Sinusoids
from mmfmt.convert.steps import sinusoids
from mmfmt.errors import MmfmtError
from mmfmt.repo import CHUNK

# less where steps unpack words: a byte for every bit
BLOCKS_CHUNK = 2 << 20


def stream(segment: Segment) -> Iterator[memoryview]:
    """The output bytes of a segment in pieces of about CHUNK, read from its source file.

    Raises OSError, or MmfmtError where the source ends too early.
    """
    if isinstance(segment, Sinusoids):
        yield _bytes(sinusoids(segment.rows, segment.columns, segment.dtype))
        return
    with Path(segment.source).open("rb", buffering=0) as source:
        source.seek(segment.offset)
        yield from _copied(segment, source) if isinstance(segment, Copy) else _made(segment, source)


def _copied(segment: Copy, source: BinaryIO) -> Iterator[memoryview]:
    for start in range(0, segment.length, CHUNK):
        yield memoryview(_read(source, min(CHUNK, segment.length - start)))


def _made(segment: Blocks, source: BinaryIO) -> Iterator[memoryview]:
    """A few blocks at a time through the steps."""
    block_bytes = prod(segment.shape) * np.dtype(segment.dtype).itemsize
    batch = max(1, BLOCKS_CHUNK // block_bytes)
    for first in range(0, segment.count, batch):
        count = min(batch, segment.count - first)
        data = np.frombuffer(_read(source, count * block_bytes), dtype=segment.dtype)
        blocks = data.reshape(count, *segment.shape)
        for step in segment.steps:
            blocks = step(blocks)
        yield _bytes(blocks)


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


def _read(source: BinaryIO, count: int) -> bytes:
    data = source.read(count)
    while len(data) < count:  # the kernel may give less than it was asked for
        more = source.read(count - len(data))
        if not more:
            raise MmfmtError(source.name, "became shorter while it was read")
        data += more
    return data
