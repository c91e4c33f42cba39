"""Conversion of a synthetic W4A16 checkpoint against `cp --reflink=never` of the same bytes.

    python -m benchmarks.convert_vs_cp [--gigabytes 4] [--runs 5] [--folder DIR]

Interleaved runs, each ended by a sync, the source read before (warm cache). Prints the ratio
of each pair, its median, and the converter's peak memory.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Measured, run_measured
from benchmarks.synthetic import MEDIUM_VISION, config, write_repo

TOKENIZER = Path("examples/tinystral-base")
# one layer of this text model in W4A16, and everything else
LAYER_GIGABYTES, REST_GIGABYTES = 0.2, 0.95
TEXT = {
    **{"hidden_size": 5120, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    **{"intermediate_size": 20480, "vocab_size": 32768, "max_position_embeddings": 32768},
}
VISION = MEDIUM_VISION | {"num_hidden_layers": 4}


def main() -> None:
    """Make the checkpoint, then convert and copy it in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = make(Path(folder) / "source", arguments.gigabytes)
        pairs = [_pair(source, Path(folder)) for _ in range(arguments.runs + 1)][1:]
    _print(pairs)


def make(source: Path, gigabytes: float) -> Path:
    """A W4A16 repo of about this size, with random bytes for weights."""
    layers = max(1, round((gigabytes - REST_GIGABYTES) / LAYER_GIGABYTES))
    body = config(TEXT | {"num_hidden_layers": layers}, VISION)
    write_repo(source, body, shard_bytes=1_000_000_000, fill=os.urandom(1 << 24))
    shutil.copy(TOKENIZER / "tekken.json", source)
    size = sum(path.stat().st_size for path in source.iterdir())
    print(f"{size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} shards")
    return source


def _pair(source: Path, folder: Path) -> tuple[Measured, Measured]:
    target = folder / "target"
    convert = [sys.executable, "-m", "mmfmt", "convert", "hf-to-consolidated", "--quiet"]
    converted = _timed([*convert, str(source), str(target)], target)
    copied = _timed(["cp", "-r", "--reflink=never", str(source), str(target)], target)
    return converted, copied


def _timed(command: list[str], target: Path) -> Measured:
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    start = time.monotonic()
    run = run_measured(command)
    os.sync()
    return Measured(time.monotonic() - start, run.peak_mib)


def _print(pairs: list[tuple[Measured, Measured]]) -> None:
    for converted, copied in pairs:
        print(f"convert {converted.seconds:.2f} s, cp {copied.seconds:.2f} s")
    ratios = [converted.seconds / copied.seconds for converted, copied in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio convert / cp: median {statistics.median(ratios):.2f} ({spread})")
    print(f"peak memory of convert: {max(run.peak_mib for run, _ in pairs):.0f} MiB")


if __name__ == "__main__":
    main()
