"""Keys of compressed-tensors sections: where arguments stand, and which versions read what."""

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import Version

from mmfmt.schemas import table

Keys = tuple[str, ...]
"""The way to a value of a section, from its top."""

REMOVED_ORDERS: tuple[str | bool, ...] = tuple(table("compressed_tensors")["removed_orders"])
GROUPED = ("group", "tensor_group")


def arguments(body: Mapping[str, Any]) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every set of arguments in a section."""
    for name, group in (body.get("config_groups") or {}).items():
        for key in ("weights", "input_activations", "output_activations"):
            if group.get(key):
                yield ("config_groups", name, key), group[key]
    if body.get("kv_cache_scheme"):
        yield ("kv_cache_scheme",), body["kv_cache_scheme"]


def unknown_keys(body: Mapping[str, Any]) -> Iterator[Keys]:
    """Keys of groups and arguments that no version reads, and every version refuses."""
    known = table("compressed_tensors")
    for name, group in (body.get("config_groups") or {}).items():
        yield from (("config_groups", name, key) for key in group if key not in known["group"])
    for place, said in arguments(body):
        yield from ((*place, key) for key in said if key not in known["arguments"])


def removed_orders(body: Mapping[str, Any]) -> Iterator[tuple[Keys, Any]]:
    """Activation orders that readers refuse today."""
    for place, said in arguments(body):
        if said.get("actorder") in REMOVED_ORDERS:
            yield (*place, "actorder"), said["actorder"]


def late_keys(body: Mapping[str, Any], oldest: str) -> Iterator[tuple[Keys, str]]:
    """Keys that say nothing to a loader and that old versions refuse, with the first that reads.

    Only where that version could read the section without them; none before `oldest` is asked.
    """
    dtypes = list(_dtypes(body))
    read_by = max([oldest, *(version for _, value, version in dtypes if value)], key=Version)
    nulls = ((keys, version) for keys, value, version in dtypes if value is None)
    for keys, version in (*nulls, *_ungrouped_orders(body)):
        if Version(version) > Version(read_by):
            yield keys, version


def _dtypes(body: Mapping[str, Any]) -> Iterator[tuple[Keys, Any, str]]:
    """Keys that not every version knows, their values, and the first version that reads them."""
    since: Mapping[str, str] = table("compressed_tensors")["since"]
    for place, said in arguments(body):
        yield from (((*place, key), said[key], since[key]) for key in said if key in since)


def _ungrouped_orders(body: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    version = table("compressed_tensors")["ungrouped"]["actorder"]
    for place, said in arguments(body):
        grouped = said.get("strategy") in GROUPED or (said.get("group_size") or 0) > 0
        if said.get("actorder") and said["actorder"] not in REMOVED_ORDERS and not grouped:
            yield (*place, "actorder"), version
