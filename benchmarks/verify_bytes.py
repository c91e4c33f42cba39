"""`mmfmt verify --level bytes` of a dual repo against `cat` of the same weights.

    python -m benchmarks.verify_bytes [--gigabytes 4] [--runs 5] [--folder DIR] [--warm]

Interleaved runs; the page cache is dropped before each (as root), or kept warm. Both layouts are
read: by cat once, by verify as often as its rules need. Prints the ratio of each pair, its
median, and verify's peak memory.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Measured, drop_caches, run_measured
from benchmarks.synthetic import make


def main() -> None:
    """Make the repo, then verify and read it in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--warm", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        repo = make(Path(folder) / "repo", arguments.gigabytes)
        command = [sys.executable, "-m", "mmfmt", "convert", "hf-to-consolidated", "--quiet"]
        subprocess.run([*command, str(repo)], check=True)
        pairs = [_pair(repo, arguments.warm) for _ in range(arguments.runs + 1)][1:]
    _print(pairs)


def _pair(repo: Path, warm: bool) -> tuple[Measured, Measured]:
    rules = "MMF702,MMF703,MMF704,MMF705,MMF706"
    verify = [sys.executable, "-m", "mmfmt", "verify", "--level", "bytes", "--select", rules]
    weights = sorted(map(str, repo.glob("*.safetensors")))
    commands = ([*verify, str(repo)], ["cat", *weights])
    first, second = (_run(command, warm) for command in commands)
    return first, second


def _run(command: list[str], warm: bool) -> Measured:
    if not warm:
        drop_caches()
    return run_measured(command, findings=True)


def _print(pairs: list[tuple[Measured, Measured]]) -> None:
    for verified, read in pairs:
        print(f"verify {verified.seconds:.2f} s, cat {read.seconds:.2f} s")
    ratios = [verified.seconds / read.seconds for verified, read in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio verify / cat: median {statistics.median(ratios):.2f} ({spread})")
    print(f"peak memory of verify: {max(run.peak_mib for run, _ in pairs):.0f} MiB")


if __name__ == "__main__":
    main()
