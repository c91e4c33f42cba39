"""Plan the switch of a consolidated set to another reader's row order."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmfmt.configs import PARAMS
from mmfmt.convert.files import (
    Companion,
    companions,
    documents,
    replaced,
    source_files,
    tokenizer_of,
)
from mmfmt.convert.plan import Plan
from mmfmt.convert.shards import index_text, plan_shards
from mmfmt.convert.source import source_reader
from mmfmt.convert.tensors import Layout, Transfer
from mmfmt.model import check_model, native_model
from mmfmt.reader import METADATA_KEY, Reader
from mmfmt.repo import NATIVE_STEM, Repo
from mmfmt.storage import Storage


@dataclass(frozen=True)
class Request:
    """What to reorder; `source_reader` is needed where the shards do not record theirs."""

    source: Repo
    target: Storage
    reader: Reader
    source_reader: str | None = None


def plan_reorder(request: Request) -> Plan:
    """The plan: Q and K rows as `reader` wants them, every other tensor as it is."""
    model = native_model(request.source)
    check_model(model)
    naming = model.checkpoint.naming
    source = Layout(naming, source_reader(model, request.source_reader, "--from-reader"))
    transfer = Transfer(model, source, Layout(naming, request.reader))
    metadata = (("format", "pt"), (METADATA_KEY, request.reader.label))
    shards = plan_shards(NATIVE_STEM, transfer.groups(), metadata, None)
    plan = Plan(
        source=request.source.storage.address,
        target=request.target.label,
        sources=source_files(model.weights),
        shards=shards,
        texts=tuple(index_text(NATIVE_STEM, shards)),
        copies=companions(request.target, _companions(request)),
    )
    return replace(plan, replaces=replaced(plan, request.target, NATIVE_STEM))


def _companions(request: Request) -> Iterator[Companion]:
    source, names = request.source, (PARAMS, "SYSTEM_PROMPT.txt")
    yield from ((source, name) for name in names if source.has(name))
    yield from tokenizer_of(source)
    yield from documents(request.target, source)
