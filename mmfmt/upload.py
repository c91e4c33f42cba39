"""Upload a folder to the Hub: one commit, so that nothing is half published."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmfmt import __version__
from mmfmt.convert.execute import STAGING_PREFIX
from mmfmt.errors import MmfmtError
from mmfmt.hub import SCHEME, hub_errors
from mmfmt.storage import Folder

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


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
    from huggingface_hub import HfApi

    operations = _operations(Folder(folder))
    place = f"{SCHEME}{repo_id}" + (f"@{revision}" if revision else "")
    api = HfApi(library_name="mmfmt", library_version=__version__)
    with hub_errors(place):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            fix = "make it private in its settings, or upload without --private"
            raise MmfmtError(place, "exists already and is public", fix)
        if revision:
            _ensure_branch(api, repo_id, revision)
        # not upload_folder, which splits large folders over several commits
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return str(commit.commit_url)


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
