"""Ignore lists: how each reader takes one, and the list that a set of tensors calls for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.checkpoint import Checkpoint, Module
from mmfmt.entries import MATCHERS, REGEX, Test, parts
from mmfmt.errors import MmfmtError
from mmfmt.layout import Family
from mmfmt.naming import Naming, naming, native
from mmfmt.schemas import table


@dataclass(frozen=True)
class IgnoreReader:
    """One program's names of modules; columns as in `schemas/ignore_readers.toml`."""

    label: str
    naming: Naming
    kinds: tuple[str, ...]
    prefixes: tuple[tuple[str, str], ...]
    native: tuple[str, ...]
    ignored: tuple[str, ...]

    def asks(self, module: Module) -> bool:
        """Whether the reader would quantize the module, were it not ignored."""
        return module.row.kind in self.kinds and self.naming.has(module.row)

    def name(self, module: Module) -> str:
        return self.naming.module(module.row, module.slots)

    def rewrite(self, entry: str) -> str:
        """An entry in the reader's own module names."""
        if entry.startswith(self.native):
            return self._translated(entry)
        if entry.startswith(REGEX) or "." not in entry:
            return entry
        return _renamed(entry, self.prefixes)

    def _translated(self, entry: str) -> str:
        found = native(self.naming.family).match(f"{entry}.weight")
        known = found and self.naming.has(found.row)
        return self.naming.module(found.row, found.slots) if found and known else entry


@dataclass(frozen=True)
class IgnoreList:
    """What a section says to one reader of the modules that stay unquantized.

    `key` is where the list stands, empty for a method without one; `mode` is how the reader
    compares entries with names, `prefixes` what it rewrites in them first, as in
    `schemas/ignore_lists.toml`.
    """

    reader: IgnoreReader
    key: str
    entries: tuple[str, ...]
    mode: str
    prefixes: tuple[tuple[str, str], ...]

    def ignores(self, module: Module) -> bool:
        """Whether the list makes the reader leave the module unquantized."""
        return self.means(self.reader.name(module))

    @cached_property
    def means(self) -> Test:
        """Whether an entry means a module of this name."""
        entries = self.entries
        if self.mode == "glob":
            entries = tuple(part for entry in entries for part in parts(entry))
        return MATCHERS[self.mode](map(self.spelled, entries))

    def spelled(self, entry: str) -> str:
        """An entry in the reader's own module names."""
        return self.reader.rewrite(_renamed(entry, self.prefixes))


def _renamed(entry: str, prefixes: Iterable[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if entry.startswith(old):
            entry = new + entry.removeprefix(old)
    return entry


def ignore_reader(label: str, family: Family) -> IgnoreReader:
    """A reader of `ignore_readers.toml`, for models of a family."""
    columns, multimodal = table("ignore_readers")[label], family.multimodal
    own = columns.get("native", {})
    return IgnoreReader(
        label=label,
        naming=naming(family, *columns["multimodal" if multimodal else "text"]),
        kinds=tuple(columns["kinds"]),
        prefixes=tuple((old, new) for old, new in columns["prefixes"]) if multimodal else (),
        native=tuple(own["prefixes"]) if family.label in own.get("families", ()) else (),
        ignored=family.ignored if columns.get("others") else (),
    )


def readers_of(file: str, family: Family) -> list[IgnoreReader]:
    """The programs that read lists of modules in a config file, and load models of a family."""
    readers = table("ignore_readers").items()
    reading = [label for label, c in readers if c["file"] == file and _reads(c, family)]
    return [ignore_reader(label, family) for label in reading]


def _reads(columns: Mapping[str, Any], family: Family) -> bool:
    loads = family.unread.keys().isdisjoint(columns.get("unread", ()))
    return loads and family.label not in columns.get("except", ())


def ignore_lists(
    method: str, body: Mapping[str, Any], file: str, family: Family
) -> Iterator[IgnoreList]:
    """A section's list as each reader of the file takes it, where that is known."""
    columns = table("ignore_lists").get(method, {"readers": {}})
    for reader in readers_of(file, family):
        if reader.label in columns["readers"]:
            found = _ignore_list(columns, reader, body)
            if found.entries or reader.label not in columns.get("looks", ()):
                yield found


def _ignore_list(
    columns: Mapping[str, Any], reader: IgnoreReader, body: Mapping[str, Any]
) -> IgnoreList:
    key, said = listed(columns.get("keys", ()), body)
    more = {k: columns.get(k, {}).get(reader.label, ()) for k in ("unsaid", "always", "prefixes")}
    return IgnoreList(
        reader=reader,
        key=key,
        entries=(*(more["unsaid"] if said is None else said), *more["always"]),
        mode=columns["readers"][reader.label],
        prefixes=tuple(map(tuple, more["prefixes"])) if reader.naming.family.multimodal else (),
    )


def listed(keys: Iterable[str], body: Mapping[str, Any]) -> tuple[str, list[str] | None]:
    """The list in a section, under the first of some dotted keys that has one."""
    for key in keys:
        value: Any = body
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return key, value
    return next(iter(keys), ""), None


def ignore_list(checkpoint: Checkpoint, reader: IgnoreReader) -> list[str]:
    """The list that a reader needs: every unquantized linear module it knows, by its name.

    Raises MmfmtError when modules that loaders fuse are quantized only in part.
    """
    for group in mixed_groups(checkpoint):
        place = ", ".join(f"{m.name} ({'' if m.quantized else 'not '}quantized)" for m in group)
        raise MmfmtError(place, "loaders fuse these: quantize all of them or none")
    return unquantized_names(checkpoint, reader) + list(reader.ignored)


def unquantized_names(checkpoint: Checkpoint, reader: IgnoreReader) -> list[str]:
    """Every unquantized linear module that a reader knows, by its name."""
    bare = (module for module in checkpoint.linears if not module.quantized)
    return [reader.name(module) for module in bare if reader.naming.has(module.row)]


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
