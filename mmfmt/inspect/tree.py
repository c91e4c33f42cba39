"""The tree of module names, layers and experts folded."""

import re
from collections.abc import Iterable

from mmfmt.inspect.facts import Node, total
from mmfmt.inspect.model_map import shares
from mmfmt.inspect.modules import Placed, Survey
from mmfmt.layout import Row

Path = tuple[str, ...]
Leaf = tuple[Path, list[Placed]]


def tree(survey: Survey) -> tuple[Node, ...]:
    """Nodes by the parts of the module names, in the order of the layout table."""
    naming, found = survey.model.checkpoint.naming, survey.placed.values()
    by_row: dict[Row, list[Placed]] = {row: [] for row in naming.family.rows if naming.has(row)}
    for placed in found:
        by_row[placed.module.row].append(placed)
    return _nodes([(_path(naming.pattern(row)), items) for row, items in by_row.items() if items])


def _path(pattern: str) -> Path:
    """The parts of a name; a slot belongs to the part before it: `layers.{layer}`."""
    return tuple(re.split(r"\.(?!\{)", pattern))


def _nodes(leaves: list[Leaf]) -> tuple[Node, ...]:
    heads = dict.fromkeys(path[0] for path, _ in leaves)
    return tuple(
        _node(head, [(path[1:], items) for path, items in leaves if path[0] == head])
        for head in heads
    )


def _node(head: str, leaves: list[Leaf]) -> Node:
    name, _, slot = head.partition(".")
    items = [placed for _, found in leaves for placed in found]
    children = _nodes([(path, found) for path, found in leaves if path])
    size = total(placed.size for placed in items)
    return Node(name, _count(items, slot.strip("{}")), size, shares(items), children)


def _count(items: Iterable[Placed], slot: str) -> int:
    """How many values a slot has; 1 for a part of a name without one."""
    return len({dict(placed.module.slots)[slot] for placed in items}) if slot else 1
