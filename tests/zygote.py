"""mmfmt's command line, imported once and forked for each order: a run costs its own work only.

An order is a line of JSON on stdin; its exit code, negative for a signal, comes back on stdout.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

# what commands import once they run
from mmfmt.cli import carry_out, convert, main  # noqa: F401
from mmfmt.convert import consolidated, execute, huggingface, publish, reorder  # noqa: F401
from mmfmt.hub import SCHEME  # noqa: F401

Call = Callable[..., Any]


def serve() -> None:
    """Fork a child for every order until stdin ends."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _child(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _child(order: dict[str, Any]) -> None:
    for descriptor, path in enumerate((os.devnull, order["out"], order["err"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    # ignored in jobs of a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(order["environment"])
    numbers = count(1)
    for name in order["calls"]:
        setattr(os, name, _signalling(getattr(os, name), numbers, order))
    sys.argv = ["mmfmt", *order["arguments"]]
    main()


def _signalling(real: Call, numbers: "count[int]", order: dict[str, Any]) -> Call:
    """A function of the kernel that sends this process a signal around its nth call."""

    def call(*arguments: Any, **named: Any) -> Any:
        now = next(numbers) == order["number"]
        if now and not order["after"]:
            os.kill(os.getpid(), order["signal"])
        result = real(*arguments, **named)
        if now and order["after"]:
            os.kill(os.getpid(), order["signal"])
        return result

    return call


if __name__ == "__main__":
    serve()
