"""How long, and in how much memory, a dry run over Medium-3.5 in W4A16 takes.

    python -m benchmarks.plan_medium

The repo is made of sparse files: 70 GB apparent, a few MB on disk, true names and shapes.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Measured, run_measured
from benchmarks.synthetic import make_medium


def main() -> None:
    """Make the repo, plan it three times, print the medians."""
    with tempfile.TemporaryDirectory() as folder:
        repo = make_medium(Path(folder) / "medium")
        command = [sys.executable, "-m", "mmfmt", "convert", "hf-to-consolidated", str(repo)]
        runs = [run_measured([*command, "--dry-run"]) for _ in range(3)]
        start = [run_measured([sys.executable, "-m", "mmfmt", "--version"]) for _ in range(3)]
        _print("dry run, whole process", runs)
        _print("of which starting mmfmt", start)


def _print(label: str, runs: list[Measured]) -> None:
    middle = sorted(runs, key=lambda run: run.seconds)[1]
    print(f"{label}: {middle.seconds:.2f} s, peak {middle.peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
