"""`mmfmt inspect`: what a repo holds."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmfmt.cli.checks import judge_repo, options_for
from mmfmt.cli.terminal import console_for
from mmfmt.errors import MmfmtError
from mmfmt.open import open_any

if TYPE_CHECKING:
    from mmfmt.inspect.facts import Inspection
    from mmfmt.repo import Repo


@click.command(short_help="Show what a repo holds: modules, schemes, sizes.")
@click.argument("repo", metavar="REPO")
@click.option(
    "--layout",
    type=click.Choice(["hf", "consolidated"]),
    help="This one only.  [default: text shows the Hugging Face layout if there are both]",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How it is printed.",
)
@click.option(
    "--html",
    "page_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one self-contained page instead, with the findings of `mmfmt verify`.",
)
def inspect(repo: str, layout: str | None, format_name: str, page_file: Path | None) -> None:
    """Show what a repo holds: every module with its scheme, bits and bytes, and which module of
    which layer is stored how.

    REPO is a folder, or hf://org/name[@revision], of which only headers and small files are
    read. Of a broken repo it shows what can be read; exits 2 if nothing can.
    """
    from mmfmt.inspect.facts import to_json
    from mmfmt.inspect.survey import LAYOUTS
    from mmfmt.inspect.survey import inspect as survey
    from mmfmt.inspect.text import write_text

    opened = open_any(repo)
    inspection = survey(opened, [layout] if layout else LAYOUTS)
    if page_file:
        _write_page(opened, inspection, page_file)
    elif format_name == "json":
        click.echo(to_json(inspection))
    else:
        write_text(inspection, console_for())


def _write_page(repo: "Repo", inspection: "Inspection", file: Path) -> None:
    from mmfmt.inspect.page import page

    verdict = judge_repo(repo, options_for(repo, isolated=False, stated={}), quiet=True)
    try:
        file.write_text(page(inspection, verdict), encoding="utf-8")
    except OSError as error:
        raise MmfmtError(str(file), f"cannot be written: {error.strerror}") from error
