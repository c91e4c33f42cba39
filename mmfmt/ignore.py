"""Ignore lists: how each reader matches one, and the list that a set of tensors calls for."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmfmt.checkpoint import Checkpoint, Module
from mmfmt.errors import MmfmtError
from mmfmt.layout import Family
from mmfmt.naming import Naming, naming
from mmfmt.schemas import table

REGEX = "re:"


def matches(entry: str, name: str) -> bool:
    """Whether an entry means a module name: exact, or `re:` anchored at the start only."""
    if not entry.startswith(REGEX):
        return entry == name
    try:
        return re.match(entry.removeprefix(REGEX), name) is not None
    except re.error as error:
        raise MmfmtError("ignore", f"{entry!r} is not a regular expression: {error}") from error


@dataclass(frozen=True)
class IgnoreReader:
    """One program's way with ignore lists; columns as in `schemas/ignore_readers.toml`."""

    label: str
    file: str
    naming: Naming
    kinds: tuple[str, ...]
    classes: bool
    fused: bool
    prefixes: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]

    def asks(self, module: Module) -> bool:
        """Whether the reader would quantize the module, were it not ignored."""
        return module.row.kind in self.kinds and self.naming.has(module.row)

    def name(self, module: Module) -> str:
        return self.naming.module(module.row, module.slots)

    def ignores(self, entries: Iterable[str], module: Module) -> bool:
        """Whether the list makes the reader leave the module unquantized."""
        name = self.name(module)
        return any(self._means(self.rewrite(entry), name) for entry in entries)

    def rewrite(self, entry: str) -> str:
        """An entry in the reader's own module names."""
        if entry.startswith(REGEX) or "." not in entry:
            return entry
        for old, new in self.prefixes:
            if entry.startswith(old):
                entry = new + entry.removeprefix(old)
        return entry

    def _means(self, entry: str, name: str) -> bool:
        return (self.classes and entry == "Linear") or matches(entry, name)


def ignore_reader(label: str, family: Family) -> IgnoreReader:
    """A reader of `ignore_readers.toml`, for models of a family."""
    columns, multimodal = table("ignore_readers")[label], family.multimodal
    return IgnoreReader(
        label=label,
        file=columns["file"],
        naming=naming(family, *columns["multimodal" if multimodal else "text"]),
        kinds=tuple(columns["kinds"]),
        classes=columns["classes"],
        fused=columns["fused"],
        prefixes=tuple((old, new) for old, new in columns["prefixes"]) if multimodal else (),
        ignored=family.ignored if columns.get("others") else (),
    )


def ignore_list(checkpoint: Checkpoint, reader: IgnoreReader) -> list[str]:
    """The list that a reader needs: every unquantized linear module it knows, by its name.

    Raises MmfmtError when modules that loaders fuse are quantized only in part.
    """
    for group in mixed_groups(checkpoint):
        place = ", ".join(f"{m.name} ({'' if m.quantized else 'not '}quantized)" for m in group)
        raise MmfmtError(place, "loaders fuse these: quantize all of them or none")
    bare = [module for module in checkpoint.linears if not module.quantized]
    names = [reader.name(module) for module in bare if reader.naming.has(module.row)]
    return names + list(reader.ignored)


def mixed_groups(checkpoint: Checkpoint) -> Iterator[list[Module]]:
    """Fused groups (q/k/v, gate/up) of which some modules are quantized and some are not."""
    for group in fused_groups(checkpoint).values():
        if len({module.quantized for module in group}) > 1:
            yield group


def fused_groups(checkpoint: Checkpoint) -> Mapping[tuple[object, ...], list[Module]]:
    """Linear modules grouped as loaders fuse them."""
    groups: dict[tuple[object, ...], list[Module]] = {}
    for module in checkpoint.linears:
        groups.setdefault(module.fused_group, []).append(module)
    return groups
