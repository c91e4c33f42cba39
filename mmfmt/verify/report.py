"""Reports: text for people, JSON for machines. Rules know nothing of either."""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby

from rich.console import Console
from rich.text import Text

from mmfmt.errors import printable
from mmfmt.verify.findings import Finding
from mmfmt.verify.run import Report

_COLOURS = {"error": "red", "warning": "yellow"}


def write_json(report: Report, console: Console) -> None:
    """The report as JSON; format in `schemas/findings.schema.json`."""
    body = {
        "version": 1,
        "repo": report.repo,
        "summary": {"errors": report.count("error"), "warnings": report.count("warning")},
        "findings": [_finding(finding) for finding in report.findings],
        "skipped": [asdict(skipped) for skipped in report.skipped],
    }
    console.file.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")


def _finding(finding: Finding) -> dict[str, object]:
    body = {key: value for key, value in asdict(finding).items() if key != "edits"}
    return {**body, "fixable": bool(finding.edits)}


def write_text(report: Report, console: Console) -> None:
    """Findings by file, one line each and one for the repair, and a verdict."""
    ordered = sorted(report.findings, key=lambda finding: finding.path)
    for path, findings in groupby(ordered, key=lambda finding: finding.path):
        console.print(Text(printable(path), "bold"))
        for finding in findings:
            _print_finding(finding, console)
    for reason, ids in _skipped(report).items():
        console.print(Text(f"skipped {', '.join(ids)}: {reason}", "dim"))
    console.print(_verdict(report))


def _skipped(report: Report) -> dict[str, list[str]]:
    """Ids of the rules that could not look, by reason."""
    by_reason: dict[str, list[str]] = {}
    for skipped in report.skipped:
        by_reason.setdefault(skipped.reason, []).append(skipped.rule)
    return by_reason


def _print_finding(finding: Finding, console: Console) -> None:
    line = Text.assemble(
        "  ",
        (finding.level, _COLOURS[finding.level]),
        f" {finding.rule} {finding.name}: ",
        (f"{printable(finding.location)}: " if finding.location else "", "cyan"),
        printable(finding.message),
    )
    console.print(line)
    if finding.fix:
        console.print(Text(f"    fix: {printable(finding.fix)}", "green"))


def _verdict(report: Report) -> Text:
    errors, warnings = report.count("error"), report.count("warning")
    counts = f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}"
    if report.skipped:
        counts += f", {_plural(len(report.skipped), 'rule')} skipped"
    word, colour = ("FAILED", "red") if errors else ("OK", "green")
    return Text.assemble((word, f"bold {colour}"), f" {report.repo}: {counts}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


FORMATS: dict[str, Callable[[Report, Console], None]] = {"text": write_text, "json": write_json}
