"""Stacked experts: one stored tensor seen as the parameters of many modules.

transformers 5 keeps the experts of a layer in tensors [experts, rows, columns]; FP8 scales of
them are [experts, 1, 1] or [experts], one for all parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmfmt.header import Entry
from mmfmt.layout import Row, Slots, Stack
from mmfmt.naming import Match, Naming, compile_pattern

EXPERT = "expert"
# what follows a stack's name, and the suffix of the modules' own parameters
SUFFIXES = {"": "weight", "_scale_inv": "weight_scale_inv", "_activation_scale": "activation_scale"}
# more than any model has: a header that claims more is not believed
_MAX_EXPERTS = 65_536


@dataclass(frozen=True)
class StackMatch:
    """A stored stack: which one, of which layer, holding which suffix."""

    stack: Stack
    slots: Slots
    suffix: str


def match_stack(naming: Naming, name: str) -> StackMatch | None:
    """The stack that a tensor name belongs to, or None."""
    for stack, pattern in naming.stacks.items():
        for tail, suffix in SUFFIXES.items():
            if found := compile_pattern(pattern + tail).fullmatch(name):
                slots = tuple((slot, int(value)) for slot, value in found.groupdict().items())
                return StackMatch(stack, slots, suffix)
    return None


def splits(entry: Entry, found: StackMatch) -> bool:
    """Whether the tensor has the dimensions of such a stack."""
    experts, *rest = entry.shape or (0,)
    if not 0 < experts <= _MAX_EXPERTS or entry.nbytes % experts:
        return False
    return found.suffix != "weight" or (len(rest) == 2 and not rest[0] % len(found.stack.parts))


def views(entry: Entry, found: StackMatch) -> Iterator[tuple[Match, Entry]]:
    """Every expert's every part: the row it belongs to, and its bytes inside the stack."""
    parts = len(found.stack.parts) if found.suffix == "weight" else 1
    size = entry.nbytes // entry.shape[0] // parts
    shape = (entry.shape[1] // parts, *entry.shape[2:]) if found.suffix == "weight" else ()
    for expert in range(entry.shape[0]):
        for number, row in enumerate(found.stack.parts):
            start = entry.start + (expert * parts + min(number, parts - 1)) * size
            match = Match(row, part_slots(found.slots, expert), found.suffix)
            yield match, replace(entry, shape=shape, start=start, end=start + size)


def part_slots(slots: Slots, expert: int) -> Slots:
    """The slot values of one expert's modules."""
    return (*slots, (EXPERT, expert))


def stack_of(naming: Naming, row: Row) -> Stack | None:
    """The stack that a row is written in, if it is."""
    return next((s for s in naming.stacks if s.write and row in s.parts), None)


def stack_name(naming: Naming, stack: Stack, slots: Slots, suffix: str) -> str | None:
    """The name of the stack that holds a module's parameter; None for a suffix without one."""
    tail = next((tail for tail, known in SUFFIXES.items() if known == suffix), None)
    pattern = naming.stacks[stack]
    return None if tail is None else pattern.format(**dict(slots)) + tail
