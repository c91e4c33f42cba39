"""What a Hub holds: files, commits and branches of model repos, and how its API lists them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest, sha1
from pathlib import Path, PurePosixPath
from typing import Any

# the Hub stores these, and all that is larger, in LFS
LFS_SUFFIXES, LFS_BYTES = (".safetensors", ".bin", ".model"), 10 << 20


@dataclass(frozen=True)
class Blob:
    """A stored file: `oid` is git's (of the pointer, if in LFS), `lfs` the sha256 or None."""

    path: Path
    size: int
    oid: str
    lfs: str | None

    @property
    def etag(self) -> str:
        return self.lfs or self.oid

    def entry(self, name: str) -> dict[str, Any]:
        """As a listing of a tree has it."""
        entry = {"type": "file", "oid": self.oid, "size": self.size, "path": name}
        lfs = {"oid": self.lfs, "size": self.size, "pointerSize": 134}
        return {**entry, "lfs": lfs} if self.lfs else entry

    def sibling(self, name: str) -> dict[str, Any]:
        """As model info has it, if asked for blobs."""
        sibling = {"rfilename": name, "size": self.size, "blobId": self.oid}
        lfs = {"sha256": self.lfs, "size": self.size, "pointerSize": 134}
        return {**sibling, "lfs": lfs} if self.lfs else sibling


def make_blob(path: Path, lfs: bool) -> Blob:
    size = path.stat().st_size
    if not lfs:
        return Blob(path, size, git_oid(path.read_bytes()), None)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
    return Blob(path, size, git_oid(pointer.encode()), digest)


def git_oid(data: bytes) -> str:
    return sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(name: str, size: int) -> bool:
    return size > 0 and (name.endswith(LFS_SUFFIXES) or size > LFS_BYTES)


@dataclass
class Repo:
    """A model repo: the files of every commit, and the commit of every branch.

    A `gated` one lists its files to all and gives their bytes to `readers` (tokens); a
    `private` one shows nothing but to them.
    """

    id: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, Blob], branch: str = "main", message: str = "") -> str:
        """Record the whole content of a branch; returns the commit's hash."""
        content = sorted((name, blob.oid) for name, blob in files.items())
        commit = sha1(repr((len(self.commits), content)).encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def read_folder(self, folder: Path) -> str:
        """Commit a folder's files to the main branch; they are served from where they lie."""
        paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        return self.commit({n: make_blob(p, is_lfs(n, sizes[n])) for n, p in paths.items()})


def list_tree(files: Mapping[str, Blob], path: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """Files and folders under a path, in the order of their names."""
    folder = PurePosixPath(path)
    names = [PurePosixPath(n) for n in files if PurePosixPath(n).is_relative_to(folder)]
    found = {entry for n in names for entry in (n, *n.parents) if entry.is_relative_to(folder)}
    for name in (str(e) for e in sorted(found - {folder}) if recursive or e.parent == folder):
        folder_entry = {"type": "directory", "oid": git_oid(name.encode()), "size": 0, "path": name}
        yield files[name].entry(name) if name in files else folder_entry


def upload_mode(asked: Mapping[str, Any], files: Mapping[str, Blob]) -> dict[str, Any]:
    """The answer to preupload for one file: how to upload it, and what lies there already."""
    mode = "lfs" if is_lfs(asked["path"], asked["size"]) else "regular"
    answer = {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}
    found = files.get(asked["path"])
    return {**answer, "oid": found.etag} if found else answer
