"""The command line: parses, wires the rooms together, prints. Exit 0 good, 1 findings, 2 error."""

import gc
import signal
import sys
from importlib import import_module
from typing import NoReturn

import click

from mmfmt import __version__
from mmfmt.errors import MmfmtError

# commands by the module of this package that holds each: imported when the command is run
_MODULES = {
    "verify": "verify",
    "inspect": "inspect",
    "upload": "upload",
    "explain": "rules",
    "rules": "rules",
    "convert": "convert",
}


class _Commands(click.Group):
    """The commands, in the order of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"mmfmt.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="mmfmt")
def cli() -> None:
    """Convert Mistral checkpoints between the Hugging Face and the consolidated layout,
    and verify them before upload."""


def main() -> None:
    """Entry point: errors become one line on stderr and exit code 2."""
    signal.signal(signal.SIGTERM, _terminated)
    gc.set_threshold(100_000)  # headers live to the end: looking for garbage took a quarter
    try:
        cli(standalone_mode=False)
    except MmfmtError as error:
        _fail(_with_notes(str(error), error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        _fail(_with_notes("interrupted, nothing was published", error.__cause__ or error), 130)


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", ())])


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 2) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
