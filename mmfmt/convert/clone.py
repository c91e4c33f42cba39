"""Blocks that two files share: a copy that neither reads nor writes (XFS, btrfs, NFS 4.2)."""

import struct
import sys
from contextlib import suppress
from pathlib import Path

from mmfmt.convert.plan import Copy, PlannedShard
from mmfmt.header import BLOCK

# linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_FICLONERANGE = 0x4020940D


def clone(source: int, offset: int, target: int, place: int, length: int) -> bool:
    """Let `target` share bytes with `source`, two file descriptors; whether that worked.

    All three numbers are bytes, and multiples of the file system's block size.
    """
    if sys.platform != "linux":
        return False
    from fcntl import ioctl

    request = struct.pack("=qQQQ", source, offset, length, place)
    with suppress(OSError):  # another file system, or one that cannot: the bytes are copied
        ioctl(target, _FICLONERANGE, request)
        return True
    return False


def whole_blocks(offset: int, place: int, length: int) -> tuple[int, int]:
    """The part [start, stop) of a run of bytes that can be cloned, counted from its beginning.

    `offset` and `place` are where it lies in the source and in the target. Empty where the two
    lie differently in a block.
    """
    start = -offset % BLOCK
    stop = (offset + length) // BLOCK * BLOCK - offset
    return (start, stop) if (offset - place) % BLOCK == 0 and start < stop else (0, 0)


def can_clone(source: Path, folder: Path) -> bool:
    """Whether files of a folder can share blocks with a source file of a block or more."""
    probe = folder / "clone-probe"
    try:
        with source.open("rb") as file, probe.open("wb") as out:
            return clone(file.fileno(), 0, out.fileno(), 0, BLOCK)
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def new_bytes(shard: PlannedShard) -> int:
    """Bytes of a shard that no clone can give."""
    header = shard.header
    total, place = header.data_start + header.data_bytes, header.data_start
    for segment in shard.segments():
        if isinstance(segment, Copy):
            start, stop = whole_blocks(segment.offset, place, segment.length)
            total -= stop - start
        place += segment.length
    return total
