"""What every command prints on."""

from rich.console import Console


def console_for(stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is: names of files and tensors are no markup."""
    return Console(
        stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True
    )
