"""What a person sees of a conversion: the plan as a table, progress, the result."""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmfmt.convert.plan import ACTIONS, Plan
from mmfmt.sizes import format_bytes

if TYPE_CHECKING:
    from rich.progress import Progress

    from mmfmt.convert.execute import Done, Options, Watch

# how the bytes of a shard came about, as Written counts them
_KINDS = ("cloned", "copied", "permuted")
# seconds between two plain progress lines
_INTERVAL = 10.0


def print_plan(plan: Plan, console: Console) -> None:
    """Per shard, what becomes of its tensors; then the small files."""
    from rich.table import Table

    actions = [action for action in ACTIONS if any(s.actions[action] for s in plan.shards)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("shard", overflow="fold")
    for column in (*actions, "size"):
        table.add_column(column, justify="right")
    for shard in plan.shards:
        counts = [shard.actions[action] for action in actions]
        cells = [*counts, format_bytes(shard.data_bytes)]
        table.add_row(shard.name, *map(str, cells))
    console.print(f"plan: {plan.source} -> {plan.target}")
    console.print(table)
    for name, source in plan.copies:
        console.print(f"  {name}  copied from {source}")
    for name, text in plan.texts:
        console.print(f"  {name}  written, {len(text):,} characters")
    for name in plan.replaces:
        console.print(f"  {name}  is there already and would be replaced (with --force)")
    console.print(f"{len(plan.files)} files, {format_bytes(plan.data_bytes)} of tensors")


def print_dropped(plan: Plan, console: Console) -> None:
    """How many tensors are left behind, a line for each reason."""
    for reason, count in Counter(dropped.reason for dropped in plan.dropped).items():
        name = next(dropped.name for dropped in plan.dropped if dropped.reason == reason)
        others = f" and {count - 1} more" if count > 1 else ""
        console.print(f"dropped {name}{others}: {reason}")


def print_done(
    plan: Plan, done: "Done", options: "Options", seconds: float, console: Console
) -> None:
    """What was said on the way, then one line: bytes and how they came about, time, memory."""
    for note in done.notes:
        console.print(f"note: {note}")
    new = [shard for shard in done.written if not shard.reused]
    size = sum(shard.size for shard in done.written)
    kinds = {kind: sum(getattr(shard, kind) for shard in new) for kind in _KINDS}
    kinds["kept from an earlier run"] = size - sum(shard.size for shard in new)
    parts = [f"{format_bytes(count)} {kind}" for kind, count in kinds.items() if count]
    rate = f"{format_bytes(size)} in {seconds:.1f} s ({format_bytes(round(size / seconds))}/s"
    text = f"{rate}; {', '.join(parts)}; peak memory {format_bytes(_peak())})"
    if done.place:
        console.print(f"wrote {len(plan.files)} files, {text}: {done.place}")
    elif options.part:
        number, count = options.part
        fix = f"after the last part: mmfmt convert finalize {options.folder}"
        what = text if done.written else "which no shard falls to"
        console.print(f"staged part {number} of {count}, {what}; {fix}")


def _peak() -> int:
    """Bytes of memory that this process had at most."""
    with suppress(OSError):  # what getrusage says begins with the memory of who started us
        status = Path("/proc/self/status").read_text(encoding="ascii")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def progress(total: int, console: Console) -> Iterator["Watch"]:
    """A bar with shard, bytes, rate and ETA on a terminal, a line every ten seconds elsewhere."""
    from mmfmt.convert.execute import NOBODY, Watch

    if console.quiet:
        yield NOBODY
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("converting", total=total)
            yield Watch(
                lambda count: bar.advance(task, count),
                lambda name: bar.update(task, description=name),
            )
    else:
        plain = _PlainProgress(total)
        yield Watch(plain.advance, plain.begin)


def _bar(console: Console) -> "Progress":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console)


class _PlainProgress:
    def __init__(self, total: int) -> None:
        self._total, self._done, self._shard = total, 0, ""
        self._start = self._printed = time.monotonic()

    def begin(self, name: str) -> None:
        self._shard = name

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._printed >= _INTERVAL:
            self._printed = now
            print(self._line(now - self._start), file=sys.stderr)

    def _line(self, seconds: float) -> str:
        done, total = format_bytes(self._done), format_bytes(self._total)
        # nothing is done yet where shards of an earlier run are looked at
        rate = max(self._done, 1) / seconds
        left = (self._total - self._done) / rate
        speed = f"{format_bytes(round(rate))}/s, {left:.0f} s left"
        return f"{self._shard}: {done} of {total}, {speed}"
