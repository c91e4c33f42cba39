"""Text for people: findings by file, one line each, and a verdict."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from mmfmt.errors import printable
from mmfmt.verify.findings import plural
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import Group, grouped

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "blue"}
# lines of one rule in one file
_LINES = 8


def write(verdict: Verdict, console: Console) -> None:
    """Findings by file with their repairs, what else must be known, and the verdict."""
    groups = sorted(grouped(verdict.report.findings), key=lambda group: group.path)
    for path, of_file in groupby(groups, key=lambda group: group.path):
        console.print(Text(path, "bold"))
        for _, of_rule in groupby(of_file, key=lambda group: group.first.rule):
            for line in _lines(list(of_rule)):
                console.print(line)
    for line in (*_consumers(verdict), *_remarks(verdict)):
        console.print(line)
    console.print(verdict_line(verdict))


def _lines(groups: list[Group]) -> Iterator[Text]:
    """The lines of one rule's findings in one file; a repair that they share comes once."""
    for fix, alike in groupby(groups[:_LINES], key=lambda group: group.fix):
        yield from map(_line, alike)
        if fix:
            yield Text(f"    fix: {fix}", "green")
    if len(groups) > _LINES:
        more = f"and {len(groups) - _LINES} more of {groups[0].first.rule}"
        yield Text(f"  {more} (--format json lists all)", "dim")


def _line(group: Group) -> Text:
    level, rule = group.first.level, f"{group.first.rule} {group.first.name}"
    return Text.assemble("  ", (level, _COLOURS[level]), f" {rule}: ", *_place(group))


def _place(group: Group) -> Iterator[str | tuple[str, str]]:
    place, _, rest = group.text.partition(f"{group.location}: ")
    return iter([place, (f"{group.location}: ", "cyan"), rest] if group.location else [group.text])


def _consumers(verdict: Verdict) -> Iterator[Text]:
    """Who reads what: a line for each consumer's tokenizer, class and weights, one for a note."""
    if verdict.report.consumers:
        yield Text("who reads what", "bold")
    for choice in verdict.report.consumers:
        taken = filter(None, (choice.tokenizer, choice.model, choice.weights))
        yield Text.assemble("  ", (f"{choice.consumer}: ", "cyan"), printable(", ".join(taken)))
        if choice.note:
            yield Text(f"    {printable(choice.note)}", "yellow")


def _remarks(verdict: Verdict) -> Iterator[Text]:
    """Expected findings, skipped rules, and what the repo's own file takes out of the check."""
    for finding, entry in verdict.expected:
        place = f"{finding.rule} in {printable(finding.path)}"
        yield Text(f"expected {place}: {printable(entry.reason)}", "dim")
    for reason, ids in skipped_by_reason(verdict).items():
        yield Text(f"skipped {', '.join(ids)}: {reason}", "dim")
    for notice in verdict.notices:
        yield Text(f"note: {printable(notice)}", "yellow")


def skipped_by_reason(verdict: Verdict) -> dict[str, list[str]]:
    """Ids of the rules that could not look, by reason."""
    by_reason: dict[str, list[str]] = {}
    for skipped in verdict.report.skipped:
        by_reason.setdefault(printable(skipped.reason), []).append(skipped.rule)
    return by_reason


def verdict_line(verdict: Verdict) -> Text:
    """Whether the repo passes, the counts, and why not where errors do not say so."""
    word, colour = ("FAILED", "red") if verdict.failures else ("OK", "green")
    why = "" if verdict.report.count("error") else "; ".join(verdict.failures)
    label = printable(verdict.report.repo)
    line = f" {label}: {', '.join(counts(verdict))}" + (f": {why}" if why else "")
    return Text.assemble((word, f"bold {colour}"), line)


def counts(verdict: Verdict) -> Iterator[str]:
    """How many findings of each level there are, and whatever else was counted."""
    report = verdict.report
    yield plural(report.count("error"), "error")
    yield plural(report.count("warning"), "warning")
    if notes := report.count("note"):
        yield plural(notes, "note")
    if verdict.expected:
        yield f"{len(verdict.expected)} expected"
    if report.skipped:
        yield f"{plural(len(report.skipped), 'rule')} skipped"
    if fixable := sum(bool(finding.edits) for finding in report.findings):
        yield f"{fixable} fixable with --fix"
    if verdict.fixed:
        yield f"{verdict.fixed} fixed"
