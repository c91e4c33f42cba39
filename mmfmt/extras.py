"""Tensors that belong to no module of a model, and what becomes of them."""

import re
from dataclasses import dataclass
from functools import cache

from mmfmt.schemas import table

_SLOTS = {"n": r"(0|[1-9][0-9]{0,5})", "name": r"[^.]+", "path": r".+"}


@dataclass(frozen=True)
class Extra:
    """A tensor by name, with the action (drop, refuse) and reason of its row."""

    name: str
    action: str
    reason: str


def extra(layout: str, name: str) -> Extra | None:
    """The row of `extras.toml` that a tensor name belongs to, or None."""
    for pattern, action, reason in _patterns(layout):
        if pattern.fullmatch(name):
            return Extra(name, action, reason)
    return None


@cache
def _patterns(layout: str) -> tuple[tuple[re.Pattern[str], str, str], ...]:
    rows = [row for row in table("extras")["extra"] if row.get("layout", layout) == layout]
    return tuple((_compile(row["name"]), row["action"], row["reason"]) for row in rows)


def _compile(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda found: _SLOTS[found[1]], escaped))
