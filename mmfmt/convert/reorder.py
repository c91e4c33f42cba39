"""Plan the switch of a consolidated set to another reader's row order."""

from dataclasses import dataclass, replace
from pathlib import Path

from mmfmt.configs import PARAMS
from mmfmt.convert.files import companions, documents, replaced
from mmfmt.convert.plan import Plan
from mmfmt.convert.shards import index_text, plan_shards
from mmfmt.convert.source import source_reader
from mmfmt.convert.tensors import Layout, Transfer
from mmfmt.model import check_model, native_model
from mmfmt.reader import METADATA_KEY, Reader
from mmfmt.repo import NATIVE_STEM, Repo


@dataclass(frozen=True)
class Request:
    """What to reorder; `source_reader` is needed where the shards do not record theirs."""

    source: Repo
    target: Path
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
        source=str(request.source.path),
        target=str(request.target),
        shards=shards,
        texts=tuple(index_text(NATIVE_STEM, shards)),
        copies=companions(
            request.target,
            [*_companions(request.source), *documents(request.target, request.source)],
        ),
    )
    return replace(plan, replaces=replaced(plan, NATIVE_STEM))


def _companions(repo: Repo) -> list[Path]:
    names = (PARAMS, "SYSTEM_PROMPT.txt")
    found = [repo.path / name for name in names if repo.has(name)]
    return found + ([repo.tokenizer] if repo.tokenizer else [])
