"""The hidden folder inside the target where a conversion grows until it is published.

.mmfmt-<plan>/
    job.json              what is to be published, for whoever does it
    <file>                every finished file under its own name
    <shard>.json          what came of a shard, its hash among it
    <shard>.<random>.part a shard under way
    publishing.json       from the first rename to the last: the files that give way
    replaced/             and where they lie meanwhile
"""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from mmfmt.convert.plan import Plan
from mmfmt.convert.shard_task import (
    Kind,
    Written,
    fits,
    read_record,
    unfinished,
    write_atomically,
)
from mmfmt.errors import MmfmtError

PREFIX = ".mmfmt-"
_GONE = f"{PREFIX}gone-"
_JOB, _PUBLISHING, _LOCK = "job.json", "publishing.json", "lock"
# hex digits of a plan's identity that name its folder
_DIGITS = 16
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Job:
    """What a conversion publishes: sizes of the shards in bytes, and the small files.

    `request` is what a user asked for, in any form that is equal for equal requests. `push` is
    a Hub repo. `forced` allows that `replaces` are replaced.
    """

    request: str
    identity: str
    source: str
    shards: Mapping[str, int]
    files: tuple[str, ...]
    replaces: tuple[str, ...]
    hashed: bool
    forced: bool
    push: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All files, in the order in which they are published."""
        return (*self.shards, *self.files)


# of Job's fields, in their order
_KINDS: tuple[Kind, ...] = (str, str, str, dict, tuple, tuple, bool, bool, str | None)


@dataclass(frozen=True)
class Staging:
    """A staging folder; its parent is where the files are published, unless they are pushed."""

    folder: Path

    @property
    def target(self) -> Path:
        return self.folder.parent

    @property
    def replaced(self) -> Path:
        return self.folder / "replaced"

    @property
    def marker(self) -> Path:
        return self.folder / _PUBLISHING

    def job(self) -> Job | None:
        """The job on record; None where there is none that can be read."""
        try:
            body = json.loads((self.folder / _JOB).read_text(encoding="utf-8"))
            job = Job(**body | {key: tuple(body[key]) for key in ("files", "replaces")})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        fitting = fits(job, _KINDS) and all(map(is_plain, (*job.names, *job.replaces)))
        return job if fitting else None

    def write_job(self, job: Job) -> None:
        """Put the job on record; on a file system that cannot rename, this is the first to fail."""
        write_atomically(self.folder / _JOB, json.dumps(asdict(job)))

    def records(self, job: Job) -> dict[str, Written]:
        """What is written of each shard that is finished."""
        found = {name: read_record(self.folder / f"{name}.json") for name in job.shards}
        return {name: written for name, written in found.items() if written}

    def finished(self) -> int:
        """How many shards are finished."""
        job = self.job()
        return len(self.records(job)) if job else 0

    def unfinished(self, name: str) -> Path:
        """Where to write a file before it is complete: no other writer has the same place."""
        return unfinished(self.folder / name)

    @contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        """Alone, or among others that work on parts; MmfmtError where someone else does.

        The kernel frees the lock of a process that is killed.
        """
        with (self.folder / _LOCK).open("w") as file:
            if not _lock(file.fileno(), shared):
                problem = "another mmfmt is at work here"
                raise MmfmtError(str(self.folder), problem, "wait for it, or stop it")
            yield

    def remove(self) -> None:
        """Away with everything: at once under this name, then the files."""
        gone = self.folder.with_name(f"{_GONE}{self.folder.name.removeprefix(PREFIX)}")
        self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def one_line(folder: Path, fix: str = "nothing was published") -> Iterator[None]:
    """Errors of the file system as MmfmtError."""
    try:
        yield
    except OSError as error:
        place = str(error.filename or folder)
        problem = MmfmtError(place, error.strerror or str(error), fix)
        for note in getattr(error, "__notes__", ()):
            problem.add_note(note)
        raise problem from error


def staging_of(plan: Plan, target: Path) -> Staging:
    """The folder of a plan, the same whenever it is carried out."""
    return Staging(target / f"{PREFIX}{plan.identity[:_DIGITS]}")


def is_plain(name: object) -> bool:
    """Whether a name on record is that of a file in the folder itself: a repo may be hostile."""
    plain = isinstance(name, str) and PurePosixPath(name).name == name and "\\" not in name
    return plain and name != ".."


def was_published(target: Path) -> bool:
    """Whether a run was killed after it had published, while it cleared up."""
    return any(target.glob(f"{_GONE}*"))


def stagings(target: Path) -> list[Staging]:
    """The staging folders in a target. What was being removed when a run was killed goes."""
    for gone in target.glob(f"{_GONE}*"):
        shutil.rmtree(gone, ignore_errors=True)
    found = sorted(target.glob(f"{PREFIX}*"))
    return [Staging(folder) for folder in found if folder.is_dir() and not folder.is_symlink()]


def _lock(descriptor: int, shared: bool) -> bool:
    try:
        from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
    except ImportError:  # not on Windows
        return True
    try:
        flock(descriptor, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True
