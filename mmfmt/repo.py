"""What lies in a checkpoint folder: weight sets, index files, JSON files. Knows no Mistral."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.header import Entry, Header, read_header

HF_STEM, NATIVE_STEM = "model", "consolidated"
TOKENIZER_FILES = re.compile(r"tekken\.json|tokenizer\.model(\.v\d+(m\d+)?)?")

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; MmfmtError when it is missing, not JSON, or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmfmtError(path.name, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MmfmtError(path.name, f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise MmfmtError(path.name, "is not a JSON object")
    return value


@dataclass(frozen=True)
class WeightSet:
    """The weight files of one layout in a folder, with their index if there is one.

    `stem` is `model` (Hugging Face) or `consolidated` (Mistral).
    """

    folder: Path
    stem: str

    @property
    def index_path(self) -> Path:
        return self.folder / f"{self.stem}.safetensors.index.json"

    @cached_property
    def on_disk(self) -> tuple[str, ...]:
        """Names of the weight files present: `stem.safetensors`, `stem-*`, `stem.*`."""
        files = self.folder.glob(f"{self.stem}*.safetensors")
        pattern = re.compile(rf"{self.stem}([-.].+)?\.safetensors")
        return tuple(sorted(path.name for path in files if pattern.fullmatch(path.name)))

    @property
    def exists(self) -> bool:
        return bool(self.on_disk) or self.index_path.exists()

    @cached_property
    def index(self) -> dict[str, Any] | None:
        """The checked index file, or None where there is none."""
        if not self.index_path.exists():
            return None
        index = read_json(self.index_path)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(map(_is_text, weight_map.values())):
            raise MmfmtError(self.index_path.name, "weight_map must map tensor names to file names")
        if not isinstance(index.get("metadata", {}), dict):
            raise MmfmtError(self.index_path.name, "metadata must be an object")
        return index

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """The files a loader reads: those the index names, else all that are present."""
        if self.index is None:
            return self.on_disk
        return tuple(sorted(set(self.index["weight_map"].values())))

    def path(self, shard: str) -> Path:
        """The file of a shard; MmfmtError if it is missing or leads out of the folder."""
        path = self.folder / shard
        if Path(shard).name != shard or not _stays_inside(self.folder, path):
            raise MmfmtError(self.index_path.name, f"names {shard!r}, which leads outside the repo")
        if not _is_file(path):
            fix = "fetch the missing file or mend the index"
            raise MmfmtError(self.index_path.name, f"names {shard}, which is missing", fix)
        return path

    @cached_property
    def paths(self) -> Mapping[str, Path]:
        """The file of each shard, by name; MmfmtError as in `path`."""
        return {shard: self.path(shard) for shard in self.shards}

    @cached_property
    def headers(self) -> Mapping[str, Header]:
        """Headers by shard name, every one checked."""
        return {shard: read_header(path) for shard, path in self.paths.items()}

    @cached_property
    def tensors(self) -> Mapping[str, Entry]:
        """Header entries by tensor name, over all shards; a name in two shards is an error."""
        found: dict[str, Entry] = {}
        for shard, header in self.headers.items():
            for name in header.tensors:
                if name in found:
                    raise MmfmtError(f"{shard}: {name}", "stands in another shard too")
            found.update(header.tensors)
        return found


@dataclass(frozen=True)
class Repo:
    """A checkpoint folder."""

    path: Path

    @cached_property
    def hf(self) -> WeightSet:
        return WeightSet(self.path, HF_STEM)

    @cached_property
    def native(self) -> WeightSet:
        return WeightSet(self.path, NATIVE_STEM)

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name)

    @property
    def pickles(self) -> list[str]:
        """Weight files whose loading would run the code inside: their names only."""
        return sorted(p.name for p in self.path.iterdir() if p.suffix in PICKLE_SUFFIXES)

    @cached_property
    def tokenizer(self) -> Path | None:
        """mistral-common's tokenizer file, chosen as mistral-common does: tekken.json first."""
        names = (path.name for path in self.path.iterdir())
        found = [name for name in names if TOKENIZER_FILES.fullmatch(name)]
        best = max(found, key=lambda name: (name == "tekken.json", name), default=None)
        return self.path / best if best else None


def open_repo(path: Path) -> Repo:
    """A repo over an existing folder."""
    if not path.is_dir():
        raise MmfmtError(str(path), "is not a folder")
    return Repo(path)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system takes
        return False


def _stays_inside(folder: Path, path: Path) -> bool:
    """Whether a file, symlinks followed, lies in the folder or in its Hub cache's blobs."""
    try:
        home, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, impossible names
        return False
    # a Hub snapshot folder links to models--org--name/blobs
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return target.is_relative_to(home) or target.is_relative_to(blobs)
