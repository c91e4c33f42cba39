"""SHA256SUMS: what conversions write, what coreutils reads, what verify says of it."""

import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfmt import manifest
from mmfmt.errors import MmfmtError
from mmfmt.repo import open_repo
from mmfmt.verify.findings import REGISTRY
from mmfmt.verify.run import rules_of, verify
from tests.conftest import Run
from tests.repos import BASE, W4A16

SUMS = "SHA256SUMS"


def coreutils(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Let `sha256sum -c` check a folder."""
    command = ["sha256sum", "--check", "--strict", *options, SUMS]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def converted(tmp_path: Path, to_consolidated: Run) -> Path:
    """A dual repo whose consolidated set was converted in several shards."""
    repo = shutil.copytree(W4A16, tmp_path / "dual")
    outcome = to_consolidated(repo, "--tokenizer-from", BASE, "--max-shard-size", "2MB")
    assert outcome.code == 0
    return repo


def test_coreutils_takes_it(converted: Path) -> None:
    """Every file that was made is in it, and nothing that was there before."""
    assert coreutils(converted).returncode == 0
    before = {path.name for path in W4A16.iterdir()}
    made = {path.name for path in converted.iterdir()} - before - {SUMS}
    assert manifest.parse((converted / SUMS).read_bytes()).keys() == made
    shard = next(converted.glob("consolidated-00001*.safetensors"))
    shard.write_bytes(shard.read_bytes() + b" ")
    assert coreutils(converted, "--quiet").stdout == f"{shard.name}: FAILED\n"


def test_verify_at_the_byte_level(converted: Path) -> None:
    """Silent on what was converted, and not on one flipped bit; lower levels do not read."""
    rules = [REGISTRY["MMF113"], REGISTRY["MMF114"]]
    assert verify(open_repo(converted), rules).findings == ()
    path = converted / "tekken.json"
    path.write_bytes(path.read_bytes().replace(b'"default', b'"Default', 1) + b" ")
    (found,) = verify(open_repo(converted), rules).findings
    assert (found.rule, found.path) == ("MMF114", "tekken.json")
    assert sha256(path.read_bytes()).hexdigest()[:12] in found.message
    assert REGISTRY["MMF114"] not in rules_of("loaders")


def test_a_second_conversion_keeps_other_lines(
    converted: Path, to_consolidated: Run, to_hf: Run, tmp_path: Path
) -> None:
    """Lines of files that give way go, with the comment above them; others stay."""
    (converted / "notes.txt").write_text("notes")
    line = f"{sha256(b'notes').hexdigest()}  notes.txt\n"
    first = (converted / SUMS).read_text()
    (converted / SUMS).write_text(f"# of mine\n{line}{first}")
    assert to_consolidated(converted, "--force").code == 0
    text = (converted / SUMS).read_text()
    assert text.startswith(f"# of mine\n{line}# mmfmt ")
    assert text.count("# mmfmt ") == 2  # tekken.json and the index were not made anew
    assert "consolidated-00001" not in text
    assert coreutils(converted).returncode == 0


def test_no_hash(tmp_path: Path, to_consolidated: Run) -> None:
    """No manifest is written; one that is there loses the lines that are not true any more."""
    arguments = (W4A16, tmp_path / "out", "--tokenizer-from", BASE)
    assert to_consolidated(*arguments, "--no-hash").code == 0
    assert not (tmp_path / "out" / SUMS).exists()
    assert to_consolidated(*arguments, "--force").code == 0
    assert coreutils(tmp_path / "out").returncode == 0
    (tmp_path / "out" / "mine").write_bytes(b"")
    with (tmp_path / "out" / SUMS).open("a") as file:
        file.write(f"{sha256(b'').hexdigest()}  mine\n")
    assert to_consolidated(*arguments, "--force", "--no-hash").code == 0
    hashes = manifest.parse((tmp_path / "out" / SUMS).read_bytes())
    assert hashes.keys() == {"mine"}


def test_a_repair_keeps_the_manifest_true(converted: Path, run: Run) -> None:
    """--fix writes the new hash of a file that it edits, and shows that in the diff."""
    path = converted / "consolidated.safetensors.index.json"
    body = json.loads(path.read_text())
    body["metadata"]["total_size"] += 1
    path.write_text(json.dumps(body))
    subprocess.run(f"sha256sum -- *.json > {SUMS}", shell=True, cwd=converted, check=True)
    outcome = run("verify", converted, "--level", "header", "--fix")
    assert f"b/{SUMS}" in outcome.out
    assert coreutils(converted).returncode == 0
    assert json.loads(path.read_text()) != body


def test_refused_lines() -> None:
    """Named by their number."""
    for content, problem in (
        (b"# fine\nno hash\n", "SHA256SUMS:2: is not a hash"),
        (b"%b  a\n%b  a\n" % (b"0" * 64, b"1" * 64), "SHA256SUMS:2: names a file twice"),
        (b"\xff", "is not UTF-8"),
    ):
        with pytest.raises(MmfmtError, match=problem):
            manifest.parse(content)


NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True)
HASHES = st.dictionaries(NAMES, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), max_size=5)


@given(before=HASHES, made=HASHES, gone=st.sets(NAMES, max_size=3))
def test_what_is_written_is_read(
    before: dict[str, str], made: dict[str, str], gone: set[str]
) -> None:
    """The new hashes, and those of before that neither gave way nor are new."""
    old = manifest.manifest(b"", (), before, "before")
    new = manifest.parse(manifest.manifest(old.encode(), gone, made, "after").encode())
    assert new == {n: h for n, h in before.items() if n not in gone} | made


def test_no_file_outside_is_read(converted: Path) -> None:
    """A name that leads out of the repo is one that is not there."""
    (converted / SUMS).write_text(f"{'0' * 64}  ../dual/tekken.json\n")
    report = verify(open_repo(converted), [REGISTRY["MMF113"], REGISTRY["MMF114"]])
    assert [found.rule for found in report.findings] == ["MMF113"]
