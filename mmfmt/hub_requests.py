"""Requests to the Hub: their token, retries and timeouts, and what their errors mean."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mmfmt import __version__
from mmfmt.errors import MmfmtError


# the type of a response is httpx's up to huggingface_hub 1 and httpx2's from 2 on
def get(url: str, params: dict[str, Any] | None) -> Any:
    """The answer to a request, read to its end."""
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status, http_backoff

    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    response = http_backoff("GET", url, params=params, headers=_headers(), timeout=timeout)
    hf_raise_for_status(response)
    return response


def stream_range(url: str, start: int, stop: int) -> AbstractContextManager[Any]:
    """The answer to a request for bytes [start, stop), its body not read yet.

    Server errors and timeouts are waited out before; none may be raised inside of it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import http_stream_backoff

    # a compressed answer would ignore the range
    asked = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    return http_stream_backoff("GET", url, headers=_headers() | asked, timeout=timeout)


def check_range(response: Any, place: str, start: int, stop: int) -> None:
    """Raise where an answer has an error, or bytes from elsewhere than from `start` on."""
    from huggingface_hub.utils import hf_raise_for_status

    hf_raise_for_status(response)
    whole = response.status_code == 200 and start == 0
    if not whole and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        problem = f"is not served in ranges: bytes {start}-{stop - 1} were asked for"
        raise MmfmtError(place, problem, "name another HF_ENDPOINT, or download the repo")


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="mmfmt", library_version=__version__)


@contextmanager
def hub_errors(place: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into an MmfmtError at `place`."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise MmfmtError(place, *_explain(error)) from error


NOT_A_HUB = ("was not answered by a Hub", "check HF_ENDPOINT")
"""The problem, and what to do about it."""

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
    "FileMetadataError": NOT_A_HUB,
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
