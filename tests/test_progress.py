"""What a person sees of a conversion while it runs, and of what it did."""

import os
import pty
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.conftest import Outcome, Run
from tests.processes import MMFMT
from tests.repos import ROOT

W4A16, BASE = ROOT / "examples" / "tinystral-w4a16", ROOT / "examples" / "tinystral-base"
CONVERT = ("convert", "hf-to-consolidated", W4A16)
SMALL = ("--tokenizer-from", BASE, "--max-shard-size", "1MB")
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6}
AMOUNT = r"([\d.]+) (B|kB|MB)"


def amounts(text: str, pattern: str) -> list[float]:
    """Numbers of bytes that stand before or after something in a text."""
    return [float(number) * UNITS[unit] for number, unit in re.findall(pattern, text)]


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors in the shards of a folder, as safetensors reads them."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    return total


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for every step, not every ten seconds."""
    monkeypatch.setattr("mmfmt.convert.report._INTERVAL", 0)


def test_last_line(tmp_path: Path, run: Run) -> None:
    """Bytes and how they came about, time, rate, memory, and where it is."""
    target = tmp_path / "out"
    outcome = run(*CONVERT, target, *SMALL)
    assert outcome.code == 0
    line = outcome.err.splitlines()[-1]
    files = [path for path in target.iterdir() if path.name != "SHA256SUMS"]
    assert re.match(rf"wrote {len(files)} files, {AMOUNT} in [\d.]+ s \({AMOUNT}/s; ", line)
    assert line.endswith(f"): {target}")
    shards = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    assert amounts(line, f"{AMOUNT} in ") == [pytest.approx(shards, rel=0.02)]
    made = amounts(line, f"{AMOUNT} (?:cloned|copied|permuted)")
    assert sum(made) == pytest.approx(tensor_bytes(target), rel=0.02)
    assert amounts(line, f"peak memory {AMOUNT}")[0] > 1e7


def test_lines_where_no_terminal_is(tmp_path: Path, run: Run, plain: None) -> None:
    """The shard, what is done of all, the rate and what is left; it ends with all of it."""
    target = tmp_path / "out"
    *lines, _ = run(*CONVERT, target, *SMALL, "--jobs", 1).err.splitlines()
    step = rf"(consolidated-\d+-of-\d+\.safetensors): {AMOUNT} of {AMOUNT}, {AMOUNT}/s, \d+ s left"
    assert all(re.fullmatch(step, line) for line in lines)
    named = {line.partition(":")[0] for line in lines}
    assert named == {path.name for path in target.glob("*.safetensors")}
    done = amounts("\n".join(lines), f": {AMOUNT} of")
    assert done == sorted(done)
    assert amounts(lines[-1], AMOUNT)[:2] == [pytest.approx(tensor_bytes(target), rel=0.02)] * 2
    assert lines[-1].endswith(", 0 s left")


def test_a_part_counts_what_falls_to_it(tmp_path: Path, run: Run, plain: None) -> None:
    target = tmp_path / "out"
    for part in (1, 2):
        lines = run(*CONVERT, target, *SMALL, "--part", f"{part}/2").err.splitlines()
        staged = amounts(lines[-1], f"{AMOUNT} in ")
        assert lines[-1].startswith(f"staged part {part} of 2, ")
        assert amounts(lines[-2], AMOUNT)[:2] == [pytest.approx(staged[0], rel=0.05)] * 2
    assert "mmfmt convert finalize" in lines[-1]


def test_quiet(tmp_path: Path, run: Run, plain: None) -> None:
    assert run(*CONVERT, tmp_path / "out", *SMALL, "--quiet") == Outcome(0, "", "")


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """Its last state is the whole, then comes the same last line."""
    target = tmp_path / "out"
    text = seen_on_a_terminal(*MMFMT, *CONVERT, target, *SMALL)
    assert re.search(r"━+ ([\d.]+)/\1 MB [\d.]+ .?B/s 0:00:00", text), text
    assert f"wrote {len(list(target.iterdir())) - 1} files, " in text


def seen_on_a_terminal(*command: object) -> str:
    """All that a command prints on a wide terminal, without colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    arguments = [str(part) for part in command]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs):
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # nobody is left who writes
            while piece := os.read(ours, 1 << 16):
                seen += piece
    os.close(ours)
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode())
