"""What a checkpoint repo holds: weight sets, index files, JSON files. Knows no Mistral."""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from mmfmt import strict_json
from mmfmt.errors import MmfmtError
from mmfmt.header import Entry, Header, read_header
from mmfmt.lazy import once, settled
from mmfmt.storage import Folder, Storage

HF_STEM, NATIVE_STEM = "model", "consolidated"
TOKENIZER_FILES = re.compile(r"tekken\.json|tokenizer\.model(\.v\d+(m\d+)?)?")

CHUNK = 8 << 20
# enough to see that a file is too large
_READ = strict_json.MAX_BYTES + 1
# a header on the Hub is mostly waiting
HEADERS_AT_ONCE = 8

Advance = Callable[[int], None]
"""Called with each number of bytes read or written."""


def silent(_: int) -> None:
    """An Advance that tells nobody."""


PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a local file; MmfmtError as in `parse_json`, or when it is missing."""
    return parse_json(path.name, Folder(path.parent).read(path.name, 0, _READ))


def stored_json(storage: Storage, name: str) -> dict[str, Any]:
    """A JSON object from a file of a repo; MmfmtError as in `parse_json`, or when it is missing."""
    return parse_json(name, storage.read(name, 0, _READ))


def parse_json(name: str, content: bytes) -> dict[str, Any]:
    """The JSON object in a file of this name; MmfmtError when it is not JSON, or no object."""
    if len(content) > strict_json.MAX_BYTES:
        raise MmfmtError(name, f"is larger than {strict_json.MAX_BYTES} bytes, for a JSON file")
    try:
        value = strict_json.parse(content)
    except ValueError as error:
        raise MmfmtError(name, f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise MmfmtError(name, "is not a JSON object")
    return value


def index_body(weight_map: Mapping[str, str], total: int) -> dict[str, Any]:
    """The index of `total` bytes of tensors, given the file of each, as transformers writes it."""
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


@dataclass(frozen=True)
class WeightSet:
    """The weight files of one layout in a repo, with their index if there is one.

    `stem` is `model` (Hugging Face) or `consolidated` (Mistral).
    """

    storage: Storage
    stem: str

    @property
    def index_name(self) -> str:
        return f"{self.stem}.safetensors.index.json"

    @property
    def has_index(self) -> bool:
        return self.index_name in self.storage.sizes

    @cached_property
    def on_disk(self) -> tuple[str, ...]:
        """Names of the weight files present: `stem.safetensors`, `stem-*`, `stem.*`."""
        pattern = re.compile(rf"{self.stem}([-.][^/]+)?\.safetensors")
        return tuple(sorted(name for name in self.storage.sizes if pattern.fullmatch(name)))

    @property
    def exists(self) -> bool:
        return bool(self.on_disk) or self.has_index

    @settled
    def index(self) -> dict[str, Any] | None:
        """The checked index file, or None where there is none."""
        if not self.has_index:
            return None
        index = stored_json(self.storage, self.index_name)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(map(_is_text, weight_map.values())):
            raise MmfmtError(self.index_name, "weight_map must map tensor names to file names")
        if not weight_map:
            raise MmfmtError(self.index_name, "weight_map names no tensor")
        if not isinstance(index.get("metadata", {}), dict):
            raise MmfmtError(self.index_name, "metadata must be an object")
        return index

    @settled
    def shards(self) -> tuple[str, ...]:
        """The files a loader reads: those the index names, else all that are present."""
        if self.index is None:
            return self.on_disk
        return tuple(sorted(set(self.index["weight_map"].values())))

    def check_shard(self, shard: str) -> None:
        """MmfmtError for a shard that is missing or leads out of the repo."""
        if PurePosixPath(shard).name != shard:
            raise MmfmtError(self.index_name, f"names {shard!r}, which leads outside the repo")
        if shard not in self.storage.sizes:
            fix = "fetch the missing file or mend the index"
            raise MmfmtError(self.index_name, f"names {shard}, which is missing", fix)

    def path(self, shard: str) -> Path:
        """The local file of a shard; MmfmtError as in `check_shard`."""
        self.check_shard(shard)
        return self.storage.fetch(shard)

    @settled
    def headers(self) -> Mapping[str, Header]:
        """Headers by shard name, every one checked."""
        for shard in self.shards:
            self.check_shard(shard)
        if len(self.shards) == 1:
            return {shard: self.header(shard) for shard in self.shards}
        with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
            return dict(zip(self.shards, pool.map(self.header, self.shards), strict=True))

    def header(self, shard: str) -> Header:
        """The header of a file that is there, read once; MmfmtError as in `read_header`."""
        return self._headers(shard)

    @cached_property
    def _headers(self) -> Callable[[str], Header]:
        return once(partial(read_header, self.storage))

    @settled
    def tensors(self) -> Mapping[str, Entry]:
        """Header entries by tensor name, over all shards; a name in two shards is an error."""
        found: dict[str, Entry] = {}
        for shard, header in self.headers.items():
            for name in header.tensors:
                if name in found:
                    raise MmfmtError(f"{shard}: {name}", "stands in another shard too")
            found.update(header.tensors)
        return found

    def read(self, shard: str, entry: Entry) -> bytes:
        """The data of one tensor of a shard."""
        return b"".join(self.stream(shard, entry))

    def stream(self, shard: str, entry: Entry) -> Iterator[bytes]:
        """The data of one tensor of a shard, in pieces of CHUNK bytes (the last is smaller)."""
        start = self.headers[shard].data_start
        for begin in range(start + entry.start, start + entry.end, CHUNK):
            end = min(begin + CHUNK, start + entry.end)
            data = self.storage.read(shard, begin, end)
            if len(data) != end - begin:
                raise MmfmtError(shard, "became shorter while it was read")
            yield data


@dataclass(frozen=True)
class Repo:
    """The files of a checkpoint."""

    storage: Storage

    @property
    def path(self) -> Path:
        """The folder; MmfmtError for a repo that lies elsewhere."""
        if isinstance(self.storage, Folder):
            return self.storage.path
        raise MmfmtError(self.storage.label, "is not a local folder", "download it first")

    @cached_property
    def hf(self) -> WeightSet:
        return WeightSet(self.storage, HF_STEM)

    @cached_property
    def native(self) -> WeightSet:
        return WeightSet(self.storage, NATIVE_STEM)

    def has(self, name: str) -> bool:
        return name in self.storage.sizes

    def json(self, name: str) -> dict[str, Any]:
        """A file's JSON object, read once; MmfmtError as in `stored_json`. Not to be changed."""
        return self._bodies(name)

    @cached_property
    def _bodies(self) -> Callable[[str], dict[str, Any]]:
        return once(partial(stored_json, self.storage))

    @property
    def names(self) -> list[str]:
        """Names of the files at the top of the repo."""
        return [name for name in self.storage.sizes if "/" not in name]

    @property
    def pickles(self) -> list[str]:
        """Weight files whose loading would run the code inside: their names only."""
        return [name for name in self.names if name.endswith(PICKLE_SUFFIXES)]

    @cached_property
    def tokenizer_name(self) -> str | None:
        """mistral-common's tokenizer file, chosen as mistral-common does: tekken.json first."""
        found = [name for name in self.names if TOKENIZER_FILES.fullmatch(name)]
        return max(found, key=lambda name: (name == "tekken.json", name), default=None)

    @cached_property
    def tokenizer(self) -> Path | None:
        """`tokenizer_name` as a local file."""
        return self.storage.fetch(self.tokenizer_name) if self.tokenizer_name else None


def open_repo(path: Path) -> Repo:
    """A repo over an existing folder."""
    if not path.is_dir():
        raise MmfmtError(str(path), "is not a folder")
    return Repo(Folder(path))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
