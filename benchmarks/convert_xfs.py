"""Conversion on a file system whose files can share blocks, against a copy byte by byte.

    python -m benchmarks.convert_xfs [--gigabytes 4] [--runs 5] [--folder DIR] [--cold]
                                     [--jobs N] [--filesystem xfs|btrfs] [--medium]

As root: makes XFS (or btrfs) in a sparse file, mounts it, writes a synthetic W4A16 repo there,
then interleaves `mmfmt convert --no-hash` and `cp -r --reflink=never`, each ended by a sync.
After that it converts with hashing once. Prints ratios of times, what the conversion took of the
disk, and what the converter says of it. Takes up to 2.5 times the size, and a gigabyte.

With --medium the source is as large as Mistral-Medium-3.5-128B, in sparse files: to read them
costs cp nothing, what it writes is 75 GB, and takes 79 GB of the disk.
"""

import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loop_mount import missing, mounted
from benchmarks.race import (
    Race,
    arguments_of,
    converter,
    copier,
    free_bytes,
    options_of,
    print_ratio,
)
from benchmarks.synthetic import make, make_medium

# more than once what is written: little enough that places are used again
_MEDIUM_BYTES = 79_000_000_000


def main() -> None:
    """Make the file system, measure, take it away."""
    parser = arguments_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="default 4")
    parser.add_argument("--filesystem", choices=["xfs", "btrfs"], default="xfs", help="default xfs")
    parser.add_argument("--medium", action="store_true", help="75 GB, from sparse files")
    arguments = parser.parse_args()
    if lacking := missing(arguments.filesystem):
        sys.exit(f"error: {lacking}")
    # a mount outlives whoever is killed without a word
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    size = _MEDIUM_BYTES if arguments.medium else round(2.5e9 * arguments.gigabytes + 1e9)
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        mounted(Path(folder), arguments.filesystem, size) as place,
    ):
        _measure(place, arguments)


def _measure(place: Path, arguments: Namespace) -> None:
    source, target = place / "source", place / "target"
    if arguments.medium:
        make_medium(source)
    else:
        make(source, arguments.gigabytes)
    options = options_of(arguments)
    hashed, plain = converter(source, target, *options), copier(source, target)
    ours = [*hashed, *([] if "--no-hash" in options else ["--no-hash"])]
    race = Race(source, target, ours, plain, "cp", arguments.cold)
    print_ratio(race.run(arguments.runs), "cp")
    copied = _with_disk(race, "cp", plain)
    for command in dict.fromkeys([tuple(ours), tuple(hashed)]):
        name = "convert --no-hash" if "--no-hash" in command else "convert"
        ratio = _with_disk(race, name, command) / copied
        print(f"ratio {name} / cp, this once: {ratio:.2f}")


def _with_disk(race: Race, name: str, command: Sequence[str]) -> float:
    """Run a command once more; prints the space it took and its own words, gives its seconds."""
    race.clear()
    before = free_bytes(race.source)
    run = race.timed(command)
    taken = before - free_bytes(race.source)
    whole = sum(path.stat().st_size for path in race.source.iterdir())
    share = f"{taken / 1e6:.1f} MB of the disk, {taken / whole:.2%} of the repo"
    print(f"{name}: took {share}. {run.said.strip()}", flush=True)
    race.clear()
    return run.seconds


if __name__ == "__main__":
    main()
