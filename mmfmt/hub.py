"""A repo on the Hugging Face Hub as storage: its listing and ranges of its files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any
from urllib.parse import quote

from mmfmt.errors import MmfmtError
from mmfmt.hub_file import HubFile
from mmfmt.hub_requests import NOT_A_HUB, get, hub_errors
from mmfmt.storage import Range

SCHEME = "hf://"
# what the first read of a file takes: the header of most shards, and most JSON files
HEAD_BYTES = 256 << 10
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^\s@]*[^\s@/]))?/?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# of threads that use one repo, one asks: a branch that moves on is the same commit for all
_ASKING = RLock()


@dataclass(frozen=True)
class HubRepo:
    """A model repo on the Hub at one revision, as mmfmt.storage.Storage.

    The revision is resolved to a commit once, and everything is read from that. Server errors,
    timeouts and cut connections are retried with growing waits. The token is the one that
    `hf auth login` or HF_TOKEN set; HF_ENDPOINT names another Hub.
    """

    repo_id: str
    revision: str = "main"
    _heads: dict[str, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def label(self) -> str:
        return f"{SCHEME}{self.repo_id}@{self.revision}"

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.repo_id}@{self.commit}"

    @property
    def place(self) -> str:
        return f"{SCHEME}{self.repo_id.lower()}"  # the Hub has no two names that differ in case

    @property
    def commit(self) -> str:
        """The hash of the commit that the revision names."""
        with _ASKING:
            return self._commit

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by its path in the repo with `/`; none leads out of it."""
        with _ASKING:
            return self._sizes

    @cached_property
    def _commit(self) -> str:
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        info = next(self._ask(f"revision/{quote(self.revision, safe='')}"))
        sha = info.get("sha") if isinstance(info, dict) else None
        if not _COMMIT.fullmatch(str(sha)):
            raise self._strange()
        return str(sha)

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        pages = self._ask(f"tree/{self.commit}", {"recursive": True})
        return dict(sorted(file for page in pages for file in self._files(page)))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file from `start` up to `stop` (its end, if None).

        Never takes more from the network than that, or HEAD_BYTES if they end within these:
        they are kept, since a header is read in two steps.
        """
        size = self._size(name)
        stop = size if stop is None else min(stop, size)
        if start < stop <= HEAD_BYTES and name not in self._heads:
            self._heads[name] = self._range(name, 0, min(size, HEAD_BYTES))
        known = self._heads.get(name, b"")[start:stop]
        return known + self._range(name, start + len(known), stop)

    def fetch(self, name: str) -> Path:
        """A file in the Hub's local cache (HF_HOME), downloaded unless it is there."""
        from huggingface_hub import hf_hub_download

        self._size(name)
        with hub_errors(f"{self.label}/{name}"):
            return Path(hf_hub_download(self.repo_id, name, revision=self.commit))

    def open(self, name: str, ranges: Sequence[Range] = ()) -> HubFile:
        """A file to stream the `ranges` of, which ascend and do not touch each other."""
        from huggingface_hub import hf_hub_url

        place, size = f"{self.label}/{name}", self._size(name)
        with hub_errors(place):
            url = hf_hub_url(self.repo_id, name, revision=self.commit)
        return HubFile(place, url, self.commit, size, ranges)

    def _size(self, name: str) -> int:
        if name not in self.sizes:
            raise MmfmtError(f"{self.label}/{name}", "is not in the repo")
        return self.sizes[name]

    def _ask(self, path: str, params: dict[str, Any] | None = None) -> Iterator[Any]:
        """The pages of the API's answer: HfApi's own calls lack either retries or a timeout."""
        from huggingface_hub import constants

        url: str | None = f"{constants.ENDPOINT}/api/models/{self.repo_id}/{path}"
        while url:
            with hub_errors(self.label):
                response = get(url, params)
            try:
                yield response.json()
            except ValueError as error:
                raise self._strange() from error
            url, params = response.links.get("next", {}).get("url"), None

    def _files(self, page: Any) -> Iterator[tuple[str, int]]:
        for entry in page if isinstance(page, list) else [None]:
            match entry:
                case {"type": "file", "path": str(name), "size": int(size)} if size >= 0:
                    if not _stays_inside(name):
                        raise MmfmtError(self.label, f"lists {name!r}, which leads out of the repo")
                    yield name, size
                case {"type": "directory"}:
                    pass
                case _:
                    raise self._strange()

    def _strange(self) -> MmfmtError:
        return MmfmtError(self.label, *NOT_A_HUB)

    def _range(self, name: str, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        data = bytearray(stop - start)
        with closing(self.open(name, [(start, stop)])) as file:
            file.read_into(memoryview(data), start)
        return bytes(data)


def hub_repo(address: str) -> HubRepo:
    """The repo at `hf://org/name` or `hf://org/name@revision`; MmfmtError for anything else."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise MmfmtError(address, "is no address of a repo", "write hf://org/name[@revision]")
    return HubRepo(found[1], found[2] or "main")


def target_sizes(repo_id: str) -> Mapping[str, int]:
    """Bytes of every file of a repo that may not be there yet: then there are none.

    A private one that the token may not see is not there. Raises MmfmtError otherwise.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return HubRepo(repo_id).sizes
    except MmfmtError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            return {}
        raise


def _stays_inside(name: str) -> bool:
    """Whether a name in a listing is a plain relative path, printable on one line."""
    plain = name.isprintable() and "\\" not in name
    return plain and not {"", ".", ".."}.intersection(name.split("/"))
