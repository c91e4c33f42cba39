"""Entries of ignore and target lists: how programs compare them with module names."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from mmfmt.errors import MmfmtError

if TYPE_CHECKING:
    from regex import Pattern

REGEX = "re:"
# of every linear module
CLASSES = frozenset({"Linear", "Module"})
# CPU seconds for one name: patterns come from files, and may be made to take for ever
_PATIENCE = 0.01

Test = Callable[[str], bool]
"""Whether any entry of a list means a module name."""


def pattern_fault(entry: str) -> str | None:
    """Why an `re:` entry is no regular expression; None for every other entry."""
    if entry.startswith(REGEX):
        try:
            re.compile(entry.removeprefix(REGEX))
        except (re.error, OverflowError, RecursionError) as error:
            return f"{entry!r} is not a regular expression: {error}"
    return None


@cache
def _compiled(expression: str) -> "Pattern[str]":
    import regex  # gives up after a while, where `re` does not

    try:
        return regex.compile(expression)
    except regex.error as error:
        problem = f"{expression!r} is not a regular expression: {error}"
        raise MmfmtError("ignore", problem) from error


def _matches(expression: str, name: str) -> bool:
    try:
        return _compiled(expression).match(name, timeout=_PATIENCE) is not None
    except TimeoutError as error:
        problem = f"{expression!r} takes too long on {name}"
        raise MmfmtError("ignore", problem, "write a simpler regular expression") from error


def by_name(entries: Iterable[str]) -> Test:
    """Exact names, and `re:` expressions anchored at the start only (compressed-tensors, vLLM)."""
    listed = list(entries)
    names = {entry for entry in listed if not entry.startswith(REGEX)}
    expressions = [entry.removeprefix(REGEX) for entry in listed if entry.startswith(REGEX)]
    return lambda name: name in names or any(_matches(e, name) for e in expressions)


def by_exact_name(entries: Iterable[str]) -> Test:
    """Exact names (vLLM's FP8)."""
    return frozenset(entries).__contains__


def by_class(entries: Iterable[str]) -> Test:
    """As `by_name`, and some classes mean every module (compressed-tensors in transformers)."""
    listed = list(entries)
    return by_name(listed) if CLASSES.isdisjoint(listed) else lambda name: True


def by_part(entries: Iterable[str]) -> Test:
    """A part of the module tree, as an expression, or the end of a name.

    transformers' should_convert_module.
    """
    listed = list(entries)
    heads = [rf"(?:{entry})(?:(?<=\.)|(?=\.|$))" for entry in listed]
    return lambda name: any(map(name.endswith, listed)) or any(_matches(h, name) for h in heads)


def by_substring(entries: Iterable[str]) -> Test:
    """Anything inside a name (vLLM's AWQ)."""
    listed = list(entries)
    return lambda name: any(entry in name for entry in listed)


def parts(entry: str) -> tuple[str, ...]:
    """A module and all below it, which ModelOpt writes as one pattern, in two entries."""
    bare = entry.removesuffix("*")
    return (bare, f"{bare}.*") if bare != entry and not bare.endswith(".") else (entry,)


def by_glob(entries: Iterable[str]) -> Test:
    """A part of a name, or a shell pattern (vLLM's ModelOpt)."""
    listed = list(entries)
    inside = by_substring(listed)
    return lambda name: inside(name) or any(fnmatch.fnmatchcase(name, e) for e in listed)


MATCHERS: Mapping[str, Callable[[Iterable[str]], Test]] = {
    "name": by_name,
    "class": by_class,
    "exact": by_exact_name,
    "part": by_part,
    "substring": by_substring,
    "glob": by_glob,
}
"""Ways to compare, as `schemas/ignore_readers.toml` names them."""
