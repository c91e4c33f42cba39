"""Carry out a plan: stream bytes into a staging folder, check them, then publish by renames.

Knows files, offsets and buffers; knows nothing of models. Memory stays bounded by `CHUNK`
(or one block: an attention head), whatever the size of a shard.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from mmfmt.convert.plan import Blocks, Copy, Plan, PlannedShard, Segment, Sinusoids
from mmfmt.convert.steps import sinusoids
from mmfmt.errors import MmfmtError
from mmfmt.header import Entry, Header, encode_header, read_header
from mmfmt.storage import Folder

CHUNK = 8 << 20
# less where steps unpack words: a byte for every bit
BLOCKS_CHUNK = 2 << 20
STAGING_PREFIX = ".mmfmt-"
# room for headers, index and the like when free space is checked
_SLACK = 16 << 20
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)

Advance = Callable[[int], None]
"""Called with each number of bytes written."""


def check_target(plan: Plan, force: bool) -> None:
    """Refuse a plan that would overwrite files (without `force`) or does not fit the disk."""
    target = Path(plan.target)
    if plan.replaces and not force:
        found = ", ".join(plan.replaces[:3]) + (", ..." if len(plan.replaces) > 3 else "")
        raise MmfmtError(plan.target, f"holds {found} already", "use --force to replace them")
    existing = next(p for p in (target.absolute(), *target.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise MmfmtError(str(existing), "is not a folder")
    free, needed = shutil.disk_usage(existing).free, plan.data_bytes + _SLACK
    if free < needed:
        problem = f"{free:,} bytes are free, {needed:,} are needed"
        raise MmfmtError(plan.target, problem, "make room or name another DST")


def execute(plan: Plan, advance: Advance) -> None:
    """Write everything the plan names; nothing is visible under its final name until all is.

    Files that the plan replaces are put back if publishing fails. Raises MmfmtError; the
    staging folder is removed whatever happens.
    """
    target = Path(plan.target)
    with _errors_in_one_line(plan.target), _staging(target) as staging:
        for shard in plan.shards:
            _write_shard(staging / shard.name, shard, advance)
            _fsync(staging / shard.name)
        for name, source in plan.copies:
            shutil.copyfile(source, staging / name)
        for name, text in plan.texts:
            (staging / name).write_text(text, encoding="utf-8")
        _publish(plan, staging, target)


@contextmanager
def _errors_in_one_line(target: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = str(error.filename or target)
        raise MmfmtError(place, f"{error.strerror or error}", "nothing was published") from error


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden folder inside the target, which no loader looks into."""
    created = [folder for folder in (target, *target.parents) if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    try:
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=target))
        try:
            yield staging
        finally:
            shutil.rmtree(staging)
    except BaseException:
        for folder in created:
            folder.rmdir()
        raise


def _write_shard(path: Path, shard: PlannedShard, advance: Advance) -> None:
    header = _header(shard)
    with path.open("wb", buffering=0) as out:
        out.write(encode_header(header))
        for segment in shard.segments():
            for written in _transfer(segment, out):
                advance(written)
    _check_shard(path, header)


def _header(shard: PlannedShard) -> Header:
    entries: dict[str, Entry] = {}
    end = 0
    for tensor in shard.tensors:
        start, end = end, end + tensor.length
        entries[tensor.name] = Entry(tensor.dtype, tensor.shape, start, end)
    return Header(entries, dict(shard.metadata))


def _check_shard(path: Path, header: Header) -> None:
    """Read a finished shard back, with our own reader and with safetensors'."""
    written = read_header(Folder(path.parent), path.name)
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise MmfmtError(path.name, f"safetensors cannot read it back: {error}") from error
    if written.tensors != header.tensors or names != set(header.tensors):
        raise MmfmtError(path.name, "does not read back as it was written", "check the disk")


def _transfer(segment: Segment, out: BinaryIO) -> Iterator[int]:
    if isinstance(segment, Sinusoids):
        _write(out, sinusoids(segment.rows, segment.columns, segment.dtype).data)
        yield segment.length
        return
    with Path(segment.source).open("rb", buffering=0) as source:
        source.seek(segment.offset)
        if isinstance(segment, Copy):
            yield from _copy(segment, source, out)
        else:
            yield from _blocks(segment, source, out)


def _copy(segment: Copy, source: BinaryIO, out: BinaryIO) -> Iterator[int]:
    """Copy inside the kernel where it can, else through a buffer."""
    left = segment.length
    try:
        while left and (done := _kernel_copy(source, out, min(left, 8 * CHUNK))):
            left -= done
            yield done
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    while left:
        data = _read(source, min(left, CHUNK))
        _write(out, data)
        left -= len(data)
        yield len(data)


def _kernel_copy(source: BinaryIO, out: BinaryIO, count: int) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    return os.copy_file_range(source.fileno(), out.fileno(), count)


def _blocks(segment: Blocks, source: BinaryIO, out: BinaryIO) -> Iterator[int]:
    """Take a few blocks at a time through the steps."""
    block_bytes = prod(segment.shape) * np.dtype(segment.dtype).itemsize
    batch = max(1, BLOCKS_CHUNK // block_bytes)
    for first in range(0, segment.count, batch):
        count = min(batch, segment.count - first)
        data = np.frombuffer(_read(source, count * block_bytes), dtype=segment.dtype)
        blocks = data.reshape(count, *segment.shape)
        for step in segment.steps:
            blocks = step(blocks)
        _write(out, np.ascontiguousarray(blocks).data)
        yield blocks.nbytes


def _read(source: BinaryIO, count: int) -> bytes:
    data = source.read(count)
    while len(data) < count:  # the kernel may give less than it was asked for
        more = source.read(count - len(data))
        if not more:
            raise MmfmtError(source.name, "became shorter while it was read")
        data += more
    return data


def _write(out: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[out.write(view) :]


def _publish(plan: Plan, staging: Path, target: Path) -> None:
    """Rename everything into place, index and params.json last; undo all if a rename fails."""
    for name in plan.files[len(plan.shards) :]:
        _fsync(staging / name)
    retired = staging / "replaced"
    retired.mkdir()
    moves = [(target / name, retired / name) for name in reversed(plan.replaces)]
    moves += [(staging / name, target / name) for name in plan.files]
    done: list[tuple[Path, Path]] = []
    try:
        for old, new in moves:
            old.rename(new)
            done.append((old, new))
        _fsync(target)
    except BaseException:
        for old, new in reversed(done):
            new.rename(old)
        raise


def _fsync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
