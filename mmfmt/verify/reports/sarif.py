"""SARIF 2.1.0, for GitHub code scanning and editors (docs.oasis-open.org/sarif/sarif/v2.1.0).

Findings that repeat over layers are one result with an occurrence count.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console

from mmfmt import __version__
from mmfmt.errors import printable
from mmfmt.storage import Folder
from mmfmt.verify.docs import HOME, address, markdown
from mmfmt.verify.findings import Rule
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import Group, grouped
from mmfmt.verify.reports.places import line

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
# the folder that paths are relative to: readers of SARIF put the checkout in its place
_ROOT = "%SRCROOT%"


def write(verdict: Verdict, console: Console) -> None:
    """One run; expected findings are suppressed results."""
    body = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [_run(verdict)]}
    json.dump(body, console.file, indent=2)
    console.file.write("\n")


def _run(verdict: Verdict) -> dict[str, Any]:
    rules = verdict.options.rules
    driver = {
        "name": "mmfmt",
        "version": __version__,
        "informationUri": HOME,
        "rules": [_rule(rule) for rule in rules],
    }
    root, prefix = _root(verdict)
    indexes = {rule.id: number for number, rule in enumerate(rules)}
    results = [_result(verdict, group, prefix, indexes) for group in _groups(verdict)]
    bases = {"originalUriBaseIds": {_ROOT: {"uri": root}}} if root else {}
    return {
        "tool": {"driver": driver},
        **bases,
        "invocations": [_invocation(verdict, indexes)],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }


def _groups(verdict: Verdict) -> list[tuple[Group, str]]:
    """Groups of findings, each with the reason for which it is expected, or none."""
    groups = [(group, "") for group in grouped(verdict.report.findings)]
    for finding, entry in verdict.expected:
        groups += [(group, entry.reason) for group in grouped([finding])]
    return groups


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": rule.explanation, "markdown": markdown(rule)},
        "helpUri": address(rule),
        "defaultConfiguration": {"level": rule.level},
        "properties": {"tags": [rule.cost]},
    }


def _result(
    verdict: Verdict, marked: tuple[Group, str], prefix: str, indexes: dict[str, int]
) -> dict[str, Any]:
    group, reason = marked
    first = group.first
    fix = f" (fix: {group.fix})" if group.fix else ""
    result = {
        "ruleId": first.rule,
        "ruleIndex": indexes[first.rule],
        "level": first.level,
        "message": {"text": group.text + fix},
        "locations": [_location(verdict, group, prefix)],
        "partialFingerprints": {"mmfmt/v1": sha256(repr(group.shape).encode()).hexdigest()},
        "occurrenceCount": len(group.findings),
    }
    if reason:
        result["suppressions"] = [{"kind": "external", "justification": printable(reason)}]
    return result


def _location(verdict: Verdict, group: Group, prefix: str) -> dict[str, Any]:
    uri = quote(printable(prefix + group.first.path))
    place = {
        "artifactLocation": {"uri": uri, "uriBaseId": _ROOT},
        # GitHub refuses results without a region, of weight files too (codeql-action#1738)
        "region": {"startLine": line(verdict.repo, group.first)},
    }
    location: dict[str, Any] = {"physicalLocation": place}
    if group.location:
        location["logicalLocations"] = [{"fullyQualifiedName": group.location}]
    return location


def _root(verdict: Verdict) -> tuple[str, str]:
    """The URI that paths are relative to, and the repo's path from there.

    It is the working folder, which in CI is the checkout, if the repo lies in it.
    """
    storage = verdict.repo.storage
    if not isinstance(storage, Folder):
        return "", ""
    here, folder = Path.cwd(), storage.path.resolve()
    if folder != here and folder.is_relative_to(here):
        return f"{here.as_uri()}/", f"{folder.relative_to(here).as_posix()}/"
    return f"{folder.as_uri()}/", ""


def _invocation(verdict: Verdict, indexes: dict[str, int]) -> dict[str, Any]:
    skipped = [
        {
            "level": "warning",
            "message": {"text": printable(skipped.reason)},
            "associatedRule": {"id": skipped.rule, "index": indexes[skipped.rule]},
        }
        for skipped in verdict.report.skipped
    ]
    notices = [{"level": "warning", "message": {"text": printable(n)}} for n in verdict.notices]
    return {
        "executionSuccessful": True,
        "toolExecutionNotifications": skipped,
        "toolConfigurationNotifications": notices,
    }
