"""Weight files of a plan: which tensors go where, and the index that says so."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmfmt.convert.plan import PlannedShard, PlannedTensor
from mmfmt.repo import index_body

Metadata = tuple[tuple[str, str], ...]


def plan_shards(
    stem: str, groups: Sequence[Sequence[PlannedTensor]], metadata: Metadata, limit: int | None
) -> tuple[PlannedShard, ...]:
    """Shards named after `stem`: one for each group, or anew with at most `limit` bytes each."""
    if limit is not None:
        groups = _packed((tensor for group in groups for tensor in group), limit)
    groups = [group for group in groups if group]
    names = [_shard_name(stem, number, len(groups)) for number in range(1, len(groups) + 1)]
    return tuple(
        PlannedShard(name, tuple(group), metadata)
        for name, group in zip(names, groups, strict=True)
    )


def _shard_name(stem: str, number: int, count: int) -> str:
    part = f"-{number:05d}-of-{count:05d}" if count > 1 else ""
    return f"{stem}{part}.safetensors"


def _packed(tensors: Iterable[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    """Tensors in their order, in groups of at most `limit` bytes (or of one larger tensor)."""
    groups: list[list[PlannedTensor]] = []
    size = 0
    for tensor in tensors:
        if not groups or size + tensor.length > limit:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.length
    return groups


def index_text(
    stem: str, shards: Sequence[PlannedShard], always: bool = False
) -> Iterator[tuple[str, str]]:
    """The index file by its name, where there are several shards (or `always`)."""
    if always or len(shards) > 1:
        weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
        yield index_file(stem, weight_map, sum(shard.data_bytes for shard in shards))


def index_file(stem: str, weight_map: Mapping[str, str], total: int) -> tuple[str, str]:
    """Name and text of the index of `total` bytes of tensors."""
    return f"{stem}.safetensors.index.json", json_text(index_body(weight_map, total))


def json_text(body: Mapping[str, Any]) -> str:
    """JSON as it is written to a repo."""
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
