"""From a planned conversion to its files: progress, resuming, and what is said at the end."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from mmfmt.cli.terminal import console_for
from mmfmt.errors import MmfmtError
from mmfmt.hub import SCHEME
from mmfmt.storage import Folder

if TYPE_CHECKING:
    from mmfmt.convert.execute import Options
    from mmfmt.convert.plan import Plan
    from mmfmt.storage import Storage

# more threads than these gained nothing from a disk; a network has more to wait for
_JOBS, _REMOTE_JOBS = 2, 8


@dataclass(frozen=True)
class Settings:
    """The options that every converting command has."""

    dry_run: bool
    force: bool
    no_hash: bool
    jobs: int | None
    executor: str | None
    part: tuple[int, int] | None
    push: str | None
    private: bool
    quiet: bool


def carry_out(
    make: Callable[["Storage"], "Plan"], src: str, dst: Path | None, settings: Settings
) -> None:
    """Plan a conversion and do it, or what an interrupted run has left of it."""
    from mmfmt.convert.report import print_dropped, print_plan

    console = console_for(stderr=True, quiet=settings.quiet)
    folder = _folder(src, dst)
    request = _request(src)
    if not settings.dry_run and _published_before(folder, request, console):
        return
    plan = make(_target(folder, settings.push))
    for warning in plan.warnings:
        console.print(f"warning: {warning}")
    print_dropped(plan, console)
    if settings.dry_run:
        print_plan(plan, console_for())
    else:
        _execute(plan, folder, request, settings, console)


def finalize_in(folder: Path, quiet: bool) -> None:
    """Publish the one conversion that is staged in a folder; MmfmtError if there is not one."""
    from mmfmt.convert.publish import finish_staged
    from mmfmt.convert.staging import stagings, was_published

    console = console_for(stderr=True, quiet=quiet)
    published, found = was_published(folder), stagings(folder)
    if published and not found:
        console.print(f"published before: {folder}")
        return
    if len(found) != 1:
        staged = ", ".join(str(staging.folder) for staging in found) or "nothing"
        fix = "run every part first" if not found else "remove those that are not wanted"
        raise MmfmtError(str(folder), f"one conversion was expected, staged is: {staged}", fix)
    console.print(f"published: {finish_staged(found[0])}")


def _folder(src: str, dst: Path | None) -> Path:
    if dst is None and src.startswith(SCHEME):
        raise MmfmtError(src, "is not on this disk", "name DST, the folder to work in")
    return dst or Path(src)


def _target(folder: Path, push: str | None) -> "Storage":
    if push is None:
        return Folder(folder)
    from mmfmt.convert.target import PushTarget
    from mmfmt.hub import hub_repo

    return PushTarget(hub_repo(f"{SCHEME}{push}").repo_id)


def _request(src: str) -> str:
    """What decides on the outcome of the running command, equal for equal requests."""
    context = click.get_current_context()
    how = ("dst", "dry_run", "force", "jobs", "executor", "part", "no_hash", "private", "quiet")
    asked = {key: value for key, value in context.params.items() if key not in how}
    source = src if src.startswith(SCHEME) else str(Path(src).resolve())
    return f"{context.info_name} {sorted((asked | {'src': source}).items())}"


def _published_before(folder: Path, request: str, console: Console) -> bool:
    """Finish renames that a killed run had begun; whether that was all that is asked for."""
    from mmfmt.convert.staging import stagings

    wanted = False
    for staging in stagings(folder):
        if staging.marker.exists():
            from mmfmt.convert.publish import finish_staged

            job = staging.job()
            place = finish_staged(staging)
            console.print(f"finished publishing what an interrupted run had converted: {place}")
            wanted |= job is not None and job.request == request
    return wanted


def _execute(
    plan: "Plan", folder: Path, request: str, settings: Settings, console: Console
) -> None:
    from mmfmt.convert.execute import execute, is_there
    from mmfmt.convert.report import print_done, progress

    start = time.monotonic()
    total = sum(shard.data_bytes for shard in plan.part(*settings.part or (1, 1)))
    with (
        progress(total, console) as watch,
        _options(plan, folder, request, settings) as options,
    ):
        if not settings.force and is_there(plan):
            console.print(f"nothing to do, all of it is there and unchanged: {plan.target}")
            return
        done = execute(plan, options, watch)
    print_done(plan, done, options, time.monotonic() - start, console)


@contextmanager
def _options(plan: "Plan", folder: Path, request: str, settings: Settings) -> Iterator["Options"]:
    from contextlib import nullcontext

    from mmfmt.convert.execute import Options
    from mmfmt.convert.executors import executor_at

    if settings.push:
        from mmfmt.upload import prepare_push

        prepare_push(settings.push, private=settings.private or None)
    usual = _REMOTE_JOBS if plan.source.startswith(SCHEME) else _JOBS
    with executor_at(settings.executor) if settings.executor else nullcontext() as executor:
        yield Options(
            folder=folder,
            request=request,
            jobs=settings.jobs or max(1, min(usual, os.cpu_count() or 1)),
            hashed=not settings.no_hash,
            force=settings.force,
            part=settings.part,
            executor=executor,
        )
