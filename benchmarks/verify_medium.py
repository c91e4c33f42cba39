"""How long, and in how much memory, the gate looks at a dual repo of Medium-3.5 in W4A16.

    python -m benchmarks.verify_medium

The repo is made of sparse files: 150 GB apparent, a few MB on disk, true names and shapes. The
rules that run tokenizer loaders are left out: `python -m benchmarks.verify_loaders` times them.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Measured, run_measured
from benchmarks.synthetic import make_medium, write_sparse
from mmfmt.convert.consolidated import Request, plan_consolidated
from mmfmt.reader import reader
from mmfmt.repo import open_repo
from mmfmt.storage import Folder
from mmfmt.verify.rules import registered_rules

EXAMPLE = Path("examples/tinystral-w4a16")
# of a tokenizer and processor that do not fit the model's sizes, and of weights that are holes
OTHERS = ("README.md", "processor_config.json", "generation_config.json", "chat_template.jinja")


def main() -> None:
    """Make the repo, look at it three times, print the medians."""
    with tempfile.TemporaryDirectory() as folder:
        repo = _make(Path(folder) / "medium")
        apparent = sum(path.stat().st_size for path in repo.iterdir())
        print(f"{apparent / 1e9:.1f} GB apparent in {len(list(repo.glob('*.safetensors')))} shards")
        rules = [rule.id for rule in registered_rules() if rule.cost == "header"]
        command = [sys.executable, "-m", "mmfmt", "verify", str(repo), "--select", ",".join(rules)]
        print(subprocess.run(command, capture_output=True, text=True).stdout)
        runs = [run_measured(command, findings=True) for _ in range(3)]
        _print(f"verify by {len(rules)} rules, whole process", runs)
        start = [run_measured([sys.executable, "-m", "mmfmt", "--version"]) for _ in range(3)]
        _print("of which starting mmfmt", start)


def _make(repo: Path) -> Path:
    make_medium(repo)
    for name in OTHERS:
        if (EXAMPLE / name).exists():
            shutil.copy(EXAMPLE / name, repo)
    write_sparse(plan_consolidated(Request(open_repo(repo), Folder(repo), reader("vllm"))))
    return repo


def _print(label: str, runs: list[Measured]) -> None:
    middle = sorted(runs, key=lambda run: run.seconds)[1]
    print(f"{label}: {middle.seconds:.2f} s, peak {middle.peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
