"""JSON, as `schemas/findings.schema.json` has it: every finding, none grouped."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console

from mmfmt import __version__
from mmfmt.verify.findings import Finding
from mmfmt.verify.gate import Verdict


def write(verdict: Verdict, console: Console) -> None:
    """The whole report as one JSON object."""
    json.dump(_body(verdict), console.file, indent=2)
    console.file.write("\n")


def _body(verdict: Verdict) -> dict[str, Any]:
    report = verdict.report
    expected = [{**_finding(f), "reason": entry.reason} for f, entry in verdict.expected]
    return {
        "version": 1,
        "mmfmt": __version__,
        "repo": report.repo,
        "passed": not verdict.failures,
        "failures": list(verdict.failures),
        "notices": list(verdict.notices),
        "rules": [rule.id for rule in verdict.options.rules],
        "summary": {f"{level}s": report.count(level) for level in ("error", "warning", "note")},
        "findings": [_finding(finding) for finding in report.findings],
        "expected": expected,
        "skipped": [asdict(skipped) for skipped in report.skipped],
        "consumers": [asdict(choice) for choice in report.consumers],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    names = ("rule", "name", "level", "path", "location", "message", "fix")
    return {**{n: getattr(finding, n) for n in names}, "fixable": bool(finding.edits)}
