"""Upload to the Hub: a folder, or file by file; one commit, so that nothing is half published."""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmfmt import __version__
from mmfmt.convert.staging import PREFIX as STAGING_PREFIX
from mmfmt.errors import MmfmtError
from mmfmt.hub import SCHEME
from mmfmt.hub_requests import hub_errors
from mmfmt.storage import Folder

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

T = TypeVar("T")

Sent = tuple[int, str]
"""Bytes and sha256 (hex) of a file that was sent."""

# seconds before each further attempt at what huggingface_hub does not try again itself
_WAITS = (1, 2, 4, 8, 8)
# seconds without a sign of the Hub after which a request is given up: a commit may take a minute
_SILENCE = 300
# the statuses of a conflict, of a commit that came first, and of too many requests
_BUSY = (409, 412, 429)
# how the Hub calls a file whose content it does not have
_NO_CONTENT = "LFS pointer"


def upload(
    folder: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    message: str = "Upload with mmfmt",
) -> str:
    """Commit a folder's files to a model repo and return the commit's URL.

    The repo, and a branch named `revision`, are created where they do not exist; files of the
    repo that the folder lacks stay. Left out are the folders of git and of huggingface_hub, and
    what a killed conversion left. `private` None follows the owner's default; True refuses a
    repo that is public already. Raises MmfmtError, with no file published.
    """
    operations = _operations(Folder(folder))
    place = f"{SCHEME}{repo_id}" + (f"@{revision}" if revision else "")
    api = _api()
    with hub_errors(place):
        repo_id = _ensure_repo(api, repo_id, private, place)
        if revision:
            _ensure_branch(api, repo_id, revision)
        # not upload_folder, which splits large folders over several commits
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return str(commit.commit_url)


def prepare_push(repo_id: str, private: bool | None) -> None:
    """Create a repo unless it is there, and make sure that the token may write to it.

    `private` is as for `upload`. Raises MmfmtError.
    """
    place, api = f"{SCHEME}{repo_id}", _api()
    with hub_errors(place):
        _patiently(lambda: _ensure_repo(api, repo_id, private, place))
        # a token that may only read finds nothing wrong with a repo that is there
        _patiently(lambda: api.auth_check(repo_id, write=True))


def send(repo_id: str, name: str, path: Path) -> Sent:
    """Upload the content of a large file, to be published as `name` by `commit_sent`.

    The file may be deleted then. Nobody sees what was sent before. Raises MmfmtError.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # a conversion shows its own
    with hub_errors(f"{SCHEME}{repo_id}/{name}"):
        operation = CommitOperationAdd(name, path)
        _take_for_large(operation)
        _api().preupload_lfs_files(repo_id, [operation])
    return operation.upload_info.size, operation.upload_info.sha256.hex()


def commit_sent(
    repo_id: str,
    sent: Mapping[str, Sent],
    files: Mapping[str, Path],
    deletes: Collection[str],
    message: str,
) -> str:
    """Publish what `send` uploaded, in any process, in one commit; returns the commit's URL.

    `sent` is what that returned, by names in the repo. `files` are uploaded on the way; `deletes`
    and files that are as they should be already may be named. Raises MmfmtError; nothing is
    ever published in part.
    """
    place = f"{SCHEME}{repo_id}"
    with hub_errors(place):
        try:
            return _patiently(lambda: _commit(repo_id, sent, files, deletes, message))
        except OSError as error:
            if _NO_CONTENT not in str(getattr(error, "server_message", "")):
                raise
            problem = "the Hub does not have what was sent any more"
            raise MmfmtError(place, problem, "start over with --force") from error


def _commit(
    repo_id: str,
    sent: Mapping[str, Sent],
    files: Mapping[str, Path],
    deletes: Collection[str],
    message: str,
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api()
    # the commit goes on this one or fails: an attempt whose answer got lost is not made twice
    head = api.model_info(repo_id).sha
    there = _contents(api, repo_id, head)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(_sent_file(name, *of) for name, of in sent.items() if there.get(name) != of[1]),
        *(CommitOperationAdd(name, path) for name, path in files.items()),
        *(CommitOperationDelete(name, is_folder=False) for name in deletes if name in there),
    ]
    commit = api.create_commit(repo_id, operations, commit_message=message, parent_commit=head)
    return str(commit.commit_url)


def _contents(api: "HfApi", repo_id: str, commit: str | None) -> dict[str, str | None]:
    """The sha256 (hex) of every large file of a repo, None for the others, by name."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    found = (entry for entry in entries if isinstance(entry, RepoFile))
    return {file.path: file.lfs.sha256 if file.lfs else None for file in found}


def _sent_file(name: str, size: int, sha256: str) -> "CommitOperationAdd":
    """A file whose content the Hub has, as huggingface_hub resumes uploads of large folders."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.lfs import UploadInfo

    operation = CommitOperationAdd(name, b"")
    operation.upload_info = UploadInfo(size=size, sample=b"", sha256=bytes.fromhex(sha256))
    _take_for_large(operation)
    operation._is_uploaded = True
    return operation


def _take_for_large(operation: "CommitOperationAdd") -> None:
    """Leave no choice to the repo's .gitattributes and .gitignore: it would be left out."""
    operation._upload_mode = "lfs"
    operation._should_ignore = False


def _patiently(call: Callable[[], T]) -> T:
    """The result of what may be called again: it is while the Hub fails or is out of reach."""
    from huggingface_hub.errors import HTTPError

    for wait in _WAITS:
        try:
            return call()
        except HTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if status < 500 and status not in _BUSY:
                raise
            time.sleep(wait)
    return call()


def _api() -> "HfApi":
    from huggingface_hub import HfApi, get_session

    get_session().timeout = _SILENCE  # huggingface_hub itself would wait for ever
    return HfApi(library_name="mmfmt", library_version=__version__)


def _ensure_repo(api: "HfApi", repo_id: str, private: bool | None, place: str) -> str:
    """Create a repo unless it is there; its full name."""
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        fix = "make it private in its settings, or upload without --private"
        raise MmfmtError(place, "exists already and is public", fix)
    return repo_id


def _operations(folder: Folder) -> "list[CommitOperationAdd]":
    from huggingface_hub import CommitOperationAdd

    names = [name for name in folder.sizes if not name.startswith(STAGING_PREFIX)]
    if not names:
        raise MmfmtError(folder.label, "holds no files to upload")
    return [CommitOperationAdd(name, folder.fetch(name)) for name in names]


def _ensure_branch(api: "HfApi", repo_id: str, branch: str) -> None:
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        api.model_info(repo_id, revision=branch)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
