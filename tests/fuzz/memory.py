"""A repo in memory, so that a case costs no disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmfmt.errors import MmfmtError
from mmfmt.local_file import LocalFile
from mmfmt.storage import Range


@dataclass(frozen=True)
class Content:
    """A file: its first bytes, and `holes` zeros behind them that take no memory."""

    head: bytes
    holes: int = 0

    @property
    def size(self) -> int:
        return len(self.head) + self.holes

    def read(self, start: int, stop: int | None) -> bytes:
        end = self.size if stop is None else min(stop, self.size)
        assert end - start < 1 << 30, "reads the weights"
        found = self.head[start:end]
        return found + bytes(max(end - max(start, len(self.head)), 0))


Files = Mapping[str, Content]


@dataclass(frozen=True)
class Memory:
    """Files as mmfmt.storage.Storage; those that are asked for as a path go to `scratch`.

    `seen` collects the names of those that are read.
    """

    files: Files
    scratch: Path
    label: str = "hostile"
    address: str = "hostile"
    place: str = "hostile"
    seen: set[str] = field(default_factory=set)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return {name: content.size for name, content in sorted(self.files.items())}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        if name not in self.files:
            raise MmfmtError(name, "cannot be read: no such file")
        self.seen.add(name)
        return self.files[name].read(start, stop)

    def fetch(self, name: str) -> Path:
        path = self.scratch / name
        path.write_bytes(self.read(name))
        return path

    def open(self, name: str, ranges: Sequence[Range]) -> LocalFile:
        return LocalFile(name, self.fetch(name))
