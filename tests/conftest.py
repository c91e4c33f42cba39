"""Fixtures and settings for every test."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mmfmt.cli import main
from tests.hub_server import HubServer

# no deadline: a first call compiles, imports or touches a slow disk
settings.register_profile(
    "mmfmt",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("mmfmt")


# the property of a test report that says what came of a planted defect
VERDICT = "planted defect"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many of the planted defects were found."""
    reports = [each for name in ("passed", "failed") for each in terminalreporter.getreports(name)]
    said = Counter(dict(report.user_properties).get(VERDICT) for report in reports)
    if total := sum(said.values()) - said[None]:
        kinds = ", ".join(f"{said[kind]} {kind}" for kind in ("found", "missed", "wrongly named"))
        terminalreporter.section("planted defects")
        terminalreporter.line(f"{total} defects: {kinds}")


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr of a refused request."""
        lines = self.err.splitlines()
        assert self.code == 2, self
        assert len(lines) == 1, self
        assert lines[0].startswith("error: "), self
        return lines[0]


# of `mmfmt verify`, for models whose vocabulary is smaller than their tokenizer's
WEIGHTS_ONLY = ("--level", "header", "--ignore", "MMF6")

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """No test pulls the plug; thousands of flushes wait for each other's files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the `mmfmt` command in this process, as its entry point does."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mmfmt", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
    # main() installs a handler of its own
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def to_consolidated(run: Run) -> Run:
    """Run `mmfmt convert hf-to-consolidated` with the given arguments."""
    return lambda *arguments: run("convert", "hf-to-consolidated", *arguments)


@pytest.fixture
def to_hf(run: Run) -> Run:
    """Run `mmfmt convert consolidated-to-hf` with the given arguments."""
    return lambda *arguments: run("convert", "consolidated-to-hf", *arguments)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of this test's own, which huggingface_hub talks to in this process."""
    from huggingface_hub import close_session, constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubServer(tmp_path / "hub", {"hf_writer": True, "hf_reader": False}) as server:
        for name, value in server.constants(tmp_path / "hf-home").items():
            monkeypatch.setattr(constants, name, value)
        yield server
        close_session()  # one that a test made impatient is no other's
