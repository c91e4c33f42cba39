"""Workflow commands of GitHub Actions, which shows them as annotations.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from collections.abc import Iterator
from pathlib import PurePath

from rich.console import Console

from mmfmt.errors import printable
from mmfmt.storage import Folder
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import Group, grouped
from mmfmt.verify.reports.places import line
from mmfmt.verify.reports.text import skipped_by_reason, verdict_line

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def write(verdict: Verdict, console: Console) -> None:
    """One command for each group of findings, errors first: GitHub shows ten of a kind."""
    groups = sorted(
        grouped(verdict.report.findings), key=lambda g: list(_COMMANDS).index(g.first.level)
    )
    lines = [*(_annotation(verdict, group) for group in groups), *_remarks(verdict)]
    console.file.writelines(f"{each}\n" for each in (*lines, verdict_line(verdict).plain))


def _annotation(verdict: Verdict, group: Group) -> str:
    storage, first = verdict.repo.storage, group.first
    folder = str(storage.path) if isinstance(storage, Folder) else ""
    properties = {
        "title": f"mmfmt ({first.rule} {first.name})",
        "file": printable(PurePath(folder, first.path).as_posix()),
        "line": str(line(verdict.repo, first)),
    }
    fix = f" (fix: {group.fix})" if group.fix else ""
    return _command(_COMMANDS[first.level], properties, group.text + fix)


def _remarks(verdict: Verdict) -> Iterator[str]:
    for reason, ids in skipped_by_reason(verdict).items():
        yield _command("notice", {"title": f"mmfmt skipped {', '.join(ids)}"}, reason)
    for notice in verdict.notices:
        yield _command("warning", {"title": "mmfmt"}, notice)


def _command(name: str, properties: dict[str, str], message: str) -> str:
    values = (f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {','.join(values)}::{_data(message)}"


def _data(text: str) -> str:
    """Escaped as the runner unescapes it (escapeData in actions/toolkit)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
