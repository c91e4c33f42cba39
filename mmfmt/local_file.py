"""A file on the local disk, read in large parts that nobody will want again."""

import os
from pathlib import Path

from mmfmt.errors import MmfmtError


class LocalFile:
    """An open file of a folder, as mmfmt.storage.OpenFile. `name` is what messages call it."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(error) from error

    @property
    def descriptor(self) -> int:
        """For system calls on the file."""
        return self._descriptor

    @property
    def signature(self) -> tuple[int, ...]:
        """Inode, size in bytes, and both times in nanoseconds.

        Nobody can set ctime, so that a file that was written to has another signature.
        """
        found = os.fstat(self._descriptor)
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read_into(self, view: memoryview, offset: int) -> None:
        done = 0
        try:
            # the kernel may give less than it was asked for
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
                if not count:
                    raise MmfmtError(self._name, "became shorter while it was read")
                done += count
        except OSError as error:
            raise self._unreadable(error) from error

    def forget(self, start: int, stop: int) -> None:
        """Drop these bytes from the page cache: a shard read once crowds out what is in use."""
        release(self._descriptor, start, stop)

    def close(self) -> None:
        os.close(self._descriptor)

    def _unreadable(self, error: OSError) -> MmfmtError:
        return MmfmtError(self._name, f"cannot be read: {error.strerror}")


def release(descriptor: int, start: int, stop: int) -> None:
    """Drop bytes from the page cache, or begin to write those that are not on the disk yet."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
