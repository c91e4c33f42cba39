"""`mmfmt verify`: the gate."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from mmfmt.cli.checks import check_options, judge_repo, options_for
from mmfmt.cli.terminal import console_for
from mmfmt.errors import MmfmtError
from mmfmt.open import open_any

if TYPE_CHECKING:
    from mmfmt.verify.fix import Change
    from mmfmt.verify.gate import Verdict

FORMATS = ("text", "json", "sarif", "junit", "github", "markdown")
_DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


class Output(click.ParamType[tuple[str, Path]]):
    """`FILE`, or `FORMAT=FILE`: the format ("" where it is not said) and the file."""

    name = "output"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        name, equals, file = str(value).partition("=")
        return (name, Path(file)) if equals and name in FORMATS else ("", Path(str(value)))


@click.command(short_help="Check a repo before it is published.")
@click.argument("repo", metavar="REPO")
@check_options
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="How the report is written.",
)
@click.option(
    "--output",
    "outputs",
    metavar="[FORMAT=]FILE",
    type=Output(),
    multiple=True,
    help="Write the report to a file; with a format of its own (sarif=FILE), as well as the "
    "other report. May be repeated.",
)
@click.option("--fix", is_flag=True, help="Mend JSON files where that is safe; show the changes.")
@click.option("--diff", is_flag=True, help="Show what --fix would change, and change nothing.")
@click.option("--quiet", is_flag=True, help="Print nothing if the repo passes.")
def verify(
    repo: str,
    isolated: bool,
    format_name: str,
    outputs: tuple[tuple[str, Path], ...],
    fix: bool,
    diff: bool,
    quiet: bool,
    **stated: Any,
) -> None:
    """Check a repo before it is published: files, headers, names, quantization, configs,
    tokenizers, and whether its two layouts are the same model.

    REPO is a folder, or hf://org/name[@revision], of which only headers and small files are
    read. `mmfmt rules` lists what is checked, `mmfmt explain MMF401` says why.

    Exits 0 if the repo passes, 1 if it does not, 2 if it cannot be looked at.
    """
    opened = open_any(repo)
    if fix:
        _ = opened.path  # refuses what is not on this disk
    options = options_for(opened, isolated, stated)
    verdict = judge_repo(opened, options, quiet)
    if diff:
        sys.exit(_show_fixes(verdict))
    if fix:
        verdict = _mend(verdict, console_for(stderr=format_name != "text", quiet=quiet))
    _report(verdict, format_name, outputs, quiet)
    sys.exit(1 if verdict.failures else 0)


def _report(
    verdict: "Verdict", format_name: str, outputs: tuple[tuple[str, Path], ...], quiet: bool
) -> None:
    """Write every report that was asked for; where all go to files, stderr has the verdict."""
    from mmfmt.verify.reports import write
    from mmfmt.verify.reports.text import verdict_line

    for name, path in outputs:
        _write_file(verdict, name or format_name, path)
    silent = quiet and not verdict.failures
    if all(name for name, _ in outputs):
        write(verdict, format_name, console_for(quiet=silent))
    else:
        console_for(stderr=True, quiet=silent).print(verdict_line(verdict))


def _write_file(verdict: "Verdict", format_name: str, path: Path) -> None:
    from mmfmt.verify.reports import write

    try:
        with path.open("w", encoding="utf-8") as file:
            write(verdict, format_name, console_for(file=file))
    except OSError as error:
        raise MmfmtError(str(path), f"cannot be written: {error.strerror}") from error


def _show_fixes(verdict: "Verdict") -> int:
    """Print the diff of all repairs; 1 if there are any."""
    from mmfmt.verify.fix import plan_changes

    changes = plan_changes(verdict.repo, verdict.report.findings)
    _print_diff(changes, console_for())
    return 1 if changes else 0


def _mend(verdict: "Verdict", console: Console) -> "Verdict":
    """Carry out repairs and look again."""
    from dataclasses import replace

    from mmfmt.verify.fix import plan_changes, write_changes

    findings = [finding for finding in verdict.report.findings if finding.edits]
    changes = plan_changes(verdict.repo, findings)
    if not changes:
        return verdict
    _print_diff(changes, console)
    write_changes(verdict.repo, changes)
    again = judge_repo(open_any(str(verdict.repo.path)), verdict.options, console.quiet)
    left = again.report.findings
    return replace(again, fixed=sum(finding not in left for finding in findings))


def _print_diff(changes: list["Change"], console: Console) -> None:
    from mmfmt.verify.fix import diff

    for change in changes:
        for line in diff(change):
            console.print(Text(line, _DIFF_COLOURS.get(line[:1], "")))
