"""Run a command as a process of its own; its wall time and peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = Path(__file__).parent / "launch.py"


@dataclass(frozen=True)
class Measured:
    """One run: wall seconds, peak resident memory in MiB (ru_maxrss), and what stderr said."""

    seconds: float
    peak_mib: float
    said: str = ""


def run_measured(command: Sequence[str], findings: bool = False) -> Measured:
    """Run a command to its end; CalledProcessError if it fails (1 is fine with `findings`)."""
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), *command]
    # whoever installed it has it compiled
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    pipe = subprocess.PIPE
    with subprocess.Popen(launcher, stdout=pipe, stderr=pipe, env=env) as process:
        try:
            report, said = process.communicate()
        finally:
            process.terminate()  # it hands that on, where it still waits
    seconds, code, peak = json.loads(report)
    if not 0 <= code <= findings:
        raise subprocess.CalledProcessError(code, list(command), stderr=said.decode())
    return Measured(seconds, peak / 1024, said.decode())


def drop_caches() -> None:
    """Make the next read come from the disk (needs root)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


def read_through(folder: Path) -> None:
    """Bring the files of a folder into the page cache."""
    buffer = bytearray(1 << 23)
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
