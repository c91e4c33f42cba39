"""`mmfmt rules` and `mmfmt explain`."""

import json
import textwrap
from typing import TYPE_CHECKING

import click
from rich.text import Text

from mmfmt.cli.terminal import console_for

if TYPE_CHECKING:
    from mmfmt.verify.findings import Rule

# the longest line that reads well
_WIDTH = 100


@click.command(short_help="List the rules.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the list is written.",
)
def rules(format_name: str) -> None:
    """List the rules: id, name, level, what they read, and what must hold.

    What a rule reads is the --level that it runs from; those that run `loaders` need
    transformers (pip install 'mmfmt[hf]').
    """
    from mmfmt.verify.rules import registered_rules

    if format_name == "json":
        columns = ("id", "name", "level", "cost", "summary")
        body = [{c: getattr(rule, c) for c in columns} for rule in registered_rules()]
        click.echo(json.dumps(body, indent=2))
    else:
        _print_table(registered_rules())


def _print_table(rules: tuple["Rule", ...]) -> None:
    """A line for each rule, cut at the edge of a terminal."""
    console = console_for()
    width = max(len(rule.name) for rule in rules)
    for rule in rules:
        line = f"{rule.id}  {rule.name:<{width}}  {rule.level:<7}  {rule.cost:<7}  {rule.summary}"
        text = Text(line)
        text.stylize("bold", 0, len(rule.id))
        if console.is_terminal:
            text.truncate(console.width, overflow="ellipsis")
        console.print(text)


@click.command(short_help="Say why a rule exists and how to mend what it finds.")
@click.argument("names", metavar="RULE...", nargs=-1, required=True)
def explain(names: tuple[str, ...]) -> None:
    """Say what a rule wants, why it matters and how to mend what it finds.

    RULE is an id (MMF401), the beginning of ids (MMF4) or a name (missing-module).
    """
    from mmfmt.verify.docs import COSTS
    from mmfmt.verify.options import selected

    console = console_for()
    for number, rule in enumerate(selected(names, "explain")):
        if number:
            console.print()
        about = f"({rule.level}; {COSTS[rule.cost].replace('`', '')})"
        console.print(Text.assemble((f"{rule.id} {rule.name}", "bold"), " ", (about, "dim")))
        for paragraph in rule.explanation.split("\n\n"):
            console.print()
            console.print(_wrapped(paragraph, min(console.width, _WIDTH)))


def _wrapped(paragraph: str, width: int) -> Text:
    """A paragraph refilled to a width; indented lines stay as they are."""
    if any(line.startswith((" ", "- ", "* ")) for line in paragraph.splitlines()):
        return Text(paragraph)
    text = Text(textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False))
    text.highlight_words(["Repair:"], "bold green")
    return text
