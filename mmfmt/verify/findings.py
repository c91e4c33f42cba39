"""What rules yield, and the registry they stand in."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, Literal

from mmfmt.errors import brief

if TYPE_CHECKING:
    from mmfmt.verify.subject import Subject

# findings of one rule in one repo
_MOST = 1000

# a note says something that a publisher should know and that no gate need stop at
Level = Literal["error", "warning", "note"]
# what a rule reads: headers and configs; whole vocabularies; the tokenizer and processor files, by
# running their loaders; or every byte of the weights
Cost = Literal["header", "tokenizers", "loaders", "bytes"]


class Remove(Enum):
    """The value of an edit that takes a key away."""

    REMOVE = "remove"


REMOVE = Remove.REMOVE


@dataclass(frozen=True)
class Edit:
    """A safe repair of a JSON file: the value that belongs under `keys`, from the top.

    No keys: the whole file.
    """

    file: str
    keys: tuple[str | int, ...]
    value: Any


@dataclass(frozen=True)
class Problem:
    """What a rule has found. `path` is a file of the repo; `location` a tensor or JSON path.

    `edits` are given where the repair is mechanical and safe.
    """

    path: str
    location: str
    message: str
    fix: str = ""
    edits: tuple[Edit, ...] = ()


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
    edits: tuple[Edit, ...] = ()


Check = Callable[["Subject"], Iterator[Problem]]


@dataclass(frozen=True)
class Rule:
    """A check: a generator over a Subject. Its docstring is its explanation."""

    id: str
    name: str
    level: Level
    cost: Cost
    check: Check

    @property
    def explanation(self) -> str:
        """Why the rule exists and how to mend what it finds: paragraphs in Markdown."""
        return cleandoc(self.check.__doc__ or "")

    @property
    def summary(self) -> str:
        """What must hold, on one line: the explanation's first paragraph."""
        return " ".join(self.explanation.partition("\n\n")[0].split())

    def findings(self, subject: "Subject") -> Iterator[Finding]:
        """Run the check; MmfmtError means that it cannot look."""
        for number, p in enumerate(self.check(subject), 1):
            if number > _MOST:  # a hostile repo may have any number
                p = Problem(p.path, "", f"more than {_MOST} findings: the others are left out")
            said = (brief(p.location), brief(p.message), brief(p.fix))
            yield Finding(self.id, self.name, self.level, p.path, *said, p.edits)
            if number > _MOST:
                return


def explained(subject: "Subject", checks: Sequence[Check]) -> bool:
    """Whether one of these checks, if it is made, finds something, which says what is wrong."""
    return any(subject.fails(check) for check in checks)


def some(names: list[str]) -> str:
    """The first of many names, with the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def plural(count: int, noun: str) -> str:
    """A number with its noun: `1 error`, `2 errors`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


REGISTRY: dict[str, Rule] = {}
"""Rules by id; `mmfmt.verify.rules` fills it."""


def rule(id: str, level: Level = "error", cost: Cost = "header") -> Callable[[Check], Check]:
    """Register a check under an id; its name is the function's, in kebab case."""
    assert re.fullmatch(r"MMF\d{3}", id) and id not in REGISTRY, id

    def register(check: Check) -> Check:
        REGISTRY[id] = Rule(id, check.__name__.replace("_", "-"), level, cost, check)
        return check

    return register
