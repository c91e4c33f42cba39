"""SIGINT and SIGTERM end a run with one line; two runs on one target do not meet."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import MMFMT, Files, Hit, contents, ended, problem, start, wait_for
from tests.sites import Site, Sites, made_sites

# stands still at a copy, once so many shards are finished, until interrupted or told to go on
STILL = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
enough, target = int(sys.argv.pop(1)), Path(sys.argv.pop(1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of a shell's background
on = threading.Event()
signal.signal(signal.SIGCONT, lambda *_: on.set())
copy, shutdown = os.copy_file_range, ThreadPoolExecutor.shutdown
def copy_later(*arguments):
    if len([*target.glob(".mmfmt-*/*.safetensors.json")]) >= enough:
        (target.parent / "still").touch()
        on.wait()
    return copy(*arguments)
def shutdown_by_main(*arguments, **how):
    if threading.current_thread() is threading.main_thread():  # shards are waited for
        on.set()
    shutdown(*arguments, **how)
os.copy_file_range, ThreadPoolExecutor.shutdown = copy_later, shutdown_by_main
from mmfmt.cli import main
main()
"""
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
INTERRUPTED = "error: interrupted, nothing was published"

sites = pytest.fixture(scope="module")(made_sites)


def still(site: Site, enough: int) -> "subprocess.Popen[str]":
    """A process that does the command due, and stands still when so many shards are finished."""
    command = (sys.executable, "-c", STILL, enough, site.target)
    process = start(*command, *site.commands[site.done], "--jobs", 1)
    wait_for(process, (site.target.parent / "still").exists)
    return process


def staged(site: Site, pattern: str) -> list[Path]:
    """Files of the staging folder."""
    return sorted(site.target.glob(f".mmfmt-*/{pattern}"))


def visible(site: Site) -> Files:
    """What a loader sees."""
    return {name: body for name, body in contents(site.target).items() if name[0] != "."}


@BOTH
def test_nothing_finished(sites: Sites, tmp_path: Path, number: signal.Signals) -> None:
    """Nothing is left, not even DST."""
    site = sites.site("to consolidated", tmp_path / "site")
    process = still(site, 0)
    assert staged(site, "*.part")
    process.send_signal(number)
    assert problem(ended(process), 130) == INTERRUPTED
    assert not site.target.exists()


@BOTH
@pytest.mark.parametrize("direction", ["to consolidated", "dual repo", "parts", "reorder"])
def test_shards_are_kept(
    sites: Sites, tmp_path: Path, number: signal.Signals, direction: str
) -> None:
    """The line says where they are, and that the same command goes on."""
    site = sites.site(direction, tmp_path / "site")
    before = contents(site.target)
    process = still(site, 2)
    process.send_signal(number)
    line = problem(ended(process), 130)
    assert len(staged(site, "*.safetensors.json")) == 2
    assert line.startswith(f"{INTERRUPTED}; 2 finished shards are kept in {site.target}/.mm")
    assert "the same command goes on from there" in line
    assert staged(site, "*.part") == []
    assert visible(site) == before
    again = site.next()
    assert ("kept from an earlier run" in again.err) == (direction != "reorder"), again
    site.finish()
    site.check(sites.expected(direction))


@pytest.mark.parametrize("direction", ["reorder", "to consolidated"])
def test_at_every_rename(sites: Sites, tmp_path: Path, direction: str) -> None:
    """Interrupted right after a rename, a run has published all or nothing, and says which."""
    expected = sites.expected(direction)
    for number in range(1, 100):
        site = sites.site(direction, tmp_path / str(number))
        before = contents(site.target)
        outcome = site.next(Hit(number, ("rename",), signal.SIGINT, after=True))
        if outcome.code == 0:
            break
        assert problem(outcome, 130).startswith(INTERRUPTED)
        assert visible(site) == before
        site.finish()
        site.check(expected)
    assert number > len(expected)
    assert visible(site) == expected


# --- two runs at once ---


@pytest.fixture
def stopped(sites: Sites, tmp_path: Path) -> "tuple[Site, subprocess.Popen[str]]":
    """A run that stands still in the midst of its work."""
    site = sites.site("to consolidated", tmp_path / "site")
    return site, still(site, 1)


def goes_on(process: "subprocess.Popen[str]") -> None:
    """Let a run that stands still come to its end."""
    process.send_signal(signal.SIGCONT)
    outcome = ended(process)
    assert outcome.code == 0, outcome


@pytest.mark.parametrize("more", [(), ("--part", "1/2"), ("--force",)])
def test_second_run(
    sites: Sites, stopped: "tuple[Site, subprocess.Popen[str]]", more: tuple[str, ...]
) -> None:
    """One clear line; the first run is not disturbed."""
    site, process = stopped
    before = contents(site.target)
    assert "another mmfmt is at work here (wait for it" in problem(site.next(None, *more))
    assert contents(site.target) == before
    goes_on(process)
    site.done = 1
    site.check(sites.expected(site.direction))


def test_finalize_while_another_works(stopped: "tuple[Site, subprocess.Popen[str]]") -> None:
    """What is not complete is not published."""
    site, process = stopped
    assert "another mmfmt is at work" in problem(site.run("convert", "finalize", site.target))
    goes_on(process)


def test_parts_at_once(sites: Sites, tmp_path: Path) -> None:
    """One stands still while the other does its part; neither lets a whole run in between."""
    site = sites.site("parts", tmp_path / "site")
    process = still(site, 1)
    site.done = 1
    second = site.next()
    assert second.code == 0, second
    assert "another mmfmt is at work" in problem(site.next())
    whole = site.run(*site.commands[0][:-2])
    assert "another mmfmt is at work" in problem(whole)
    goes_on(process)
    site.finish()
    site.check(sites.expected("parts"))


def test_started_together(sites: Sites, tmp_path: Path) -> None:
    """Two processes that know nothing of each other: one does the work, one may be refused."""
    site = sites.site("to consolidated", tmp_path / "site")
    pair = [start(*MMFMT, *site.commands[0]) for _ in range(2)]
    first, second = sorted((ended(process) for process in pair), key=lambda each: each.code)
    assert first.code == 0, (first, second)
    assert second.code == 0 or problem(second)
    assert visible(site) == sites.expected(site.direction)
