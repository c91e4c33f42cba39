"""Running the rules, for every command that does: options, progress, the verdict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console

from mmfmt.repo import Repo
from mmfmt.verify.findings import Cost

if TYPE_CHECKING:
    from mmfmt.repo import Advance
    from mmfmt.verify.gate import Verdict
    from mmfmt.verify.options import Options


def _split(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


_RULES = "ids (MMF401), beginnings of ids (MMF4) or names (missing-module), with commas between"


def check_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say what is checked and what fails."""
    for decorate in (
        click.option(
            "--isolated",
            is_flag=True,
            help="Do not read mmfmt.toml or pyproject.toml in the repo, which could ignore rules.",
        ),
        click.option("--strict", is_flag=True, help="Fail if a rule is skipped, too."),
        click.option(
            "--fail-on",
            type=click.Choice(["error", "warning"]),
            help="Fail from this level on.  [default: error]",
        ),
        click.option(
            "--level",
            type=click.Choice(get_args(Cost)),
            help="What to look at: headers and configs; whole vocabularies, too; what the loaders "
            "of tokenizers and processors make of the repo, too (seconds; without transformers "
            "they are skipped); every byte of the weights, too, at the speed of the disk.  "
            "[default: loaders]",
        ),
        click.option(
            "--ignore", metavar="RULES", multiple=True, callback=_split, help="Leave these out."
        ),
        click.option(
            "--select",
            metavar="RULES",
            multiple=True,
            callback=_split,
            help=f"Run these rules only: {_RULES}.",
        ),
    ):
        command = decorate(command)
    return command


def options_for(repo: Repo, isolated: bool, stated: dict[str, Any]) -> "Options":
    """What the options of `check_options` and the repo's own file say."""
    from mmfmt.verify.options import read_options

    return read_options(repo, {key: value for key, value in stated.items() if value}, isolated)


def judge_repo(repo: Repo, options: "Options", quiet: bool) -> "Verdict":
    """Run the rules; a terminal shows how many bytes of the weights are read, unless `quiet`."""
    from mmfmt.cli.terminal import console_for
    from mmfmt.verify.gate import judge

    console = console_for(stderr=True, quiet=quiet)
    if options.level != "bytes" or not console.is_terminal:
        return judge(repo, options)
    with _progress(console) as advance:
        return judge(repo, options, advance)


@contextmanager
def _progress(console: Console) -> Iterator["Advance"]:
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), "reading the weights", DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda count: bar.advance(task, count)
