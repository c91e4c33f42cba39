"""Conversions of the W4A16 example, most of whose bytes stay as they are."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mmfmt.convert import output
from mmfmt.convert.consolidated import Request, plan_consolidated
from mmfmt.convert.execute import Options, execute
from mmfmt.convert.plan import Plan
from mmfmt.convert.shard_task import Written
from mmfmt.header import BLOCK
from mmfmt.reader import reader
from mmfmt.repo import open_repo
from mmfmt.storage import Folder
from tests import builders

NATIVE = "consolidated.safetensors"


def w4a16(folder: Path) -> Path:
    """The example, 4.7 MB with tensors of 16 to 256 blocks."""
    return builders.copy_repo(builders.W4A16, folder)


def planned(source: Path, target: Path) -> Plan:
    """The plan of a conversion for vLLM."""
    return plan_consolidated(Request(open_repo(source), Folder(target), reader("vllm")))


def converted(source: Path, target: Path, hashed: bool = True) -> Written:
    """Convert a repo of one shard; what is on record of it."""
    done = execute(planned(source, target), Options(target, hashed=hashed))
    assert len(done.written) == 1
    return done.written[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    """What is written of these files where nothing is hashed."""
    assert "SHA256SUMS" in files
    return {name: content for name, content in files.items() if name != "SHA256SUMS"}


def refused(*_: int) -> bool:
    """A clone on a file system that cannot."""
    return False


def plain_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON of a safetensors file, and where its data starts."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def pad_header(path: Path, place: int) -> None:
    """Let a file's data start `place` bytes into a block."""
    raw, (header, start) = path.read_bytes(), plain_header(path)
    text = json.dumps(header).encode()
    text += b" " * ((place - 8 - len(text)) % BLOCK)
    builders.rewrite(path, len(text).to_bytes(8, "little") + text + raw[start:])


def same_tensors(first: Path, second: Path) -> bool:
    """Whether safetensors reads the same bits from two files."""
    bits = [
        {name: builders.bits_of(t) for name, t in load_file(p).items()} for p in (first, second)
    ]
    return bits[0] == bits[1]


def unavailable(*_: int) -> int:
    """copy_file_range of a system without it."""
    raise AssertionError


class KernelCopies:
    """copy_file_range of `limit` bytes at most; from call `last` on it fails with an errno."""

    def __init__(self, limit: int = 1 << 30, last: int = 1 << 30, number: int = 0) -> None:
        self._limit, self._last, self._number = limit, last, number
        self._real: Callable[..., int] = getattr(os, "copy_file_range", unavailable)
        self.calls = 0

    def __call__(self, source: int, target: int, length: int, offset: int) -> int:
        self.calls += 1
        if self.calls >= self._last:
            raise OSError(self._number, os.strerror(self._number))
        return self._real(source, target, min(length, self._limit), offset)


def read_and_written(folder: Path) -> dict[str, bytes]:
    """The files that come of the example when nothing but read and write can be used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "clone", refused)
        patch.setattr(os, "copy_file_range", KernelCopies(last=1, number=errno.ENOSYS), False)
        written = converted(w4a16(folder / "plain"), folder / "plain-out")
    assert written.cloned == 0
    return contents(folder / "plain-out")
