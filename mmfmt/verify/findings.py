"""What rules yield, and the registry they stand in."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mmfmt.verify.subject import Subject

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """What a rule has found. `path` is a file of the repo; `location` a tensor or JSON path."""

    path: str
    location: str
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """A problem with the name of the rule that found it; the unit of every report."""

    rule: str
    name: str
    level: Level
    path: str
    location: str
    message: str
    fix: str


@dataclass(frozen=True)
class Rule:
    """A check: a generator over a Subject. Its docstring is its explanation."""

    id: str
    name: str
    level: Level
    check: Callable[["Subject"], Iterator[Problem]]

    @property
    def explanation(self) -> str:
        return self.check.__doc__ or ""

    def findings(self, subject: "Subject") -> Iterator[Finding]:
        """Run the check; MmfmtError means that it cannot look."""
        for p in self.check(subject):
            yield Finding(self.id, self.name, self.level, p.path, p.location, p.message, p.fix)


def some(names: list[str]) -> str:
    """The first of many names, with the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


REGISTRY: dict[str, Rule] = {}
"""Rules by id; `mmfmt.verify.rules` fills it."""


def rule(
    id: str, level: Level = "error"
) -> Callable[[Callable[["Subject"], Iterator[Problem]]], Callable[["Subject"], Iterator[Problem]]]:
    """Register a check under an id; its name is the function's, in kebab case."""
    assert re.fullmatch(r"MMF\d{3}", id) and id not in REGISTRY, id

    def register(
        check: Callable[["Subject"], Iterator[Problem]],
    ) -> Callable[["Subject"], Iterator[Problem]]:
        REGISTRY[id] = Rule(id, check.__name__.replace("_", "-"), level, check)
        return check

    return register
