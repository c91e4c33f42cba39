"""Join the experts of a layer into the stacks that a layout is written with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmfmt.checkpoint import Parameter
from mmfmt.convert.plan import Copy, PlannedTensor
from mmfmt.errors import MmfmtError
from mmfmt.layout import Slots
from mmfmt.naming import Naming
from mmfmt.stacks import EXPERT, stack_name, stack_of
from mmfmt.storage import Storage

Position = tuple[int, int]
"""Expert, and number of the part."""


@dataclass
class Stacks:
    """Collects the parts of every stack, then joins them in order."""

    naming: Naming
    storage: Storage
    parts: dict[str, dict[Position, PlannedTensor]] = field(default_factory=dict)

    def name(self, parameter: Parameter, suffix: str) -> str | None:
        """The stack that a parameter goes into; None if it stays by itself."""
        stack = stack_of(self.naming, parameter.match.row)
        if stack is None:
            return None
        return stack_name(self.naming, stack, _layer(parameter.match.slots), suffix)

    def add(self, parameter: Parameter, planned: PlannedTensor) -> PlannedTensor:
        """The tensor itself, or, for a part, one that stands for its whole stack."""
        name = self.name(parameter, planned.name.rpartition(".")[2])
        if name is None:
            return planned
        parts = self.parts.setdefault(name, {})
        parts[_position(self.naming, parameter)] = planned
        return PlannedTensor(name, planned.source_name, planned.dtype, (), ())

    def joined(self, groups: Sequence[Sequence[PlannedTensor]]) -> list[list[PlannedTensor]]:
        """The groups, with each stack whole where its first part stood."""
        done: set[str] = set()
        result: list[list[PlannedTensor]] = []
        for group in groups:
            result.append([])
            for tensor in group:
                if tensor.name not in self.parts:
                    result[-1].append(tensor)
                elif tensor.name not in done:
                    done.add(tensor.name)
                    result[-1].append(_join(self.storage, tensor.name, self.parts[tensor.name]))
        return result


def _layer(slots: Slots) -> Slots:
    return tuple((slot, value) for slot, value in slots if slot != EXPERT)


def _position(naming: Naming, parameter: Parameter) -> Position:
    stack = stack_of(naming, parameter.match.row)
    assert stack
    return dict(parameter.match.slots)[EXPERT], stack.parts.index(parameter.match.row)


def _join(storage: Storage, name: str, parts: dict[Position, PlannedTensor]) -> PlannedTensor:
    """One tensor of all parts: experts in order, w1 rows before w3 rows.

    A scale is one for all parts of an expert. Raises MmfmtError where they differ.
    """
    experts = 1 + max(expert for expert, _ in parts)
    count = 1 + max(part for _, part in parts)
    first = parts[0, 0]
    if not first.shape or first.shape == (1,):
        return _joined_scales(storage, name, parts, experts, count)
    ordered = [parts[expert, part] for expert in range(experts) for part in range(count)]
    shape = (experts, first.shape[0] * count, *first.shape[1:])
    segments = tuple(segment for part in ordered for segment in part.segments)
    return PlannedTensor(name, first.source_name, first.dtype, shape, segments)


def _joined_scales(
    storage: Storage, name: str, parts: dict[Position, PlannedTensor], experts: int, count: int
) -> PlannedTensor:
    for expert in range(experts):
        values = {_bytes(storage, parts[expert, part]) for part in range(count)}
        if len(values) > 1:
            names = " and ".join(parts[expert, part].source_name for part in range(count))
            problem = (
                "differ, and a stack has one scale for both: joining them would lose precision"
            )
            raise MmfmtError(names, problem, "keep the consolidated layout")
    first = parts[0, 0]
    # transformers' FP8 experts: weight scales [experts, 1, 1], activation scales [experts]
    shape = (experts,) if name.endswith("activation_scale") else (experts, 1, 1)
    segments = tuple(s for expert in range(experts) for s in parts[expert, 0].segments)
    return PlannedTensor(name, first.source_name, first.dtype, shape, segments)


def _bytes(storage: Storage, scale: PlannedTensor) -> bytes:
    """The value of a scale: a few bytes."""
    (copy,) = scale.segments
    assert isinstance(copy, Copy)
    return storage.read(copy.source, copy.offset, copy.offset + copy.length)
