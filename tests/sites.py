"""Conversions of the tiny example in every direction, to be disturbed and taken up again."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Outcome
from tests.processes import (
    MMFMT,
    ROOT,
    Files,
    Hit,
    Zygote,
    contents,
    ended,
    start,
    zygote,
)

W4A16, BASE = ROOT / "examples" / "tinystral-w4a16", ROOT / "examples" / "tinystral-base"
SMALL = ("--max-shard-size", "1MB")
TO_CONSOLIDATED = ("hf-to-consolidated", "SRC", "DST", "--tokenizer-from", str(BASE), *SMALL)
WITHIN = tuple(part for part in TO_CONSOLIDATED if part != "DST")

# what is run one after the other, and the layout that SRC has
DIRECTIONS: dict[str, tuple[str, Sequence[Sequence[str]]]] = {
    "to consolidated": ("hf", [TO_CONSOLIDATED]),
    "dual repo": ("hf", [WITHIN]),
    "to hf": ("consolidated", [("consolidated-to-hf", "SRC", "DST")]),
    "reorder": ("consolidated", [("reorder", "SRC", "--reader", "native", "--force")]),
    "parts": (
        "hf",
        [
            (*TO_CONSOLIDATED, "--part", "1/2"),
            (*TO_CONSOLIDATED, "--part", "2/2"),
            ("finalize", "DST"),
        ],
    ),
}
IN_PLACE = ("dual repo", "reorder")


@dataclass
class Site:
    """A source of its own, and how far the commands of a direction have come with it."""

    direction: str
    folder: Path
    run: Zygote
    done: int = 0

    @property
    def source(self) -> Path:
        return self.folder / "src"

    @property
    def target(self) -> Path:
        return self.source if self.direction in IN_PLACE else self.folder / "dst"

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of every command."""
        names = {"SRC": str(self.source), "DST": str(self.target)}
        commands = DIRECTIONS[self.direction][1]
        return [["convert", *(names.get(part, part) for part in each)] for each in commands]

    def staged(self) -> list[Path]:
        """Hidden folders in the target."""
        return sorted(self.target.glob(".mmfmt-*"))

    def next(self, hit: Hit | None = None, *more: str) -> Outcome:
        """Run the command that is due."""
        outcome = self.run(*self.commands[self.done], *more, hit=hit)
        self.done += outcome.code == 0
        return outcome

    def finish(self) -> None:
        """Run all commands that are left; each has to succeed."""
        while self.done < len(self.commands):
            outcome = self.next()
            assert outcome.code == 0, outcome

    def begun(self, process: "subprocess.Popen[str]") -> None:
        """Wait until a process is at work, or at its end if that was missed."""
        while process.poll() is None and not self.staged():
            time.sleep(0.001)

    def spent(self) -> tuple[float, float]:
        """Seconds that a process takes for the command that is due, and those spent at work."""
        begin = time.monotonic()
        process = start(*MMFMT, *self.commands[self.done])
        self.begun(process)
        work = time.monotonic()
        outcome = ended(process)
        assert outcome.code == 0, outcome
        self.done += 1
        end = time.monotonic()
        return end - begin, end - work

    def kill(self, seconds: float, at_work: bool) -> None:
        """Kill a process that does the command due, so long after its start or that of its work."""
        process = start(*MMFMT, *self.commands[self.done])
        if at_work:
            self.begun(process)
        time.sleep(seconds)
        process.kill()
        outcome = ended(process)
        assert outcome.code in (0, -9), outcome
        self.done += outcome.code == 0

    def check(self, expected: Files) -> None:
        """The target is as an undisturbed run left it, and the source as it was."""
        assert self.done == len(self.commands)
        found = contents(self.target)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        assert self.staged() == []


@dataclass
class Sites:
    """Makes sites out of sources that were made once."""

    folder: Path
    run: Zygote

    def site(self, direction: str, folder: Path) -> Site:
        """A new one in a folder that is made for it."""
        source = self.folder / DIRECTIONS[direction][0]
        shutil.copytree(source, folder / "src")
        return Site(direction, folder, self.run)

    def expected(self, direction: str) -> Files:
        """The files of the target after undisturbed runs."""
        place = self.folder / f"expected {direction}"
        if not place.exists():
            site = self.site(direction, place)
            site.finish()
        return contents(Site(direction, place, self.run).target)


def made_sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """A fixture: sources in both layouts, and a process to fork from."""
    folder = tmp_path_factory.mktemp("sites")
    with zygote(folder) as run:
        _make_sources(folder, run)
        yield Sites(folder, run)


def _make_sources(folder: Path, run: Zygote) -> None:
    """The consolidated one keeps the tokenizer files that take long to make."""
    shutil.copytree(W4A16, folder / "hf")
    names = {"SRC": folder / "hf", "DST": folder / "consolidated"}
    outcome = run("convert", *(names.get(part, part) for part in TO_CONSOLIDATED))
    assert outcome.code == 0, outcome
    for path in W4A16.iterdir():
        if not path.name.startswith(("model", "config", "quantization", "README")):
            shutil.copy2(path, folder / "consolidated")
