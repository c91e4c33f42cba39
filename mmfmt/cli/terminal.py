"""What every command prints on."""

from typing import IO

from rich.console import Console


def console_for(stderr: bool = False, quiet: bool = False, file: IO[str] | None = None) -> Console:
    """A console that prints text as it is: names of files and tensors are no markup."""
    return Console(
        stderr=stderr,
        quiet=quiet,
        file=file,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
        color_system="auto" if file is None else None,
    )
