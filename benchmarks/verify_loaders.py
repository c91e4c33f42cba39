"""How long the 6xx rules take with a real vocabulary: on the files alone, and with the loaders.

    python -m benchmarks.verify_loaders [--runs 3]

The repo has both layouts and Pixtral's 131,072 ids. Prints medians, wall seconds and in brackets
those of a processor: of each rule on files (on its own, files read anew), of all together, and of
the process that runs the loaders, with its peak memory.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from mmfmt.repo import open_repo
from mmfmt.verify.findings import Rule
from mmfmt.verify.probe import run
from mmfmt.verify.run import rules_of, verify
from tests.repos import large


def main() -> None:
    """Make the repo, time the rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder) / "repo"
        large(repo)
        static = [rule for rule in rules_of("tokenizers") if rule.cost == "tokenizers"]
        for rule in static:
            _print(rule.name, partial(_verify, repo, [rule]), runs)
        _print("all rules on files", partial(_verify, repo, static), runs)
        _print("the process that runs the loaders", partial(run, repo), runs)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
        print(f"its peak memory: {peak} MiB")


def _verify(repo: Path, rules: list[Rule]) -> None:
    report = verify(open_repo(repo), rules)
    assert report.findings == () and report.skipped == ()


def _print(label: str, look: Callable[[], object], runs: int) -> None:
    """The medians of some runs, after one that fills the page cache."""
    look()
    wall, processor = map(median, zip(*(_once(look) for _ in range(runs)), strict=True))
    print(f"{wall:6.2f} s ({processor:.2f})  {label}", flush=True)


def _once(look: Callable[[], object]) -> tuple[float, float]:
    before, start = os.times(), time.monotonic()
    look()
    after, wall = os.times(), time.monotonic() - start
    return wall, sum(after[:4]) - sum(before[:4])


if __name__ == "__main__":
    main()
