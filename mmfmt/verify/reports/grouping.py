"""Findings that say the same of many places, as one: `layers.{0..39}.attention.wq`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mmfmt.errors import printable
from mmfmt.verify.findings import Finding, plural

# 18 digits at most: int() refuses thousands of them, and names are hostile
_NUMBER = re.compile(r"[0-9]{1,18}")
_RUNS_SHOWN = 5


@dataclass(frozen=True)
class Group:
    """Findings of one rule whose texts differ in numbers only."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        return self.findings[0]

    @property
    def shape(self) -> tuple[str, ...]:
        """What all findings of the group share, and no others; the same from run to run."""
        return _shape(self.first)

    @property
    def path(self) -> str:
        return _merged([finding.path for finding in self.findings])

    @property
    def location(self) -> str:
        return _merged([finding.location for finding in self.findings])

    @property
    def message(self) -> str:
        return _merged([finding.message for finding in self.findings])

    @property
    def fix(self) -> str:
        return _merged([finding.fix for finding in self.findings])

    @property
    def text(self) -> str:
        """Location and message on one line, with the number of findings if there are many."""
        place = f"{self.location}: " if self.location else ""
        count = len(self.findings)
        many = f" ({plural(count, self.first.level)})" if count > 1 else ""
        return f"{place}{self.message}{many}"


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Groups in the order in which they come up; control characters are escaped by then."""
    alike: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        alike.setdefault(_shape(finding), []).append(finding)
    return [Group(tuple(members)) for members in alike.values()]


def _shape(finding: Finding) -> tuple[str, ...]:
    texts = (finding.path, finding.location, finding.message, finding.fix)
    return (finding.rule, finding.level, *(_NUMBER.sub("#", printable(t)) for t in texts))


def _merged(texts: Sequence[str]) -> str:
    """One text for several that differ in numbers only."""
    columns = zip(*(_NUMBER.findall(printable(text)) for text in texts), strict=True)
    numbers: Iterator[str] = map(_spread, columns)
    return _NUMBER.sub(lambda _: next(numbers), printable(texts[0]))


def _spread(column: Sequence[str]) -> str:
    """The numbers at one place of all texts: `7`, `{0..39}`, `{0,3..5}`."""
    runs: list[list[str]] = []
    for number in sorted(set(column), key=int):
        if runs and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    if len(runs) == len(runs[0]) == 1:
        return column[0]
    shown = [run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    return "{" + ",".join(shown[:_RUNS_SHOWN] + ["..."] * (len(runs) > _RUNS_SHOWN)) + "}"
