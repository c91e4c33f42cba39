"""One shard of a plan as work for any thread, process or machine."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import UnionType
from uuid import uuid4

from safetensors import SafetensorError, safe_open

from mmfmt.convert.output import Output, sha256_of
from mmfmt.convert.plan import PlannedShard, SourceFile
from mmfmt.convert.stream import Files, opened, stream
from mmfmt.errors import MmfmtError
from mmfmt.header import Header, encode_header, read_header
from mmfmt.hub import SCHEME
from mmfmt.open import open_any
from mmfmt.repo import Advance, silent
from mmfmt.storage import Folder, Storage

_UNFINISHED = ".part"
ANEW = "start the same command again: what changed is converted anew"


Kind = type | UnionType
# of Written's fields, in their order
_TEXT: Kind = str | None
_KINDS: tuple[Kind, ...] = (str, int, _TEXT, int, int, int, dict, _TEXT, bool, list)

Signatures = Mapping[str, list[str | int]]
"""What tells whether source files were written to, by name: OpenFile.signature."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to be written into a staging `folder`, from the repo at address `source`.

    `sources` are its source files as they were planned from. `push` is the Hub repo that it
    goes to at once, and then leaves the folder. `flush` brings it to the disk, where whoever
    publishes it cannot.
    """

    source: str
    sources: tuple[SourceFile, ...]
    folder: str
    shard: PlannedShard
    hashed: bool = True
    flush: bool = False
    push: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.folder, self.shard.name)

    @property
    def record(self) -> Path:
        """Where is written what came of it."""
        return Path(self.folder, f"{self.shard.name}.json")


@dataclass(frozen=True)
class Written:
    """A finished shard: bytes and sha256 of its file, and how its bytes came about.

    `signatures` are those of the source files it was made from. `pushed` is the Hub repo that
    holds it, uncommitted. `reused` is one that an earlier run had finished; `notes` say why
    one was not.
    """

    name: str
    size: int
    sha256: str | None
    cloned: int
    copied: int
    permuted: int
    signatures: Signatures
    pushed: str | None = None
    reused: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)


def settle(task: ShardTask, advance: Advance = silent) -> Written:
    """The shard, written unless an earlier run did and its bytes are what they have to be.

    Raises MmfmtError; what is not finished is removed.
    """
    storage = storage_at(task.source)
    # a commit on the Hub does not change
    for file in () if task.source.startswith(SCHEME) else task.sources:
        _check_source(storage, file)
    try:
        found = read_record(task.record)
        fault, now = _fault(task, found, storage, advance) if found else ("", {})
        if found and not fault:
            advance(task.shard.data_bytes)
            return _keep(task, found, now)
        written = _write(task, storage, advance)
    except OSError as error:
        place = str(error.filename or task.path)
        raise MmfmtError(place, error.strerror or str(error), "nothing was published") from error
    return replace(written, notes=(fault,)) if fault else written


def _keep(task: ShardTask, found: Written, now: Signatures) -> Written:
    """A shard of an earlier run; on record is the state of the source that it was compared with."""
    kept = replace(found, signatures=now)
    if kept != found:
        write_atomically(task.record, json.dumps(asdict(kept)))
    return replace(kept, reused=True)


def read_record(path: Path) -> Written | None:
    """What is written of a shard; None where nothing is, or nothing that can be read."""
    try:
        found = Written(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    whole = fits(found, _KINDS) and all(isinstance(s, list) for s in found.signatures.values())
    return found if whole else None


def fits(found: object, kinds: Iterable[Kind]) -> bool:
    """Whether the fields of a dataclass that was read from JSON are of these kinds."""
    return all(isinstance(v, kind) for v, kind in zip(vars(found).values(), kinds, strict=True))


def storage_at(address: str) -> Storage:
    """The repo at an address. Of the Hub's, a process asks for a listing once."""
    return _at_commit(address) if address.startswith(SCHEME) else open_any(address).storage


@cache
def _at_commit(address: str) -> Storage:
    return open_any(address).storage


def _check_source(storage: Storage, file: SourceFile) -> None:
    head = storage.read(file.name, 0, file.header_bytes)
    same = storage.sizes.get(file.name) == file.size
    if not same or sha256(head).hexdigest() != file.header_sha256:
        place = f"{storage.label}/{file.name}"
        raise MmfmtError(place, "changed after the conversion was planned", ANEW)


def signature_of(storage: Storage, name: str) -> list[str | int]:
    """What tells whether a source file was written to; MmfmtError if it cannot be opened."""
    with closing(storage.open(name, ())) as file:
        return list(file.signature)


def _signatures(files: Files) -> Signatures:
    return {name: list(file.signature) for name, file in files.items()}


def _fault(
    task: ShardTask, found: Written, storage: Storage, advance: Advance
) -> tuple[str, Signatures]:
    """Why a shard that an earlier run finished cannot be taken; empty if it can.

    And the signatures of the source files that it was compared with.

    Neither names nor times are trusted: its bytes have the hash on record, and so has what the
    source gives, where that was written to.
    """
    if found.sha256 is None or found.pushed != task.push:
        return f"{found.name}: was not hashed, or not pushed there: it is written anew", {}
    if not found.pushed and not _is_as_recorded(task.path, found, advance):
        return f"{found.name}: is not as an earlier run left it: it is written anew", {}
    with opened(storage, task.shard.segments()) as files:
        now = _signatures(files)
        unchanged = now == found.signatures
        if unchanged or (not task.push and _sha256_of_source(task, files, advance) == found.sha256):
            return "", now
    changed = ", ".join(found.signatures)
    return f"{changed}: changed since an earlier run: {found.name} is written anew", now


def _is_as_recorded(path: Path, found: Written, advance: Advance) -> bool:
    whole = path.is_file() and path.stat().st_size == found.size
    return whole and sha256_of(path, advance) == found.sha256


def _sha256_of_source(task: ShardTask, files: Files, advance: Advance) -> str:
    """The hash of the file that the source gives now."""
    digest = sha256(encode_header(task.shard.header))
    for segment in task.shard.segments():
        for piece in stream(segment, files):
            digest.update(piece)
            advance(0)
    return digest.hexdigest()


def _write(task: ShardTask, storage: Storage, advance: Advance) -> Written:
    for leftover in Path(task.folder).glob(f"{task.shard.name}.*{_UNFINISHED}"):
        leftover.unlink()
    part = unfinished(task.path)
    try:
        written = _fill(part, task, storage, advance)
        _check_shard(part, task.shard.header)
        if task.flush:
            fsync(part)
        part.rename(task.path)
    finally:
        part.unlink(missing_ok=True)
    if task.push:
        written = _push(task, written)
    write_atomically(task.record, json.dumps(asdict(written)))
    return written


def _fill(part: Path, task: ShardTask, storage: Storage, advance: Advance) -> Written:
    shard = task.shard
    with opened(storage, shard.segments()) as files, Output(part, task.hashed) as output:
        before = _signatures(files)
        output.write(encode_header(shard.header))
        for segment in shard.segments():
            for count in output.transfer(segment, files):
                advance(count)
        if (now := _signatures(files)) != before:
            name = next(name for name in now if now[name] != before[name])
            raise MmfmtError(f"{storage.label}/{name}", "changed while it was read", ANEW)
        done = output.cloned, output.copied, output.permuted
        return Written(shard.name, part.stat().st_size, output.sha256(), *done, before)


def _check_shard(path: Path, header: Header) -> None:
    """Read a finished shard back, with our own reader and with safetensors'."""
    written = read_header(Folder(path.parent), path.name)
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise MmfmtError(path.name, f"safetensors cannot read it back: {error}") from error
    if written.tensors != header.tensors or names != set(header.tensors):
        raise MmfmtError(path.name, "does not read back as it was written", "check the disk")


def _push(task: ShardTask, written: Written) -> Written:
    from mmfmt.upload import send

    assert task.push
    send(task.push, task.shard.name, task.path)
    task.path.unlink()
    return replace(written, pushed=task.push)


def unfinished(path: Path) -> Path:
    """A name of its own for a file under way: a writer who is thought dead may write on."""
    return path.with_name(f"{path.name}.{uuid4().hex}{_UNFINISHED}")


def write_atomically(path: Path, text: str) -> None:
    """A small file, whole or not at all."""
    part = unfinished(path)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def fsync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
