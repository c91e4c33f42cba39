"""Carry out a plan: shards through an executor into a staging folder, then publish them.

Knows tasks and files; knows nothing of models. A run that was killed or failed goes on where
it ended, when the same command is started again.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmfmt import manifest
from mmfmt.convert.clone import can_clone, new_bytes
from mmfmt.convert.output import sha256_of
from mmfmt.convert.plan import Plan
from mmfmt.convert.publish import finish, manifest_before
from mmfmt.convert.shard_task import (
    ShardTask,
    Written,
    fsync,
    settle,
    write_atomically,
)
from mmfmt.convert.staging import Job, Staging, one_line, staging_of, stagings
from mmfmt.errors import MmfmtError
from mmfmt.hub import SCHEME, hub_repo
from mmfmt.repo import Advance, silent
from mmfmt.storage import Folder

# room for headers, index and the like when free space is checked
_SLACK = 16 << 20


@dataclass(frozen=True)
class Options:
    """How to carry out a plan.

    `folder` is where the work is done: the target itself, or, for a plan whose target is on
    the Hub, where shards lie until they are sent. `part` (i, n) does every nth shard, from the
    ith on, and publishes nothing. `jobs` is the number of threads; it does not count with an
    `executor`, which is given picklable tasks only.
    """

    folder: Path
    request: str = ""
    jobs: int = 1
    hashed: bool = True
    force: bool = False
    part: tuple[int, int] | None = None
    executor: Executor | None = None


@dataclass(frozen=True)
class Watch:
    """Whoever looks on: told of bytes that are done, and of each shard or step that is begun."""

    advance: Advance = silent
    begin: Callable[[str], None] = lambda name: None


@dataclass(frozen=True)
class Done:
    """What a run did. `place` is the target or the commit; None if nothing is published yet."""

    written: tuple[Written, ...]
    place: str | None = None
    notes: tuple[str, ...] = field(default=())


NOBODY = Watch()


def execute(plan: Plan, options: Options, watch: Watch = NOBODY) -> Done:
    """Write everything the plan names; nothing is visible under its final name until all is.

    Raises MmfmtError, and passes on KeyboardInterrupt. Finished shards stay in the staging
    folder for the next run, which a note of the exception says; if there are none, nothing
    stays.
    """
    staging = staging_of(plan, options.folder)
    job = _job(plan, options, staging)
    _check_replaced(plan, job)
    manifest_before(staging, job)  # to be added to at the end: it must be readable
    with one_line(options.folder), _prepared(staging, options):
        others = tuple(_other_runs(staging, options))
        tasks = _tasks(plan, options, staging, job)
        _check_space(plan, tasks, options)
        staging.write_job(job)
        _stage_small_files(plan, staging, flush=bool(options.part))
        written = tuple(_run(tasks, options, watch))
        watch.begin("flushing to the disk")
        place = None if options.part else finish(staging, job)
    return Done(written, place, (*others, *(note for each in written for note in each.notes)))


def _other_runs(staging: Staging, options: Options) -> Iterator[str]:
    """What runs of another source or other options have left here; `force` removes it."""
    for other in stagings(options.folder):
        if other == staging:
            continue
        # a marker: files that are nowhere else may lie there
        if not options.force or options.part or other.marker.exists():
            yield f"{other.folder} is of another source or other options: --force removes it"
            continue
        with suppress(MmfmtError), other.locked():  # someone may be at work there
            other.remove()


def is_there(plan: Plan, advance: Advance = silent) -> bool:
    """Whether an earlier run published all of this in a folder, and every byte is as it was.

    Raises MmfmtError for a manifest that cannot be read.
    """
    target = Folder(Path(plan.target))
    if plan.target.startswith(SCHEME) or manifest.NAME not in target.sizes:
        return False
    text = target.read(manifest.NAME, 0, manifest.MAX_BYTES + 1)
    hashes = manifest.parse(text)
    if plan.identity.encode() not in text or not {*plan.files} <= {*hashes} & {*target.sizes}:
        return False
    return all(sha256_of(target.fetch(name), advance) == hashes[name] for name in plan.files)


def _job(plan: Plan, options: Options, staging: Staging) -> Job:
    before = staging.job()
    headers = {shard.name: shard.header for shard in plan.shards}
    return Job(
        request=options.request,
        identity=plan.identity,
        source=plan.source,
        shards={name: header.data_start + header.data_bytes for name, header in headers.items()},
        files=plan.small_files,
        replaces=plan.replaces,
        hashed=options.hashed,
        forced=options.force or bool(before and before.forced),
        push=hub_repo(plan.target).repo_id if plan.target.startswith(SCHEME) else None,
    )


def _check_replaced(plan: Plan, job: Job) -> None:
    """MmfmtError where files would be replaced that nobody allowed to."""
    if plan.replaces and not job.forced:
        found = ", ".join(plan.replaces[:3]) + (", ..." if len(plan.replaces) > 3 else "")
        raise MmfmtError(plan.target, f"holds {found} already", "use --force to replace them")


@contextmanager
def _prepared(staging: Staging, options: Options) -> Iterator[None]:
    """The staging folder, this run's alone; what has no finished shard goes when it fails."""
    above = (options.folder, *options.folder.parents)
    created = [folder for folder in above if not folder.exists()]
    staging.folder.mkdir(parents=True, exist_ok=True)
    with staging.locked(shared=bool(options.part)):
        try:
            yield
        except BaseException as error:
            if staging.finished():
                error.add_note(_how_to_resume(staging))
            elif not options.part:  # another part may be at work here
                shutil.rmtree(staging.folder)
                for folder in created:
                    folder.rmdir()
            raise


def _how_to_resume(staging: Staging) -> str:
    count = staging.finished()
    kept = "1 finished shard is kept" if count == 1 else f"{count} finished shards are kept"
    resume = "the same command goes on from there, with --force it starts over"
    return f"{kept} in {staging.folder}: {resume}"


def _tasks(plan: Plan, options: Options, staging: Staging, job: Job) -> list[ShardTask]:
    """The shards of this run; with `force`, nothing of earlier runs is kept."""
    tasks = [
        ShardTask(
            source=plan.source,
            sources=plan.sources_of(shard),
            folder=str(staging.folder.absolute()),
            shard=shard,
            hashed=options.hashed or job.push is not None,
            flush=bool(options.part or options.executor),
            push=job.push,
        )
        for shard in plan.part(*options.part or (1, 1))
    ]
    for task in tasks if options.force else ():
        task.record.unlink(missing_ok=True)
    return tasks


def _check_space(plan: Plan, tasks: Sequence[ShardTask], options: Options) -> None:
    """MmfmtError where the disk has no room for what is still to be written."""
    waiting = [task.shard for task in tasks if not task.record.exists()]
    clones = bool(plan.sources) and _can_clone(plan, tasks)
    sizes = sorted(new_bytes(shard) if clones else shard.data_bytes for shard in waiting)
    if tasks and tasks[0].push:
        sizes = sizes[-options.jobs :]
    free, needed = shutil.disk_usage(options.folder).free, sum(sizes) + _SLACK
    if free < needed:
        problem = f"{free:,} bytes are free, {needed:,} are needed"
        raise MmfmtError(str(options.folder), problem, "make room or name another DST")


def _can_clone(plan: Plan, tasks: Sequence[ShardTask]) -> bool:
    remote = plan.source.startswith(SCHEME) or not tasks
    return not remote and can_clone(Path(plan.source, plan.sources[0].name), Path(tasks[0].folder))


def _stage_small_files(plan: Plan, staging: Staging, flush: bool) -> None:
    """Those beside the shards; flushed where another machine may publish them."""
    for name, source in plan.copies:
        part = staging.unfinished(name)
        shutil.copyfile(source, part)
        part.replace(staging.folder / name)
    for name, text in plan.texts:
        write_atomically(staging.folder / name, text)
    for name in plan.small_files if flush else ():
        fsync(staging.folder / name)


def _run(tasks: Sequence[ShardTask], options: Options, watch: Watch) -> list[Written]:
    if options.executor:
        return _elsewhere(tasks, options.executor, watch)
    stop, lock = threading.Event(), threading.Lock()

    def advance(count: int) -> None:
        if stop.is_set():
            raise InterruptedError
        with lock:
            watch.advance(count)

    def work(task: ShardTask) -> Written:
        watch.begin(task.shard.name)
        return settle(task, advance)

    pool = ThreadPoolExecutor(options.jobs)
    try:
        futures = [pool.submit(work, task) for task in tasks]
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _elsewhere(tasks: Sequence[ShardTask], executor: Executor, watch: Watch) -> list[Written]:
    """Shards on somebody else's executor, to which nothing but a task can be given."""
    futures = {executor.submit(settle, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            future.result()
            watch.advance(futures[future].shard.data_bytes)
            watch.begin(futures[future].shard.name)
        return [future.result() for future in futures]
    except (MmfmtError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever an executor makes of a lost worker
        problem = f"a shard was lost: {type(error).__name__}: {' '.join(str(error).split())}"
        raise MmfmtError("executor", problem, "look at its workers") from error
    finally:
        for future in futures:
            future.cancel()
