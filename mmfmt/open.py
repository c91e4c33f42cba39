"""A repo by what a user calls it."""

from pathlib import Path

from mmfmt.hub import SCHEME, hub_repo
from mmfmt.repo import Repo, open_repo


def open_any(address: str) -> Repo:
    """The repo in a folder, or at `hf://org/name[@revision]`; MmfmtError if there is none."""
    if address.startswith(SCHEME):
        return Repo(hub_repo(address))
    return open_repo(Path(address))
