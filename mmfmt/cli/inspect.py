"""`mmfmt inspect`."""

from pathlib import Path

import click

from mmfmt.cli.terminal import console_for
from mmfmt.repo import open_repo


@click.command()
@click.argument("repo", type=click.Path(path_type=Path, file_okay=False))
def inspect(repo: Path) -> None:
    """Show what a repo holds: every module with its scheme and size, layer by layer."""
    from mmfmt.inspect.survey import inspect as run
    from mmfmt.inspect.text import write_text

    write_text(run(open_repo(repo)), console_for())
