"""Blocks shared with the source, on file systems made for it in sparse files (as root)."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest
from huggingface_hub import get_local_safetensors_metadata
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks.loop_mount import FileSystem, missing, mounted
from benchmarks.synthetic import TOKENIZER, sized, write_repo
from mmfmt.convert import clone, output
from mmfmt.convert.clone import new_bytes, whole_blocks
from mmfmt.convert.execute import Options, execute
from mmfmt.convert.plan import Copy
from mmfmt.errors import MmfmtError
from mmfmt.header import BLOCK
from tests import builders
from tests.conftest import Run
from tests.unchanged import (
    NATIVE,
    contents,
    converted,
    pad_header,
    planned,
    read_and_written,
    refused,
    same_tensors,
    w4a16,
    without_manifest,
)

# mkfs.xfs makes none that are smaller than 300 MiB
IMAGE_BYTES = 320 << 20
# filefrag's line of a shared extent: number, first..last block twice, blocks, flags
EXTENT = re.compile(r"^ *\d+:(?: *\d+\.\. *\d+:){2} *(\d+):.*\bshared\b", re.MULTILINE)


def mount(kind: FileSystem, folder: Path) -> Iterator[Path]:
    """A file system that shares blocks; without one the test is skipped."""
    if lacking := missing(kind):
        pytest.skip(f"{kind}: {lacking}")
    with ExitStack() as stack:
        try:
            place = stack.enter_context(mounted(folder, kind, IMAGE_BYTES))
        except OSError as error:
            pytest.skip(str(error))
        yield place


@pytest.fixture(params=get_args(FileSystem))
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on XFS, and one on btrfs."""
    yield from mount(request.param, tmp_path)


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A folder on XFS."""
    yield from mount("xfs", tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that come of the example when all bytes are read and written."""
    return read_and_written(tmp_path_factory.mktemp("plain"))


def shared_bytes(path: Path) -> int:
    """Bytes of a file in extents that another file has as well, as the file system says."""
    if not shutil.which("filefrag"):
        pytest.skip("filefrag is not installed")
    command = ["filefrag", "-sv", str(path)]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lengths = EXTENT.findall(report)
    return BLOCK * sum(map(int, lengths))


def test_unchanged_bytes_are_shared(sharing: Path, expected: dict[str, bytes]) -> None:
    """All but the ends of the runs between the tower's Q and K, and not a byte is another."""
    source, target = w4a16(sharing / "hf"), sharing / "out"
    shard = planned(source, target).shards[0]
    written = converted(source, target)
    runs = [segment for segment in shard.segments() if isinstance(segment, Copy)]
    assert written.cloned + written.copied == sum(run.length for run in runs)
    assert written.copied < 2 * BLOCK * len(runs)
    assert written.cloned > 0.9 * written.size
    assert written.size - written.cloned == new_bytes(shard)
    # of a tail that ends both files, the kernel's copy shares the last block too
    assert 0 <= shared_bytes(target / NATIVE) - written.cloned <= BLOCK
    assert contents(target) == expected
    assert written.sha256 == sha256(expected[NATIVE]).hexdigest()
    assert load_file(target / NATIVE).keys() == {tensor.name for tensor in shard.tensors}


def test_a_copy_that_is_written_to_leaves_the_source_alone(xfs: Path) -> None:
    """Shared is not the same file."""
    source, target = w4a16(xfs / "hf"), xfs / "out"
    before = contents(source)
    converted(source, target)
    with (target / NATIVE).open("r+b") as file:
        file.write(bytes((target / NATIVE).stat().st_size))
    assert contents(source) == before


def test_dual_repo_and_back(xfs: Path, to_consolidated: Run, to_hf: Run) -> None:
    """Both directions share, as long as the names are all that differs."""
    folder = w4a16(xfs / "dual")
    assert to_consolidated(folder).code == 0
    assert shared_bytes(folder / NATIVE) > 0.9 * (folder / NATIVE).stat().st_size
    outcome = to_hf(folder, xfs / "back", "--names", "legacy")
    assert outcome.code == 0, outcome.err
    assert "cloned" in outcome.err
    back = xfs / "back" / builders.WEIGHTS
    assert shared_bytes(back) > 0.9 * back.stat().st_size
    assert same_tensors(back, builders.W4A16 / builders.WEIGHTS)
    metadata = get_local_safetensors_metadata(back.parent).files_metadata[builders.WEIGHTS]
    assert metadata.tensors.keys() == load_file(back).keys()


def test_no_hash(xfs: Path, expected: dict[str, bytes]) -> None:
    """The same files without a manifest."""
    written = converted(w4a16(xfs / "hf"), xfs / "out", hashed=False)
    assert written.sha256 is None
    assert written.cloned > 0.9 * written.size
    assert contents(xfs / "out") == without_manifest(expected)


def test_target_elsewhere(xfs: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Two file systems share nothing: the bytes are copied."""
    written = converted(w4a16(xfs / "hf"), tmp_path / "out")
    assert written.cloned == 0
    assert written.copied > 0.9 * written.size
    assert contents(tmp_path / "out") == expected


def test_clones_need_no_room(sharing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk too full for a copy is not too full for a clone."""
    source, target = sharing / "hf", sharing / "out"
    write_repo(source, sized(0.12), shard_bytes=1 << 30)
    shutil.copy(TOKENIZER, source)
    plan = planned(source, target)
    with (sharing / "balloon").open("wb") as file:
        free = shutil.disk_usage(sharing).free
        os.posix_fallocate(file.fileno(), 0, free - plan.data_bytes // 2)
    subprocess.run(["sync", "-f", sharing], check=True)  # btrfs counts when it commits
    assert shutil.disk_usage(sharing).free < plan.data_bytes
    with monkeypatch.context() as patch:
        patch.setattr(clone, "clone", refused)
        with pytest.raises(MmfmtError, match="bytes are free"):
            execute(plan, Options(target, hashed=False))
    assert not target.exists()
    execute(plan, Options(target, hashed=False))
    assert load_file(target / NATIVE).keys() == {t.name for t in plan.shards[0].tensors}


@pytest.mark.parametrize("failures", [{1}, {2}, {1, 2, 3}])
def test_clones_that_fail_on_the_way(
    xfs: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes], failures: set[int]
) -> None:
    """After some clones the rest is copied, and the hash is that of the whole file."""
    calls: list[int] = []

    def now_and_then(*where: int) -> bool:
        calls.append(len(calls) + 1)
        return calls[-1] not in failures and clone.clone(*where)

    monkeypatch.setattr(output, "clone", now_and_then)
    written = converted(w4a16(xfs / "hf"), xfs / "out")
    assert len(calls) == min(failures)
    assert (written.cloned > 0) == (min(failures) > 1)
    assert contents(xfs / "out") == expected
    assert written.sha256 == sha256(expected[NATIVE]).hexdigest()


def test_an_odd_source_is_copied_where_others_are_shared(xfs: Path) -> None:
    """No place of a block can be kept; all bytes are as they were."""
    source = w4a16(xfs / "hf")
    pad_header(source / builders.WEIGHTS, 3)
    written = converted(source, xfs / "out")
    assert written.cloned == 0
    converted(w4a16(xfs / "even"), xfs / "even-out")
    assert same_tensors(xfs / "out" / NATIVE, xfs / "even-out" / NATIVE)


@given(st.integers(0, 5 * BLOCK), st.integers(-2, 5), st.integers(0, 9), st.integers(0, 4 * BLOCK))
def test_whole_blocks(offset: int, blocks: int, shift: int, length: int) -> None:
    """All blocks that lie in the run whole, in the source and the target; none, if not in both."""
    place = offset + (blocks + 2) * BLOCK + (shift - 4 if shift > 4 else 0)
    start, stop = whole_blocks(offset, place, length)
    inside = [
        block * BLOCK
        for block in range(offset // BLOCK + length // BLOCK + 3)
        if offset <= block * BLOCK and (block + 1) * BLOCK <= offset + length
    ]
    if not inside or (place - offset) % BLOCK:
        assert (start, stop) == (0, 0)
        return
    assert (offset + start, offset + stop) == (inside[0], inside[-1] + BLOCK)
    assert 0 <= start < stop <= length
    assert (place + start) % BLOCK == (place + stop) % BLOCK == 0
