"""`mmfmt convert`."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from mmfmt.cli.terminal import console_for
from mmfmt.reader import reader, reader_labels
from mmfmt.repo import open_repo

if TYPE_CHECKING:
    from mmfmt.convert.plan import Plan

FOLDER = click.Path(path_type=Path, file_okay=False)

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{unit}B": 1000**power for power, unit in enumerate("KMGT", 1)}
_UNITS |= {f"{unit}IB": 1024**power for power, unit in enumerate("KMGT", 1)}


class Size(click.ParamType[int]):
    """A byte count such as `5GB`, `500MiB` or `1000000`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(value).upper())
        size = int(float(found[1]) * _UNITS.get(found[2], 0)) if found else 0
        return size or self.fail(f"{value!r} is not a size such as 5GB", param, ctx)


@click.group()
def convert() -> None:
    """Convert a checkpoint from one layout to the other."""


def _writes(command: Callable[..., None]) -> Callable[..., None]:
    """Arguments and options of every command that writes a checkpoint."""
    for decorate in (
        click.option("--quiet", is_flag=True, help="Print errors only."),
        click.option("--force", is_flag=True, help="Replace files that are there already."),
        click.option("--dry-run", is_flag=True, help="Print the plan and write nothing."),
        click.argument("dst", type=FOLDER, required=False),
        click.argument("src", type=FOLDER),
    ):
        command = decorate(command)
    return command


_max_shard_size = click.option(
    "--max-shard-size", type=Size(), help="Split anew, e.g. 5GB. Default: as SRC."
)
_repack = click.option(
    "--repack",
    is_flag=True,
    help="Write 3, 5, 6 and 7 bit weights densely that compressed-tensors <= 0.17 padded.",
)


@convert.command("hf-to-consolidated")
@_writes
@click.option(
    "--tokenizer-from", type=FOLDER, help="Repo to take tekken.json from if SRC has none."
)
@click.option(
    "--reader",
    "reader_label",
    type=click.Choice(reader_labels()),
    default="vllm",
    show_default=True,
    help="Whose row order packed Q and K take: vLLM's loader, or Mistral's own order.",
)
@_max_shard_size
@_repack
def hf_to_consolidated(
    src: Path,
    dst: Path | None,
    tokenizer_from: Path | None,
    reader_label: str,
    max_shard_size: int | None,
    repack: bool,
    **output: bool,
) -> None:
    """Write the consolidated set of a Hugging Face checkpoint.

    Without DST it is added to SRC, which then holds both layouts.
    """
    from mmfmt.convert.consolidated import Request, plan_consolidated

    request = Request(
        source=open_repo(src),
        target=dst or src,
        reader=reader(reader_label),
        tokenizer_from=open_repo(tokenizer_from) if tokenizer_from else None,
        max_shard_bytes=max_shard_size,
        repack=repack,
    )
    _convert(plan_consolidated(request), **output)


@convert.command("consolidated-to-hf")
@_writes
@click.option(
    "--names",
    type=click.Choice(["new", "legacy"]),
    default="new",
    show_default=True,
    help="Prefixes of multimodal tensor names: of transformers from 4.52 on, or before.",
)
@click.option(
    "--reader",
    "reader_label",
    type=click.Choice(reader_labels()),
    help="Whose row order packed Q and K have, where SRC does not record it.",
)
@_max_shard_size
@_repack
def consolidated_to_hf(
    src: Path,
    dst: Path | None,
    names: str,
    reader_label: str | None,
    max_shard_size: int | None,
    repack: bool,
    **output: bool,
) -> None:
    """Write the Hugging Face set of a consolidated checkpoint.

    Without DST it is added to SRC, which then holds both layouts. Tokenizer, processor and
    chat template files that SRC lacks are made from tekken.json.
    """
    from mmfmt.convert.huggingface import Request, plan_huggingface

    request = Request(
        source=open_repo(src),
        target=dst or src,
        names=names,
        reader=reader_label,
        max_shard_bytes=max_shard_size,
        repack=repack,
    )
    _convert(plan_huggingface(request), **output)


@convert.command()
@_writes
@click.option(
    "--reader",
    "reader_label",
    type=click.Choice(reader_labels()),
    required=True,
    help="Whose row order packed Q and K shall have.",
)
@click.option(
    "--from-reader",
    type=click.Choice(reader_labels()),
    help="Whose row order they have now, where SRC does not record it.",
)
def reorder(
    src: Path, dst: Path | None, reader_label: str, from_reader: str | None, **output: bool
) -> None:
    """Switch a consolidated set to another reader's row order.

    Only Q and K change. Without DST the set in SRC is replaced, which takes --force.
    """
    from mmfmt.convert.reorder import Request, plan_reorder

    request = Request(open_repo(src), dst or src, reader(reader_label), from_reader)
    _convert(plan_reorder(request), **output)


def _convert(plan: "Plan", dry_run: bool, force: bool, quiet: bool) -> None:
    from mmfmt.convert.report import print_dropped, print_plan

    console = console_for(stderr=True, quiet=quiet)
    for warning in plan.warnings:
        console.print(f"warning: {warning}")
    print_dropped(plan, console)
    if dry_run:
        print_plan(plan, console_for())
    else:
        _carry_out(plan, force, console)


def _carry_out(plan: "Plan", force: bool, console: Console) -> None:
    from mmfmt.convert.execute import check_target, execute
    from mmfmt.convert.report import progress
    from mmfmt.sizes import format_bytes

    check_target(plan, force)
    start = time.monotonic()
    with progress(plan.data_bytes, console, console.quiet) as advance:
        execute(plan, advance)
    seconds = time.monotonic() - start
    rate = f"{format_bytes(plan.data_bytes)} in {seconds:.1f} s"
    console.print(f"wrote {len(plan.files)} files, {rate}: {plan.target}")
