"""What must hold of every verification, whatever the repo."""

import io
import json
import resource
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import NoReturn

from jsonschema import Draft202012Validator
from rich.console import Console

from mmfmt.errors import MmfmtError, printable
from mmfmt.repo import Repo
from mmfmt.schemas import json_schema
from mmfmt.verify.findings import Rule
from mmfmt.verify.gate import Verdict
from mmfmt.verify.options import read_options
from mmfmt.verify.reports import write
from mmfmt.verify.run import Report, verify
from tests.fuzz.memory import Files, Memory

# CPU seconds; a good repo takes hundredths
PATIENCE = 3.0
# bytes of address space beyond what the process has when a case begins
MEMORY = 1 << 30
_LONGEST = 5_000
_MOST_FINDINGS = 2_000


class TooSlowError(BaseException):
    """Raised in the middle of what takes too long; no `except Exception` holds it up."""


class HarmError(AssertionError):
    """What a case has shown to be wrong."""


def judged(files: Files, rules: Iterable[Rule]) -> Verdict | None:
    """The verdict of rules on a repo; None where it is refused.

    HarmError for what no verdict may be, TooSlowError, MemoryError, and whatever verify raises.
    """
    with _limited():
        repo = Repo(Memory(files, scratch()))
        try:
            verdict = Verdict(repo, read_options(repo, {}), verify(repo, rules))
        except MmfmtError as error:
            _check_text(str(error))
            return None
        _check_report(verdict.whole)
        return verdict


@cache
def scratch() -> Path:
    return Path(mkdtemp(prefix="mmfmt-fuzz-"))


@contextmanager
def _limited() -> Iterator[None]:
    """With limits of time and memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_slow(_: int, __: FrameType | None) -> NoReturn:
    raise TooSlowError(f"more than {PATIENCE} seconds")


def _check_report(report: Report) -> None:
    if len(report.findings) > _MOST_FINDINGS:
        raise HarmError(f"{len(report.findings)} findings")
    for finding in report.findings:
        for text in (finding.path, finding.location, finding.message, finding.fix):
            _check_length(text)
    for skipped in report.skipped:
        _check_text(skipped.reason)
    if report.blind:
        raise HarmError(f"no finding says why rules were skipped: {report.skipped}")


def _check_length(text: str) -> None:
    if len(text) > _LONGEST:
        raise HarmError(f"a text of {len(text)} characters: {text[:100]}")


def _check_text(text: str) -> None:
    """Whether text is a line that does a terminal no harm."""
    _check_length(text)
    if text != printable(text):
        raise HarmError(f"not printable: {text!r}")


def check_report(verdict: Verdict, format_name: str) -> None:
    """Whether the report in a format does a terminal and its readers no harm."""
    buffer = io.StringIO()
    write(verdict, format_name, Console(file=buffer, width=200))
    text = buffer.getvalue()
    text.encode()
    for line in text.splitlines():
        if line != printable(line):
            raise HarmError(f"{format_name}: not printable: {line!r}")
    if format_name == "json":
        Draft202012Validator(json_schema("findings")).validate(json.loads(text))
