"""`mmfmt convert`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmfmt.cli.carry_out import Settings, carry_out, finalize_in
from mmfmt.open import open_any
from mmfmt.reader import reader, reader_labels

if TYPE_CHECKING:
    from mmfmt.convert.plan import Plan
    from mmfmt.storage import Storage

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


class Part(click.ParamType[tuple[int, int]]):
    """One of several equal jobs, such as `3/8`."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(value))
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            self.fail(f"{value!r} is not a part such as 3/8", param, ctx)
        return number, count


@click.group()
def convert() -> None:
    """Convert a checkpoint from one layout to the other."""


def _writes(command: Callable[..., None]) -> Callable[..., None]:
    """Arguments and options of every command that writes a checkpoint."""
    for decorate in (
        click.option("--quiet", is_flag=True, help="Print errors only."),
        click.option(
            "--push", metavar="ORG/NAME", help="Send shards to the Hub, each when it is done."
        ),
        click.option("--private", is_flag=True, help="Make the repo of --push private, if new."),
        click.option("--part", type=Part(), help="Do the ith of n equal parts; then: finalize."),
        click.option("--executor", metavar="dask://HOST:PORT", help="Run shards on a cluster."),
        click.option(
            "--jobs",
            type=click.IntRange(1, 64),
            help="Shards at once.  [default: as the source rewards]",
        ),
        click.option("--no-hash", is_flag=True, help="Compute no sha256, write no SHA256SUMS."),
        click.option(
            "--force", is_flag=True, help="Start over, and replace files that are there already."
        ),
        click.option("--dry-run", is_flag=True, help="Print the plan and write nothing."),
        click.argument("dst", type=FOLDER, required=False),
        click.argument("src"),
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
    "--tokenizer-from", metavar="REPO", help="Repo to take tekken.json from if SRC has none."
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
    src: str,
    dst: Path | None,
    tokenizer_from: str | None,
    reader_label: str,
    max_shard_size: int | None,
    repack: bool,
    **settings: Any,
) -> None:
    """Write the consolidated set of a Hugging Face checkpoint.

    SRC is a folder, or hf://org/name[@revision]. Without DST it is added to SRC, which then
    holds both layouts.
    """
    from mmfmt.convert.consolidated import Request, plan_consolidated

    def plan(target: "Storage") -> "Plan":
        return plan_consolidated(
            Request(
                source=open_any(src),
                target=target,
                reader=reader(reader_label),
                tokenizer_from=open_any(tokenizer_from) if tokenizer_from else None,
                max_shard_bytes=max_shard_size,
                repack=repack,
            )
        )

    carry_out(plan, src, dst, Settings(**settings))


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
    src: str,
    dst: Path | None,
    names: str,
    reader_label: str | None,
    max_shard_size: int | None,
    repack: bool,
    **settings: Any,
) -> None:
    """Write the Hugging Face set of a consolidated checkpoint.

    SRC is a folder, or hf://org/name[@revision]. Without DST it is added to SRC, which then
    holds both layouts. Tokenizer, processor and chat template files that SRC lacks are made
    from tekken.json.
    """
    from mmfmt.convert.huggingface import Request, plan_huggingface

    def plan(target: "Storage") -> "Plan":
        return plan_huggingface(
            Request(
                source=open_any(src),
                target=target,
                names=names,
                reader=reader_label,
                max_shard_bytes=max_shard_size,
                repack=repack,
            )
        )

    carry_out(plan, src, dst, Settings(**settings))


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
    src: str, dst: Path | None, reader_label: str, from_reader: str | None, **settings: Any
) -> None:
    """Switch a consolidated set to another reader's row order.

    Only Q and K change. Without DST the set in SRC is replaced, which takes --force.
    """
    from mmfmt.convert.reorder import Request, plan_reorder

    def plan(target: "Storage") -> "Plan":
        return plan_reorder(Request(open_any(src), target, reader(reader_label), from_reader))

    carry_out(plan, src, dst, Settings(**settings))


@convert.command()
@click.argument("dst", type=FOLDER)
@click.option("--quiet", is_flag=True, help="Print errors only.")
def finalize(dst: Path, quiet: bool) -> None:
    """Publish what the parts of a conversion have staged in DST.

    Checks that every shard is there, then writes SHA256SUMS and moves all files into place.
    """
    finalize_in(dst, quiet)
