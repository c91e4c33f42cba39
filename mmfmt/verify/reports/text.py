"""Text for people: findings by file, one line each, who reads what, and a verdict."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from mmfmt.errors import printable
from mmfmt.verify.findings import plural
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import Group, grouped

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "blue"}
# lines of one rule in one file
_LINES = 8

# a line with the blanks before it
_Line = tuple[int, Text]


def write(verdict: Verdict, console: Console) -> None:
    """Findings by file with their repairs, what else must be known, and the verdict."""
    for lines in (_findings(verdict), _consumers(verdict), _remarks(verdict)):
        for indent, text in lines:
            _print(console, indent, text)
    _print(console, 0, verdict_line(verdict))


def _print(console: Console, indent: int, text: Text) -> None:
    """Print a line; a terminal gets long ones word by word, with their indentation."""
    if console.is_terminal:
        padded = Padding(text, (0, 0, 0, indent), expand=False)
        console.print(padded, soft_wrap=False)
    else:
        console.print(Text(" " * indent) + text)


def _findings(verdict: Verdict) -> Iterator[_Line]:
    groups = sorted(grouped(verdict.report.findings), key=lambda group: group.path)
    for path, of_file in groupby(groups, key=lambda group: group.path):
        yield 0, Text(path, "bold")
        for _, of_rule in groupby(of_file, key=lambda group: group.first.rule):
            yield from _of_rule(list(of_rule))


def _of_rule(groups: list[Group]) -> Iterator[_Line]:
    """The lines of one rule's findings in one file; a repair that they share comes once."""
    for fix, alike in groupby(groups[:_LINES], key=lambda group: group.fix):
        yield from ((2, _finding(group)) for group in alike)
        if fix:
            yield 4, Text(f"fix: {fix}", "green")
    if len(groups) > _LINES:
        more = f"and {len(groups) - _LINES} more of {groups[0].first.rule}"
        yield 2, Text(f"{more} (--format json lists all)", "dim")


def _finding(group: Group) -> Text:
    level, rule = group.first.level, f"{group.first.rule} {group.first.name}"
    text = Text.assemble((level, _COLOURS[level]), f" {rule}: {group.text}")
    if group.location:
        start = len(level) + len(rule) + 3
        text.stylize("cyan", start, start + len(group.location))
    return text


def _consumers(verdict: Verdict) -> Iterator[_Line]:
    """Each consumer's tokenizer, class and weights, and a note if it has one."""
    if verdict.report.consumers:
        yield 0, Text("who reads what", "bold")
    for choice in verdict.report.consumers:
        taken = filter(None, (choice.tokenizer, choice.model, choice.weights))
        yield 2, Text.assemble((f"{choice.consumer}: ", "cyan"), printable(", ".join(taken)))
        if choice.note:
            yield 4, Text(printable(choice.note), "yellow")


def _remarks(verdict: Verdict) -> Iterator[_Line]:
    """Expected findings, skipped rules, and what the repo's own file takes out of the check."""
    for finding, entry in verdict.expected:
        place = f"{finding.rule} in {printable(finding.path)}"
        yield 0, Text(f"expected {place}: {printable(entry.reason)}", "dim")
    for reason, ids in skipped_by_reason(verdict).items():
        yield 0, Text(f"skipped {', '.join(ids)}: {reason}", "dim")
    for notice in verdict.notices:
        yield 0, Text(f"note: {printable(notice)}", "yellow")


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
