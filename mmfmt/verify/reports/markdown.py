"""Markdown, for the job summary of a CI run and for pull requests."""

import re
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console

from mmfmt.errors import printable
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import Group, grouped
from mmfmt.verify.reports.text import skipped_by_reason, verdict_line

# the last two keep addresses from becoming links
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&#$@]|:(?=/)|(?<=[wW])\.)")
_ROWS = 100


def write(verdict: Verdict, console: Console) -> None:
    """The verdict, then a table of findings for each file."""
    console.file.writelines(f"{line}\n" for line in _lines(verdict))


def _lines(verdict: Verdict) -> Iterator[str]:
    word, _, rest = verdict_line(verdict).plain.partition(" ")
    yield f"### mmfmt verify: {word}"
    yield from ("", _escaped(rest), "")
    groups = sorted(grouped(verdict.report.findings), key=lambda group: group.path)
    for path, of_file in groupby(groups[:_ROWS], key=lambda group: group.path):
        yield from (f"#### {code(path)}", "", "| | rule | finding | repair |", "|-|-|-|-|")
        yield from map(_row, of_file)
        yield ""
    if len(groups) > _ROWS:
        yield from (f"... and {len(groups) - _ROWS} more", "")
    yield from _consumers(verdict)
    yield from (f"- {line}" for line in _remarks(verdict))


def _row(group: Group) -> str:
    first = group.first
    place = f"{code(group.location)}: " if group.location else ""
    text = group.text.removeprefix(f"{group.location}: ")
    rule = f"{first.rule} {first.name}"
    return f"| {first.level} | {rule} | {place}{_escaped(text)} | {_escaped(group.fix)} |"


def _consumers(verdict: Verdict) -> Iterator[str]:
    if verdict.report.consumers:
        yield from ("| who reads | tokenizer | class | weights | |", "|-|-|-|-|-|")
    for choice in verdict.report.consumers:
        cells = (choice.tokenizer, choice.model, choice.weights)
        taken = " | ".join(code(printable(cell)) if cell else "" for cell in cells)
        yield f"| {code(choice.consumer)} | {taken} | {_escaped(printable(choice.note))} |"
    yield ""


def _remarks(verdict: Verdict) -> Iterator[str]:
    for finding, entry in verdict.expected:
        place = f"{finding.rule} in {code(printable(finding.path))}"
        yield f"expected: {place}: {_escaped(printable(entry.reason))}"
    for reason, ids in skipped_by_reason(verdict).items():
        yield f"skipped {', '.join(ids)}: {_escaped(reason)}"
    for notice in verdict.notices:
        yield f"**{_escaped(printable(notice))}**"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: names of hostile repos make no links or pictures."""
    return _SPECIAL.sub(r"\\\1", text)


def code(text: str) -> str:
    """Text as a code span, in a table too."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text.replace('|', chr(92) + '|')}{edge}{fence}"
