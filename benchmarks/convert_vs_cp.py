"""Conversion of synthetic W4A16 checkpoints against `cp --reflink=never` of the same bytes.

    python -m benchmarks.convert_vs_cp [--gigabytes 1 4 16] [--runs 5] [--folder DIR]
                                       [--cold] [--no-hash] [--jobs N]

Interleaved runs in alternating order, each ended by a sync. The source is read before each
command (which warms the cache only where memory holds it), or with --cold the page cache is
dropped. Prints, for each size, the ratio of each pair, its median, and the converter's peak
memory. Takes up to twice the size on the disk.
"""

import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks.race import Race, arguments_of, converter, copier, options_of, print_ratio
from benchmarks.synthetic import make


def main() -> None:
    """Size by size: make a checkpoint, then convert and copy it in turn."""
    parser = arguments_of(__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[4.0], help="default 4")
    arguments = parser.parse_args()
    for gigabytes in arguments.gigabytes:
        _measure(gigabytes, arguments)


def _measure(gigabytes: float, arguments: Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, target = make(Path(folder) / "source", gigabytes), Path(folder) / "target"
        ours = converter(source, target, *options_of(arguments))
        race = Race(source, target, ours, copier(source, target), "cp", arguments.cold)
        print_ratio(race.run(arguments.runs), "cp")


if __name__ == "__main__":
    main()
