"""`mmfmt upload`: through the gate, to the Hub."""

import sys
from pathlib import Path
from typing import Any

import click

from mmfmt.cli.checks import check_options, judge_repo, options_for
from mmfmt.cli.terminal import console_for
from mmfmt.repo import open_repo


@click.command(short_help="Verify a repo, then upload it to the Hub.")
@click.argument("repo", type=click.Path(path_type=Path, file_okay=False))
@click.argument("name", metavar="ORG/NAME")
@click.option("--revision", metavar="BRANCH", help="Upload to this branch.  [default: main]")
@click.option("--private", is_flag=True, help="Make the repo private, if it is new.")
@click.option("--message", help="Message of the commit.", default="Upload with mmfmt")
@check_options
@click.option("--quiet", is_flag=True, help="Print the report only if the repo does not pass.")
def upload(
    repo: Path,
    name: str,
    revision: str | None,
    private: bool,
    message: str,
    isolated: bool,
    quiet: bool,
    **stated: Any,
) -> None:
    """Verify the repo in a folder; if it passes, upload it to the Hub in one commit.

    Prints the address of the commit. Exits 1 and uploads nothing if the repo does not pass. The
    token is the one of `hf auth login`, or HF_TOKEN.
    """
    from mmfmt.upload import upload as send
    from mmfmt.verify.reports import write

    opened = open_repo(repo)
    verdict = judge_repo(opened, options_for(opened, isolated, stated), quiet)
    write(verdict, "text", console_for(stderr=True, quiet=quiet and not verdict.failures))
    if verdict.failures:
        click.echo("nothing was uploaded", err=True)
        sys.exit(1)
    click.echo(send(repo, name, revision=revision, private=private or None, message=message))
