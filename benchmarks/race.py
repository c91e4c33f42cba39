"""The converter and another command in turn, from the same source; the ratio of their times."""

import os
import shutil
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measured, drop_caches, read_through, run_measured

Pair = tuple[Measured, Measured]
"""A run of the converter, and one of the other command."""


def converter(source: Path, target: Path, *options: str) -> list[str]:
    """The command that converts a Hugging Face repo."""
    command = [sys.executable, "-m", "mmfmt", "convert", "hf-to-consolidated", *options]
    return [*command, str(source), str(target)]


def copier(source: Path, target: Path) -> list[str]:
    """The command that copies it, byte by byte."""
    return ["cp", "-r", "--reflink=never", "--sparse=never", str(source), str(target)]


def free_bytes(folder: Path) -> int:
    """Free space of a file system, once it has written everything and freed what was deleted."""
    before = -1
    while (now := _free(folder)) != before:
        before = now
        time.sleep(0.2)
    return now


def _free(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bfree * found.f_frsize


@dataclass(frozen=True)
class Race:
    """Two commands that make `target` from `source`: the converter and the one called `name`.

    Each finds the source in the page cache, or with `cold` on the disk only, but for the headers
    that a dry run of the converter reads, which brings the program into the cache. Each ends with
    a sync, which counts.
    """

    source: Path
    target: Path
    ours: Sequence[str]
    other: Sequence[str]
    name: str
    cold: bool = False

    def run(self, count: int) -> list[Pair]:
        """That many pairs after one that does not count; every second one the other way round."""
        self._pair(0)
        return [self._printed(self._pair(number)) for number in range(count)]

    def timed(self, command: Sequence[str]) -> Measured:
        """One command, as it would be in a pair; the target stays."""
        self.clear()
        self._prepare()
        run = run_measured(command)
        start = time.monotonic()
        os.sync()
        return Measured(run.seconds + time.monotonic() - start, run.peak_mib, run.said)

    def clear(self) -> None:
        """Remove the target and free its place on the disk."""
        shutil.rmtree(self.target, ignore_errors=True)
        os.sync()

    def _prepare(self) -> None:
        if self.cold:
            drop_caches()
        else:
            read_through(self.source)
        run_measured([*self.ours, "--dry-run"])

    def _pair(self, number: int) -> Pair:
        if number % 2:
            copied = self.timed(self.other)
            pair = self.timed(self.ours), copied
        else:
            pair = self.timed(self.ours), self.timed(self.other)
        self.clear()
        return pair

    def _printed(self, pair: Pair) -> Pair:
        times = f"convert {pair[0].seconds:.2f} s, {self.name} {pair[1].seconds:.2f} s"
        print(f"{times}, ratio {pair[0].seconds / pair[1].seconds:.2f}", flush=True)
        return pair


def print_ratio(pairs: Sequence[Pair], name: str) -> None:
    """The median ratio with its spread, and the converter's peak memory."""
    ratios = [ours.seconds / other.seconds for ours, other in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio convert / {name}: median {statistics.median(ratios):.2f} ({spread})")
    print(f"peak memory of convert: {max(ours.peak_mib for ours, _ in pairs):.0f} MiB", flush=True)


def arguments_of(description: str | None) -> ArgumentParser:
    """The arguments that all races have."""
    parser = ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="pairs; default 5")
    parser.add_argument("--folder", type=Path, help="where to work; default: that for temporaries")
    parser.add_argument("--cold", action="store_true", help="drop caches before each (root)")
    parser.add_argument("--no-hash", action="store_true", help="for the converter")
    parser.add_argument("--jobs", type=int, help="for the converter")
    return parser


def options_of(arguments: Namespace) -> list[str]:
    """Options that are handed on to the converter."""
    jobs = ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    return [*(["--no-hash"] if arguments.no_hash else []), *jobs]
