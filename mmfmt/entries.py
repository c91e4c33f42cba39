"""Entries of ignore and target lists: how programs compare them with module names."""

import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING

from mmfmt.errors import MmfmtError
from mmfmt.lazy import settled

if TYPE_CHECKING:
    from regex import Pattern

REGEX = "re:"
# of every linear module
CLASSES = frozenset({"Linear", "Module"})
# patterns come from files, and may be made to take for ever, or all memory
_MOST_REPEATS = 10_000
_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")
# characters of one, and how many a list may have
_LONGEST, _MOST = 5_000, 5_000
# seconds for one name, and for all names
_PATIENCE, _PATIENCE_FOR_ALL = 0.1, 2.0
# what means something else inside another expression: flags, groups by name or number
_ALONE = re.compile(r"\(\?[^:=!<]|\(\?<[^=!]|\\\d|\\g")

Test = Callable[[str], bool]
"""Whether any entry of a list means a module name."""


def pattern_fault(entry: str) -> str | None:
    """Why an `re:` entry is no regular expression to work with; None for every other entry."""
    return _fault(entry.removeprefix(REGEX)) if entry.startswith(REGEX) else None


def _fault(expression: str) -> str | None:
    if len(expression) > _LONGEST:
        return f"{expression!r} is longer than {_LONGEST} characters"
    if _repeats(expression) > _MOST_REPEATS:
        return f"{expression!r} repeats a part more than {_MOST_REPEATS} times"
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{expression!r} is not a regular expression: {error}"
    return None


def _repeats(expression: str) -> int:
    """How often a part may be repeated by numbers, were each inside the others."""
    counts = (max(int(number[:9] or 1) for number in pair) for pair in _COUNTS.findall(expression))
    return prod(max(count, 1) for count in counts)


class _Expressions:
    """Regular expressions of a list. MmfmtError for one that is none, or takes too long."""

    def __init__(self, expressions: tuple[str, ...]) -> None:
        self._expressions = expressions
        self._slow: MmfmtError | None = None
        self._matched: dict[str, bool] = {}  # readers and rules ask for the same names

    @settled
    def _compiled(self) -> "list[Pattern[str]]":
        """The expressions, as many as possible in one: a list may have hundreds."""
        if len(self._expressions) > _MOST:
            raise MmfmtError("ignore", f"has more than {_MOST} expressions")
        for fault in filter(None, map(_fault, self._expressions)):
            raise MmfmtError("ignore", fault)
        alone = [each for each in self._expressions if _ALONE.search(each)]
        joined = "|".join(f"(?:{each})" for each in self._expressions if each not in alone)
        return [_compile(each) for each in (*alone, joined) if each]

    def match(self, name: str, patience: float) -> bool:
        """Whether one of them matches the beginning of a name, within so many seconds."""
        if self._slow:  # for another reader of the same list
            raise self._slow.with_traceback(None)
        try:
            if name not in self._matched:
                found = any(each.match(name, timeout=patience) for each in self._compiled)
                self._matched[name] = found
            return self._matched[name]
        except TimeoutError:
            self._slow = self._error(name)
            raise self._slow from None

    def _error(self, name: str) -> MmfmtError:
        first = f"{self._expressions[0]!r}" + (", ..." if self._expressions[1:] else "")
        fix = "write simpler regular expressions"
        return MmfmtError("ignore", f"{first} takes too long on {name}", fix)


_expressions = lru_cache(maxsize=64)(_Expressions)


def _matching(listed: Iterable[str]) -> Test:
    """Whether one of some expressions matches the beginning of a name."""
    expressions, left = _expressions(tuple(listed)), _PATIENCE_FOR_ALL

    def test(name: str) -> bool:
        nonlocal left
        start = perf_counter()
        found = expressions.match(name, min(left, _PATIENCE))
        left = max(left - (perf_counter() - start), 0)
        return found

    return test


def _compile(expression: str) -> "Pattern[str]":
    import regex  # gives up after a while, where `re` does not

    try:
        return regex.compile(expression)
    except (regex.error, RecursionError) as error:
        problem = f"{expression!r} is not a regular expression: {error}"
        raise MmfmtError("ignore", problem) from error


def by_name(entries: Iterable[str]) -> Test:
    """Exact names, and `re:` expressions anchored at the start only (compressed-tensors, vLLM)."""
    listed = list(entries)
    names = {entry for entry in listed if not entry.startswith(REGEX)}
    matches = _matching(e.removeprefix(REGEX) for e in listed if e.startswith(REGEX))
    return lambda name: name in names or matches(name)


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
    heads = _matching(rf"(?:{entry})(?:(?<=\.)|(?=\.|$))" for entry in listed)
    return lambda name: any(map(name.endswith, listed)) or heads(name)


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
    patterns = [re.compile(fnmatch.translate(entry)) for entry in listed]
    return lambda name: inside(name) or any(pattern.match(name) for pattern in patterns)


MATCHERS: Mapping[str, Callable[[Iterable[str]], Test]] = {
    "name": by_name,
    "class": by_class,
    "exact": by_exact_name,
    "part": by_part,
    "substring": by_substring,
    "glob": by_glob,
}
"""Ways to compare, as `schemas/ignore_readers.toml` names them."""
