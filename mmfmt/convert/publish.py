"""From a staging folder, all files of which are complete, to the target: renames only.

Killed in between, any later run finishes them: each rename is either done or still to do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mmfmt import __version__, manifest
from mmfmt.convert.output import sha256_of
from mmfmt.convert.shard_task import (
    ANEW,
    Written,
    fsync,
    signature_of,
    storage_at,
    write_atomically,
)
from mmfmt.convert.staging import Job, Staging, is_plain, one_line
from mmfmt.convert.target import PushTarget
from mmfmt.errors import MmfmtError
from mmfmt.storage import Folder, Storage

Move = tuple[Path, Path]


def finish(staging: Staging, job: Job) -> str:
    """Publish what is staged; returns where it is now.

    Raises MmfmtError where a shard is missing or a source file changed meanwhile.
    """
    records = _complete(staging, job)
    _check_sources(job, records)
    return _commit(staging, job, records) if job.push else _place(staging, job, records)


def finish_staged(staging: Staging) -> str:
    """Publish what other runs, parts or killed ones, have staged; returns where it is now.

    Raises MmfmtError as `finish` does, and where there is nothing of the kind.
    """
    job = staging.job()
    if job is None:
        fix = "remove the folder, and convert again"
        raise MmfmtError(str(staging.folder), "holds no conversion that can be published", fix)
    with one_line(staging.folder, "the same command goes on from there"), staging.locked():
        if not staging.marker.exists():
            return finish(staging, job)
        _resume(staging)
    return str(staging.target)


def _resume(staging: Staging) -> None:
    """Do what is left of the renames that a killed process began."""
    names, retired = _marked(staging)
    for old, new in _moves(staging, names, retired):
        moved_before = new.parent == staging.replaced and new.exists()
        if old.exists() and not moved_before:
            old.rename(new)
    fsync(staging.target)
    staging.remove()


def _marked(staging: Staging) -> tuple[list[str], list[str]]:
    """The files that come, and those that give way; MmfmtError where that cannot be read."""
    try:
        names, retired = json.loads(staging.marker.read_text(encoding="utf-8"))
        if all(map(is_plain, (*names, *retired))):
            return names, retired
    except (ValueError, TypeError):
        pass
    fix = f"move what is in {staging.replaced} back, remove {staging.folder} and convert again"
    raise MmfmtError(str(staging.marker), "is damaged, publishing was interrupted", fix)


def _complete(staging: Staging, job: Job) -> Mapping[str, Written]:
    """The records of all shards; MmfmtError for one that is not there."""
    records = staging.records(job)
    for name, size in job.shards.items():
        path, found = staging.folder / name, records.get(name)
        there = found and (found.pushed or (path.is_file() and path.stat().st_size == size))
        if not there:
            fix = "run the part that it belongs to, then finalize again"
            raise MmfmtError(str(path), "is not there, or not whole", fix)
    return records


def _check_sources(job: Job, records: Mapping[str, Written]) -> None:
    """MmfmtError for a source file that was written to after a shard was made from it.

    Where the source is out of reach, the records are compared with each other only.
    """
    known: dict[str, list[str | int]] = {}
    for record in records.values():
        for name, signature in record.signatures.items():
            if name not in known:
                with suppress(MmfmtError):
                    known[name] = signature_of(storage_at(job.source), name)
            if known.setdefault(name, signature) != signature:
                problem = f"changed after {record.name} was made from it"
                raise MmfmtError(f"{job.source}/{name}", problem, ANEW)


def _place(staging: Staging, job: Job, records: Mapping[str, Written]) -> str:
    names = (*_manifest(staging, job, records), *job.names)
    for name in names:
        fsync(staging.folder / name)
    _publish(staging, job, names)
    with suppress(KeyboardInterrupt):  # published is published: the next run removes the rest
        staging.remove()
    return str(staging.target)


def _commit(staging: Staging, job: Job, records: Mapping[str, Written]) -> str:
    from mmfmt.upload import commit_sent

    assert job.push
    names = (*_manifest(staging, job, records), *job.files)
    sent = {name: (found.size, str(found.sha256)) for name, found in records.items()}
    files = {name: staging.folder / name for name in names}
    deletes = {*job.replaces} - {*job.names}
    url = commit_sent(job.push, sent, files, deletes, f"Converted with mmfmt {__version__}")
    staging.remove()
    return url


def manifest_before(staging: Staging, job: Job) -> bytes:
    """The SHA256SUMS of the target; MmfmtError for one that cannot be read."""
    target: Storage = PushTarget(job.push) if job.push else Folder(staging.target)
    there = manifest.NAME in target.sizes
    content = target.read(manifest.NAME, 0, manifest.MAX_BYTES + 1) if there else b""
    manifest.parse(content)
    return content


def _manifest(staging: Staging, job: Job, records: Mapping[str, Written]) -> Iterator[str]:
    """Stage SHA256SUMS; yields its name if there is anything to say in it."""
    name, before = manifest.NAME, manifest_before(staging, job)
    made: dict[str, str] = {}
    if job.hashed:
        made = {shard: found.sha256 or "" for shard, found in records.items()}
        unknown = (*job.files, *(shard for shard, digest in made.items() if not digest))
        made |= {file: sha256_of(staging.folder / file) for file in unknown}
    comment = f"{__version__}, plan {job.identity}"
    text = manifest.manifest(before, (*job.replaces, *job.names), made, comment)
    if text:
        write_atomically(staging.folder / name, text)
        yield name


def _publish(staging: Staging, job: Job, names: Sequence[str]) -> None:
    """Rename everything into place, index and params.json last; undo all if a rename fails."""
    giving_way = dict.fromkeys((*reversed(job.replaces), manifest.NAME, *names))
    retired = [name for name in giving_way if (staging.target / name).exists()]
    expected = {*job.replaces, manifest.NAME}
    if not job.forced and (appeared := [name for name in retired if name not in expected]):
        problem = "appeared while the conversion ran"
        raise MmfmtError(str(staging.target / appeared[0]), problem, "use --force to replace it")
    staging.replaced.mkdir(exist_ok=True)
    write_atomically(staging.marker, json.dumps([names, retired]))
    try:
        for old, new in _moves(staging, names, retired):
            old.rename(new)
        fsync(staging.target)
    except BaseException:
        _undo(staging, names, retired)
        raise


def _undo(staging: Staging, names: Sequence[str], retired: Sequence[str]) -> None:
    """Take renames back, as the folders show them: interrupted, one may be done unnoticed."""
    for old, new in reversed([*_moves(staging, names, retired)]):
        if not old.exists():
            new.rename(old)
    staging.marker.unlink()


def _moves(staging: Staging, names: Sequence[str], retired: Sequence[str]) -> Iterator[Move]:
    """What gives way goes first; the last file to come is what makes loaders look."""
    yield from ((staging.target / name, staging.replaced / name) for name in retired)
    yield from ((staging.folder / name, staging.target / name) for name in names)
