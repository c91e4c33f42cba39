"""`mmfmt verify`."""

import sys
from pathlib import Path

import click

from mmfmt.cli.terminal import console_for
from mmfmt.repo import open_repo


@click.command()
@click.argument("repo", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
)
def verify(repo: Path, format_name: str) -> None:
    """Check a repo before upload: files, headers, names, quantization, configs, tokenizer.

    Exits 0 if there are no errors (warnings do not count), 1 if there are, 2 if it cannot look.
    """
    from mmfmt.verify.report import FORMATS
    from mmfmt.verify.run import verify as run

    report = run(open_repo(repo))
    FORMATS[format_name](report, console_for())
    sys.exit(1 if report.count("error") or report.blind else 0)
