"""A repo on the Hugging Face Hub as storage: its listing and ranges of its files."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmfmt import __version__
from mmfmt.errors import MmfmtError

SCHEME = "hf://"
# what the first read of a file takes: the header of most shards, and most JSON files
HEAD_BYTES = 256 << 10
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^\s@]*[^\s@/]))?/?", re.ASCII)
# seconds before each attempt to get what a cut connection left out
_WAITS = (0, 1, 2, 4, 8)


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

    @cached_property
    def commit(self) -> str:
        """The hash of the commit that the revision names."""
        info = next(self._ask(f"revision/{quote(self.revision, safe='')}"))
        sha = info.get("sha") if isinstance(info, dict) else None
        if not re.fullmatch(r"[0-9a-f]{40}", str(sha)):
            raise self._strange()
        return str(sha)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by its path in the repo with `/`; none leads out of it."""
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
                response = _get(url, params)
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
        return MmfmtError(self.label, *_PROBLEMS["FileMetadataError"])

    def _range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), asked for again from where a connection was cut."""
        data = bytearray()
        for wait in _WAITS:
            if start + len(data) >= stop:
                break
            time.sleep(wait)
            data += self._part(name, start + len(data), stop)
        if start + len(data) < stop:
            place, problem = f"{self.label}/{name}", f"was cut off {len(_WAITS)} times"
            raise MmfmtError(place, problem, "check the connection and try again")
        return bytes(data)

    def _part(self, name: str, start: int, stop: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import hf_raise_for_status

        place = f"{self.label}/{name}"
        url = hf_hub_url(self.repo_id, name, revision=self.commit)
        with hub_errors(place), _stream(url, f"bytes={start}-{stop - 1}") as response:
            hf_raise_for_status(response)
            whole = response.status_code == 200 and (start, stop) == (0, self._size(name))
            served = response.headers.get("Content-Range", "")
            if not whole and not served.startswith(f"bytes {start}-"):
                problem = f"is not served in ranges: bytes {start}-{stop - 1} were asked for"
                raise MmfmtError(place, problem, "name another HF_ENDPOINT, or download the repo")
            return _body(response, stop - start)


def hub_repo(address: str) -> HubRepo:
    """The repo at `hf://org/name` or `hf://org/name@revision`; MmfmtError for anything else."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise MmfmtError(address, "is no address of a repo", "write hf://org/name[@revision]")
    return HubRepo(found[1], found[2] or "main")


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="mmfmt", library_version=__version__)


# the type of a response is httpx's up to huggingface_hub 1 and httpx2's from 2 on
def _get(url: str, params: dict[str, Any] | None) -> Any:
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status, http_backoff

    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    response = http_backoff("GET", url, params=params, headers=_headers(), timeout=timeout)
    hf_raise_for_status(response)
    return response


def _stream(url: str, asked: str) -> Any:
    """A context with the answer to a request for a range, its body not read yet."""
    from huggingface_hub import constants
    from huggingface_hub.utils import http_stream_backoff

    # a compressed answer would ignore the range
    headers = _headers() | {"Range": asked, "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    return http_stream_backoff("GET", url, headers=headers, timeout=timeout)


def _body(response: Any, limit: int) -> bytes:
    """What comes of a body before its connection is cut, at most `limit` bytes."""
    from huggingface_hub.errors import HTTPError

    data = bytearray()
    with suppress(HTTPError):
        for piece in response.iter_bytes():
            data += piece
            if len(data) > limit:
                break
    return bytes(data[:limit])


def _stays_inside(name: str) -> bool:
    """Whether a name in a listing is a plain relative path, printable on one line."""
    plain = name.isprintable() and "\\" not in name
    return plain and not {"", ".", ".."}.intersection(name.split("/"))


@contextmanager
def hub_errors(place: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an MmfmtError at `place`."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise MmfmtError(place, *_explain(error)) from error


_LOG_IN = "log in with `hf auth login`"
_RECONNECT = "check the connection and HF_ENDPOINT, and try again"
# by the names of exceptions, so that nothing is imported for them: (problem, fix)
_PROBLEMS = {
    "GatedRepoError": ("is gated", f"ask for access on its page, then {_LOG_IN}"),
    "RepositoryNotFoundError": ("is not there, or private", f"check the spelling, or {_LOG_IN}"),
    "DisabledRepoError": ("is disabled", "ask its owner"),
    "RevisionNotFoundError": ("has no such revision", "name a branch, a tag or a commit"),
    "EntryNotFoundError": ("is not in the repo", "check the spelling"),
    "OfflineModeIsEnabled": ("is out of reach: offline mode is on", "unset HF_HUB_OFFLINE"),
    "FileMetadataError": ("was not answered by a Hub", "check HF_ENDPOINT"),
    "TimeoutException": ("is out of reach: no answer in time", _RECONNECT),
}
_STATUSES = {
    401: ("the Hub wants a valid token", f"{_LOG_IN}, or unset HF_TOKEN"),
    403: ("the token may not do this", f"{_LOG_IN}, with a token that may"),
    429: ("the Hub lets no more requests through", f"wait a while, or {_LOG_IN}"),
}


def _explain(error: BaseException) -> tuple[str, str]:
    """(problem, fix) of an exception of huggingface_hub; the token is in neither."""
    wrapper = type(error).__name__ in ("LocalEntryNotFoundError", "RuntimeError")
    if wrapper and error.__cause__:
        return _explain(error.__cause__)
    for kind in type(error).__mro__:
        if kind.__name__ in _PROBLEMS:
            return _PROBLEMS[kind.__name__]
    if status := getattr(getattr(error, "response", None), "status_code", 0):
        return _STATUSES.get(status) or _answered(status, getattr(error, "server_message", ""))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, ""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ValueError, RuntimeError)):
        return said, ""
    return f"is out of reach: {said}", _RECONNECT


def _answered(status: int, message: str | None) -> tuple[str, str]:
    said = " ".join((message or "").split())
    problem = f"the Hub answers {status}" + (f": {said}" if said else "")
    return problem, "try again later" if status >= 500 else ""
