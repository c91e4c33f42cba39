"""Run a command; print its wall seconds, exit code and peak memory in KiB as JSON.

    python -I -S benchmarks/launch.py COMMAND ...

Linux counts the memory of whoever starts a process among its peak, so this one has to be small.
"""

import json
import os
import signal
import sys
import time


def main() -> None:
    """Run the arguments, without their output."""
    silence = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, silence, 1)]
    command, start = sys.argv[1:], time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - start
    print(json.dumps([seconds, os.waitstatus_to_exitcode(status), usage.ru_maxrss]))


if __name__ == "__main__":
    main()
