"""Conversion of a synthetic W4A16 checkpoint against a script that loads all and saves all.

    python -m benchmarks.convert_vs_script [--gigabytes 4] [--runs 5] [--folder DIR] [--cold]
                                           [--no-hash] [--jobs N]

The script is benchmarks/old_script.py. Checks once that both write the same tensors, bit for bit,
then interleaves them, each ended by a sync. Prints the ratio of each pair, its median, the peak
memory of both, and how long the script's imports take. Takes up to three times the size on the
disk, and as much memory as the checkpoint.
"""

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from benchmarks.measure import run_measured
from benchmarks.race import Race, arguments_of, converter, options_of, print_ratio
from benchmarks.synthetic import make
from mmfmt.header import Entry, read_header
from mmfmt.storage import Folder

SCRIPT = Path(__file__).parent / "old_script.py"
IMPORTS = "import torch, safetensors.torch"

Tensor = tuple[str, tuple[int, ...], str]
"""dtype, shape, and the hash of the bytes."""


def main() -> None:
    """Make the checkpoint, compare both outcomes, then measure."""
    parser = arguments_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="default 4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        _measure(Path(folder), arguments)


def _measure(folder: Path, arguments: Namespace) -> None:
    source, target = make(folder / "source", arguments.gigabytes), folder / "target"
    ours = converter(source, target, *options_of(arguments))
    script = [sys.executable, str(SCRIPT), str(source), str(target)]
    race = Race(source, target, ours, script, "script", arguments.cold)
    _compare(race)
    pairs = race.run(arguments.runs)
    print_ratio(pairs, "script")
    print(f"peak memory of script: {max(other.peak_mib for _, other in pairs):.0f} MiB")
    imports = run_measured([sys.executable, "-c", IMPORTS])
    print(f"of which imports: {imports.seconds:.2f} s, {imports.peak_mib:.0f} MiB")


def _compare(race: Race) -> None:
    """Exit unless both commands write tensors of the same names and bytes."""
    found: list[dict[str, Tensor]] = []
    for command in (race.ours, race.other):
        race.clear()
        subprocess.run(command, check=True, capture_output=True)
        found.append(dict(_tensors(race.target)))
    ours, others = found
    if differing := [name for name in ours | others if ours.get(name) != others.get(name)]:
        sys.exit(f"error: {len(differing)} tensors differ, such as {differing[0]}")
    print(f"both write the same {len(ours)} tensors", flush=True)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("consolidated*.safetensors")):
        header = read_header(Folder(folder), path.name)
        for name, entry in header.tensors.items():
            digest = _digest(path, header.data_start, entry)
            yield name, (entry.dtype, entry.shape, digest)


def _digest(path: Path, data_start: int, entry: Entry) -> str:
    with path.open("rb") as file:
        file.seek(data_start + entry.start)
        return sha256(file.read(entry.nbytes)).hexdigest()


if __name__ == "__main__":
    main()
