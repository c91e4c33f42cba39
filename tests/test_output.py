"""Unchanged bytes where nothing is shared: copied by the kernel, or read and written."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest

from mmfmt.convert import output, stream
from mmfmt.errors import MmfmtError
from mmfmt.header import BLOCK
from tests.unchanged import (
    NATIVE,
    KernelCopies,
    contents,
    converted,
    read_and_written,
    refused,
    w4a16,
    without_manifest,
)

# neither whole blocks nor an even part of any tensor
SMALL_CHUNK = 3 * BLOCK + 8

CANNOT = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
needs_kernel_copies = pytest.mark.skipif(
    not hasattr(os, "copy_file_range"), reason="no copy_file_range on this system"
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that come of the example when all bytes are read and written."""
    return read_and_written(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clones, and small chunks, so that a small tensor has several."""
    monkeypatch.setattr(output, "clone", refused)
    monkeypatch.setattr(output, "CHUNK", SMALL_CHUNK)
    monkeypatch.setattr(stream, "CHUNK", SMALL_CHUNK)


def data_start(content: bytes) -> int:
    """Where the data of a safetensors file starts."""
    return 8 + int.from_bytes(content[:8], "little")


@needs_kernel_copies
@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    ("copies", "calls"),
    [
        (KernelCopies(), None),
        (KernelCopies(limit=5000), None),
        *((KernelCopies(last=1, number=number), 1) for number in CANNOT),
        (KernelCopies(last=3, number=errno.EXDEV), 3),
        (KernelCopies(limit=5000, last=2, number=errno.ENOSYS), 2),
    ],
    ids=["kernel", "short", *(errno.errorcode[number] for number in CANNOT), "third", "torn"],
)
def test_without_clones(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
    copies: KernelCopies,
    calls: int | None,
    hashed: bool,
) -> None:
    """Whatever the kernel gives: the same files and hash. What it cannot is tried once."""
    copies.calls = 0
    monkeypatch.setattr(os, "copy_file_range", copies)
    written = converted(w4a16(tmp_path / "hf"), tmp_path / "out", hashed)
    assert copies.calls > 100 if calls is None else copies.calls == calls
    assert written.cloned == 0
    assert written.copied + written.permuted == written.size - data_start(expected[NATIVE])
    assert contents(tmp_path / "out") == (expected if hashed else without_manifest(expected))
    assert written.sha256 == (sha256(expected[NATIVE]).hexdigest() if hashed else None)


@pytest.mark.usefixtures("no_clones")
def test_where_there_are_no_kernel_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    """A Python without copy_file_range, as on macOS."""
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    converted(w4a16(tmp_path / "hf"), tmp_path / "out")
    assert contents(tmp_path / "out") == expected


@needs_kernel_copies
@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What is wrong with the disk is said, not worked around; nothing stays."""
    source = w4a16(tmp_path / "hf")
    monkeypatch.setattr(os, "copy_file_range", KernelCopies(last=3, number=number))
    with pytest.raises(MmfmtError, match=os.strerror(number)):
        converted(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
