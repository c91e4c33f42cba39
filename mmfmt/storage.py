"""Where a repo's files lie: names, sizes and byte ranges. Knows no formats."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mmfmt.errors import MmfmtError
from mmfmt.local_file import LocalFile

# bookkeeping of git and of huggingface_hub, which no upload takes along
_SKIPPED_FOLDERS = {".git", ".cache"}


Range = tuple[int, int]
"""Bytes [start, stop) of a file."""


class OpenFile(Protocol):
    """A file of a repo, open for reading large parts of it."""

    @property
    def signature(self) -> tuple[str | int, ...]:
        """Stays the same while nobody writes to the file or puts another in its place."""

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill the whole view with the bytes from `offset` on.

        Raises MmfmtError where the file ends before, or cannot be read.
        """

    def close(self) -> None:
        """Give back what it holds."""


class Storage(Protocol):
    """A place that holds the files of one repo."""

    @property
    def label(self) -> str:
        """How messages name the place: a path, or hf://org/name@revision."""

    @property
    def address(self) -> str:
        """What opens the same files again, in any process: a path, or hf://org/name@commit."""

    @property
    def place(self) -> str:
        """The same for two storages whose files are one repo's, whatever the revision."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by its path in the repo with `/`."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file from `start` up to `stop` (its end, if None).

        Gives fewer where the file ends before. Raises MmfmtError where it cannot be read.
        """

    def fetch(self, name: str) -> Path:
        """A file of the repo on the local disk, downloaded if need be."""

    def open(self, name: str, ranges: Sequence[Range]) -> OpenFile:
        """A file whose bytes will be asked for in this order: `ranges` do not touch each other.

        Raises MmfmtError where it cannot be opened.
        """


@dataclass(frozen=True)
class Folder:
    """A folder on the local disk."""

    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        return str(self.path.absolute())

    @property
    def place(self) -> str:
        return str(self.path.resolve())

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return dict(sorted(_sizes(self.path)))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            with self.fetch(name).open("rb") as file:
                file.seek(start)
                return file.read() if stop is None else file.read(stop - start)
        except OSError as error:
            raise MmfmtError(name, f"cannot be read: {error.strerror}") from error

    def fetch(self, name: str) -> Path:
        path = self.path / name
        if not _stays_inside(self.path, path):
            raise MmfmtError(name, "leads outside the repo", "put the file itself there")
        return path

    def open(self, name: str, ranges: Sequence[Range] = ()) -> LocalFile:
        return LocalFile(name, self.fetch(name))


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in files:
            path = Path(place, name)
            try:
                found = path.stat()
            except OSError:  # gone meanwhile; a link to nowhere fails where it is read
                if path.is_symlink():
                    yield path.relative_to(folder).as_posix(), 0
                continue
            if stat.S_ISREG(found.st_mode):
                yield path.relative_to(folder).as_posix(), found.st_size


def _stays_inside(folder: Path, path: Path) -> bool:
    """Whether a file, symlinks followed, lies in the folder or in its Hub cache's blobs."""
    try:
        home, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, impossible names
        return False
    # a Hub snapshot folder links to models--org--name/blobs
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return target.is_relative_to(home) or target.is_relative_to(blobs)
