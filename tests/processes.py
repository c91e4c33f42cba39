"""Conversions in processes of their own, that signals and broken disks can hit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Outcome

ROOT = Path(__file__).parent.parent
MMFMT = (sys.executable, "-m", "mmfmt")
RENAMES = ("rename", "replace")
# until something happens that has to happen
_SECONDS = 60

Files = dict[str, bytes]


@dataclass(frozen=True)
class Hit:
    """A signal that a process sends itself before, or after, the nth of some calls of `os`."""

    number: int
    calls: Sequence[str] = RENAMES
    signal: int = signal.SIGKILL
    after: bool = False


@dataclass(frozen=True)
class Zygote:
    """Runs `mmfmt` with the given arguments in a fork of a process that has imported it."""

    process: "subprocess.Popen[str]"
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, hit: Hit | None = None, **environment: str) -> Outcome:
        assert self.process.stdin and self.process.stdout
        out, err = self.folder / "out", self.folder / "err"
        order = {
            "arguments": [str(argument) for argument in arguments],
            "environment": {**self.environment, **environment},
            "out": str(out),
            "err": str(err),
            "calls": hit.calls if hit else (),
            "number": hit.number if hit else 0,
            "signal": hit.signal if hit else 0,
            "after": bool(hit and hit.after),
        }
        print(json.dumps(order), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        return Outcome(code, out.read_text(), err.read_text())


@contextmanager
def zygote(folder: Path, **environment: str) -> Iterator[Zygote]:
    """A process to fork from, in this environment; the streams of its children lie in a folder."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.zygote"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Zygote(process, folder)
        assert process.stdin
        process.stdin.close()


def start(*command: object) -> "subprocess.Popen[str]":
    """A process that works while the test goes on."""
    arguments = [str(part) for part in command]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def ended(process: "subprocess.Popen[str]") -> Outcome:
    """What a started process leaves when it has ended."""
    out, err = process.communicate(timeout=_SECONDS)
    return Outcome(process.returncode, out, err)


def wait_for(process: "subprocess.Popen[str]", happened: Callable[[], object]) -> None:
    """Wait until something is the case that a running process brings about."""
    deadline = time.monotonic() + _SECONDS
    while not happened():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < deadline
        time.sleep(0.002)


def contents(folder: Path) -> Files:
    """Every file below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def problem(outcome: Outcome, code: int = 2) -> str:
    """The one line on stderr of a run that could not go on."""
    lines = outcome.err.strip().splitlines()
    assert (outcome.code, outcome.out, len(lines)) == (code, "", 1), outcome
    assert lines[0].startswith("error: "), outcome
    return lines[0]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own on a folder; skips where mounting is not allowed."""
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a file system")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
