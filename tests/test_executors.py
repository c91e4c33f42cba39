"""Shards on executors of others: processes, a Dask cluster that loses a worker, parts."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from mmfmt.convert.consolidated import Request, plan_consolidated
from mmfmt.convert.execute import Options, Watch, execute
from mmfmt.convert.plan import Plan
from mmfmt.errors import MmfmtError
from mmfmt.reader import reader
from mmfmt.repo import open_repo
from mmfmt.storage import Folder
from tests import builders
from tests.conftest import Run
from tests.repos import ROOT

SMALL = ("--max-shard-size", "20KB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of many small tensors."""
    return builders.save_model(tmp_path_factory.mktemp("hf") / "repo", "mistral3")


def plan_for(folder: Path, target: Path) -> Plan:
    request = Request(open_repo(folder), Folder(target), reader("vllm"), max_shard_bytes=20_000)
    return plan_consolidated(request)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def expected(tmp_path: Path, folder: Path) -> dict[str, bytes]:
    """What a run in this process writes."""
    execute(plan_for(folder, tmp_path / "plain"), Options(tmp_path / "plain"))
    return files(tmp_path / "plain")


class Recording(Executor):
    """Runs a task when it is submitted, as it comes out of a pickle; keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert not kwargs
        self.given.append(args)
        future: Future[Any] = Future()
        try:
            function, arguments = pickle.loads(pickle.dumps((fn, args)))
            future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
        except BaseException as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        return future


def test_tasks_are_all_that_workers_get(
    tmp_path: Path, folder: Path, expected: dict[str, bytes]
) -> None:
    """One argument for each shard: small, of plain data, and enough."""
    executor, target = Recording(), tmp_path / "out"
    advanced: list[int] = []
    plan = plan_for(folder, target)
    execute(plan, Options(target, executor=executor), Watch(advanced.append))
    assert files(target) == expected
    assert [task.shard for (task,) in executor.given] == list(plan.shards)
    assert sum(advanced) == plan.data_bytes


def test_errors_come_back_as_they_were(tmp_path: Path, folder: Path) -> None:
    """From another process too: a place, a problem and what to do."""
    copy = builders.copy_repo(folder, tmp_path / "hf")
    plan = plan_for(copy, tmp_path / "out")
    (copy / builders.WEIGHTS).unlink()
    with pytest.raises(MmfmtError, match="cannot be read: No such file") as caught:
        execute(plan, Options(tmp_path / "out", executor=Recording()))
    assert caught.value.place == builders.WEIGHTS
    assert not (tmp_path / "out").exists()


def test_processes(tmp_path: Path, folder: Path, expected: dict[str, bytes]) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        target = tmp_path / "out"
        execute(plan_for(folder, target), Options(target, executor=pool))
    assert files(target) == expected


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def test_dask_loses_a_worker(
    tmp_path: Path,
    folder: Path,
    expected: dict[str, bytes],
    cluster: LocalCluster,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after three shards: the others of its shards are done elsewhere."""
    target, killed = tmp_path / "out", []

    def losing(futures: Iterable[Future[Any]]) -> Iterator[Future[Any]]:
        for number, future in enumerate(as_completed(futures), 1):
            if number == 3:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)
            yield future

    monkeypatch.setattr("mmfmt.convert.execute.as_completed", losing)
    address = cluster.scheduler_address.replace("tcp://", "dask://")
    outcome = run("convert", "hf-to-consolidated", folder, target, *SMALL, "--executor", address)
    assert outcome.code == 0, outcome
    assert killed
    assert files(target) == expected


def test_no_cluster(
    tmp_path: Path, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each."""
    monkeypatch.setattr("mmfmt.convert.executors._SECONDS", 0.2)
    convert = ("convert", "hf-to-consolidated", folder, tmp_path / "out", "--executor")
    assert "no scheduler answers" in run(*convert, "dask://127.0.0.1:9").error
    assert "write dask://host:port" in run(*convert, "ray://127.0.0.1:9").error
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'mmfmt[dask]'" in run(*convert, "dask://127.0.0.1:9").error
    assert not (tmp_path / "out").exists()


def start(folder: Path, target: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mmfmt", "convert", "hf-to-consolidated"]
    arguments = [*command, str(folder), str(target), *SMALL, *options]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_parts_in_processes(
    tmp_path: Path, folder: Path, expected: dict[str, bytes], run: Run
) -> None:
    """Three at the same time into one folder; nothing is published before all are there."""
    target = tmp_path / "out"
    assert "run every part first" in run("convert", "finalize", target).error
    first = start(folder, target, "--part", "1/3")
    assert first.communicate()[1].count("mmfmt convert finalize") == 1
    missing = run("convert", "finalize", target)
    assert "is not there, or not whole (run the part that it belongs to" in missing.error
    others = [start(folder, target, "--part", f"{number}/3") for number in (2, 3)]
    for process in others:
        process.communicate()
    assert [process.returncode for process in (first, *others)] == [0, 0, 0]
    assert [path.name[:7] for path in target.iterdir()] == [".mmfmt-"]
    assert run("convert", "finalize", target).code == 0
    assert files(target) == expected


def test_a_part_is_on_the_disk(
    tmp_path: Path, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it ends: who publishes it may be another machine, after this one lost its power."""
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda file: flushed.add(os.fstat(file).st_ino))
    target = tmp_path / "out"
    assert run("convert", "hf-to-consolidated", folder, target, *SMALL, "--part", "1/1").code == 0
    inodes = {path.stat().st_ino for path in next(target.iterdir()).iterdir()}
    left = inodes - flushed
    assert run("convert", "finalize", target).code == 0
    published = {path.stat().st_ino for path in target.iterdir() if path.name != "SHA256SUMS"}
    assert published <= inodes
    assert not published & left


def test_parts_are_numbers(tmp_path: Path, folder: Path, run: Run) -> None:
    for part in ("0/3", "4/3", "1", "a/b", "1/0"):
        outcome = run("convert", "hf-to-consolidated", folder, tmp_path / "out", "--part", part)
        assert outcome.code == 2
        assert "is not a part such as 3/8" in outcome.err


def test_more_parts_than_shards(
    tmp_path: Path, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some have nothing to do, and say so; the result is whole, from wherever it is published."""
    monkeypatch.chdir(tmp_path)
    said = [
        run("convert", "hf-to-consolidated", folder, "out", "--part", f"{number}/3").err
        for number in (1, 2, 3)
    ]
    assert ["which no shard falls to; after the last part" in line for line in said] == [0, 1, 1]
    monkeypatch.chdir(Path("out"))
    assert run("convert", "finalize", "../out").err == "published: ../out\n"
    assert run("convert", "hf-to-consolidated", folder, tmp_path / "plain").code == 0
    assert files(tmp_path / "out") == files(tmp_path / "plain")
