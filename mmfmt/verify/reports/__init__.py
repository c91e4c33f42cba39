"""Reports: a verdict as text for people, and in the formats of machines.

Each format is a module of this package with a function `write(verdict, console)`.
"""

from importlib import import_module

from rich.console import Console

from mmfmt.verify.gate import Verdict

FORMATS = ("text", "json", "sarif", "junit", "github", "markdown")


def write(verdict: Verdict, format_name: str, console: Console) -> None:
    """Write a report in one of FORMATS to a console, or to the file behind it."""
    import_module(f"{__name__}.{format_name}").write(verdict, console)
