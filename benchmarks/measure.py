"""Run a command as a process of its own; its wall time and peak memory."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """One run: wall seconds and peak resident memory in MiB (ru_maxrss)."""

    seconds: float
    peak_mib: float


def run_measured(command: list[str], findings: bool = False) -> Measured:
    """Run a command to its end; CalledProcessError if it fails (1 is fine with `findings`)."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if os.waitstatus_to_exitcode(status) > findings:
        assert process.stderr
        raise subprocess.CalledProcessError(status, command, stderr=process.stderr.read())
    return Measured(seconds, usage.ru_maxrss / 1024)


def drop_caches() -> None:
    """Make the next read come from the disk (needs root)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
