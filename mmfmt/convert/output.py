"""A weight file under way: cloned, copied by the kernel or written, hashed as it passes."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from mmfmt.convert.clone import clone, whole_blocks
from mmfmt.convert.plan import Copy, Segment
from mmfmt.convert.stream import Files, stream
from mmfmt.local_file import LocalFile, release
from mmfmt.repo import CHUNK, Advance, silent

_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


class Hash:
    """sha256 of bytes in their order, computed in a thread beside the one that reads them."""

    def __init__(self) -> None:
        self._digest, self._pool = sha256(), ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._buffers: list[memoryview] = []

    def update(self, view: memoryview) -> None:
        """Take up bytes, which must stay as they are until the next call."""
        self._wait()
        self._pending = self._pool.submit(self._digest.update, view)

    def read(self, source: LocalFile, offset: int, length: int) -> None:
        """Take up bytes of a file, CHUNK at most."""
        self._buffers = self._buffers or [memoryview(bytearray(CHUNK)) for _ in range(2)]
        view = self._buffers[0][:length]
        source.read_into(view, offset)
        self.update(view)
        self._buffers.reverse()

    def hexdigest(self) -> str:
        self._wait()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._pool.shutdown()

    def _wait(self) -> None:
        if self._pending:
            self._pending.result()


def sha256_of(path: Path, advance: Advance = silent) -> str:
    """The hash of a file in hex, none of which stays in the page cache.

    `advance` is told of 0 bytes now and then, so that it can stop this.
    """
    with closing(LocalFile(path.name, path)) as file:
        digest, buffer, size = sha256(), bytearray(CHUNK), path.stat().st_size
        for start in range(0, size, CHUNK):
            view = memoryview(buffer)[: size - start]
            file.read_into(view, start)
            digest.update(view)
            file.forget(start, start + len(view))
            advance(0)
        return digest.hexdigest()


class Output:
    """A new file that is written from beginning to end.

    `cloned` and `copied` count bytes that were taken over unchanged, `permuted` all others. What
    a file system cannot do is tried once, then done another way: the same bytes come out.
    """

    def __init__(self, path: Path, hashed: bool) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = Hash() if hashed else None
        self._clones = self._kernel_copies = True
        self.cloned = self.copied = self.permuted = 0

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._hash:
            self._hash.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, which must stay as they are until the next call."""
        view = memoryview(data).cast("B")
        if self._hash:
            self._hash.update(view)
        size = len(view)
        while view:  # the kernel may take less than it was given
            view = view[self._file.write(view) :]
        self._begin_writeback(size)

    def transfer(self, segment: Segment, files: Files) -> Iterator[int]:
        """Append a segment; yields each number of bytes that is done."""
        if isinstance(segment, Copy):
            yield from self._taken_over(segment, files)
            return
        for piece in stream(segment, files):
            self.write(piece)
            self.permuted += len(piece)
            yield len(piece)

    def sha256(self) -> str | None:
        """The hash in hex of what was appended, for a file that is hashed."""
        return self._hash.hexdigest() if self._hash else None

    def _taken_over(self, segment: Copy, files: Files) -> Iterator[int]:
        """Clone the whole blocks of a run; copy the rest of it."""
        source = files[segment.source]
        start, stop = whole_blocks(segment.offset, self._file.tell(), segment.length)
        if self._clones and start < stop and isinstance(source, LocalFile):
            yield from self._copied(_part(segment, 0, start), files)
            if self._cloned(_part(segment, start, stop), source):
                yield from self._hashed(_part(segment, start, stop), source)
                start = stop
            segment = _part(segment, start, segment.length)
        yield from self._copied(segment, files)

    def _cloned(self, part: Copy, source: LocalFile) -> bool:
        place = self._file.tell()
        self._clones = clone(
            source.descriptor, part.offset, self._file.fileno(), place, part.length
        )
        if self._clones:
            self._file.seek(part.length, os.SEEK_CUR)
            self.cloned += part.length
        return self._clones

    def _hashed(self, part: Copy, source: LocalFile) -> Iterator[int]:
        """Read cloned bytes for the hash: in the source, as memory may hold them already."""
        if not self._hash:
            yield part.length
            return
        for start in range(0, part.length, CHUNK):
            count = min(CHUNK, part.length - start)
            self._hash.read(source, part.offset + start, count)
            source.forget(part.offset + start, part.offset + start + count)
            yield count

    def _copied(self, part: Copy, files: Files) -> Iterator[int]:
        source = files[part.source]
        if self._kernel_copies and isinstance(source, LocalFile):
            for count in self._by_kernel(part, source):
                self.copied += count
                yield count
                part = _part(part, count, part.length)
        for piece in stream(part, files):
            self.write(piece)
            self.copied += len(piece)
            yield len(piece)

    def _by_kernel(self, part: Copy, source: LocalFile) -> Iterator[int]:
        """Copy inside the kernel, as far as it can."""
        start, stop = part.offset, part.offset + part.length
        while start < stop:
            count = self._kernel_copy(source.descriptor, start, min(CHUNK, stop - start))
            if not count:
                return
            if self._hash:
                self._hash.read(source, start, count)
            source.forget(start, start + count)
            self._begin_writeback(count)
            start += count
            yield count

    def _begin_writeback(self, count: int) -> None:
        """Send what was appended last on its way: the disk would idle, and all wait at the end."""
        place = self._file.tell()
        release(self._file.fileno(), place - count, place)

    def _kernel_copy(self, source: int, offset: int, length: int) -> int:
        try:
            if hasattr(os, "copy_file_range"):
                return os.copy_file_range(source, self._file.fileno(), length, offset)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
        self._kernel_copies = False
        return 0


def _part(copy: Copy, start: int, stop: int) -> Copy:
    """Bytes [start, stop) of a copy."""
    return Copy(copy.source, copy.offset + start, stop - start)
