"""Carry out a plan: stream bytes into a staging folder, check them, then publish by renames.

Knows files, offsets and buffers; knows nothing of models. Memory stays bounded by `CHUNK`
(or one block: an attention head), whatever the size of a shard.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from mmfmt.convert.plan import Copy, Plan, PlannedShard, Segment
from mmfmt.convert.stream import stream
from mmfmt.errors import MmfmtError
from mmfmt.header import Entry, Header, encode_header, read_header
from mmfmt.repo import CHUNK, Advance
from mmfmt.storage import Folder

STAGING_PREFIX = ".mmfmt-"
# room for headers, index and the like when free space is checked
_SLACK = 16 << 20
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


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
    if isinstance(segment, Copy):
        for done in _kernel_copies(segment, out):
            yield done
            segment = Copy(segment.source, segment.offset + done, segment.length - done)
    for piece in stream(segment):
        _write(out, piece)
        yield len(piece)


def _kernel_copies(segment: Copy, out: BinaryIO) -> Iterator[int]:
    """Copy inside the kernel, as far as it can."""
    if not hasattr(os, "copy_file_range"):
        return
    left, offset = segment.length, segment.offset
    with Path(segment.source).open("rb", buffering=0) as source:
        descriptors = source.fileno(), out.fileno()
        try:
            while left and (done := os.copy_file_range(*descriptors, min(left, 8 * CHUNK), offset)):
                left, offset = left - done, offset + done
                yield done
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise


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
