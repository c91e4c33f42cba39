"""Where the bytes of one output parameter come from, as blocks for the executor."""

from collections.abc import Sequence
from dataclasses import replace

from mmfmt.convert.plan import Blocks, Copy, Segment
from mmfmt.convert.steps import Pack, Reciprocal, Reorder, Step, Unpack
from mmfmt.header import Entry


def segment(copy: Copy, stored: Entry, steps: Sequence[Step], length: int) -> Segment:
    """The segment that takes a stored tensor through `steps`; `length` bytes come out.

    Blocks are as small as the steps allow: a row where dim 0 stays as it is, a head where its
    rows are only reordered, else the whole tensor.
    """
    if not steps:
        return copy
    count, shape, shifted = _cut(stored.shape, steps)
    dtype = _dtype(steps)
    if dtype == "u1":
        shape = (*shape, stored.itemsize)
    return Blocks(copy.source, copy.offset, length, count, shape, dtype, shifted)


def _cut(
    shape: tuple[int, ...], steps: Sequence[Step]
) -> tuple[int, tuple[int, ...], tuple[Step, ...]]:
    """Number and shape of the blocks, and the steps as they act on one."""
    along_rows = [step for step in steps if _axis(step) == 0]
    if not along_rows:
        return shape[0], shape[1:], tuple(_shifted(step) for step in steps)
    if len(along_rows) == 1 and isinstance(along_rows[0], Reorder):
        heads = along_rows[0].heads
        by_head = (shape[0] // heads, *shape[1:])
        return heads, by_head, tuple(_one_head(step) for step in steps)
    return 1, shape, tuple(steps)


def _axis(step: Step) -> int:
    return step.axis if isinstance(step, Reorder | Unpack | Pack) else 0


def _shifted(step: Step) -> Step:
    return replace(step, axis=step.axis - 1) if isinstance(step, Reorder | Unpack | Pack) else step


def _one_head(step: Step) -> Step:
    return replace(step, heads=1) if isinstance(step, Reorder) and step.axis == 0 else step


def _dtype(steps: Sequence[Step]) -> str:
    """numpy's name for what the first step takes; bytes for steps that only move values."""
    first = next((step for step in steps if not isinstance(step, Reorder)), None)
    return {Unpack: "<i4", Reciprocal: "<f4"}.get(type(first), "u1")
