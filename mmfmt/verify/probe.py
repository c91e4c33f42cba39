"""What a repo's own users get: its tokenizers and processor loaded by their real loaders.

They run in a process of its own, offline and with a time limit, so that a hostile file can
neither hang nor crash a verification, which itself never imports transformers.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from mmfmt.errors import MissingPackageError

PROGRAM = Path(__file__).with_name("probe_main.py")
TIMEOUT_SECONDS = 120.0
INSTALL = "pip install 'mmfmt[hf]'"

# no network, no telemetry, no bars; one thread, whose stacks the memory limit counts
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
AUTO, FAST, PROCESSOR = "AutoTokenizer", "AutoTokenizer(mistral_format=False)", "AutoProcessor"
NATIVE = "mistral-common"


@dataclass(frozen=True)
class Answer:
    """Token ids that a loader's object gave, or the first line of why it did not.

    `missing`: for want of a package on this machine, not by the repo's fault.
    """

    ids: tuple[int, ...]
    error: str
    missing: bool


@dataclass(frozen=True)
class Load:
    """What a loader made: its class, a processor's tokenizer class, or an error as in `Answer`."""

    name: str
    tokenizer: str
    error: str
    missing: bool


@dataclass(frozen=True)
class Pair:
    """One input answered by mistral-common and by transformers; None where one is not there.

    `what` is an image's (width, height) in pixels, or the name of a chat.
    """

    what: Any
    native: Answer | None
    hf: Answer | None


@dataclass(frozen=True)
class Probe:
    """Everything that was answered; what could not be asked is left out.

    `crash` says how the process ended where it gave no answer at all.
    """

    crash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, Load] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    split: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Added tokens that do not encode to their own id, with what they encode to."""
    images: tuple[Pair, ...] = ()
    chats: tuple[Pair, ...] = ()
    mismatch: str = ""
    """What PixtralProcessor says over AutoTokenizer's pick, where that is mistral-common's."""

    def picked(self, loader: str) -> str | None:
        """The class that a loader picked; None where it did not run, or failed."""
        load = self.loads.get(loader)
        return load.name if load and load.name else None


class Loaders:
    """The loaders at work on a folder of tokenizer, processor and config files, beside us.

    Weights are not needed. `timeout` is in seconds from the start.
    """

    def __init__(self, folder: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        # -P: no module of the current folder is imported
        command = [sys.executable, "-P", str(PROGRAM), str(folder.absolute())]
        self._timeout, self._end = timeout, monotonic() + timeout
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
        )

    def answer(self) -> Probe:
        """What they made of it, once they are done."""
        try:
            out, err = self._process.communicate(timeout=max(self._end - monotonic(), 0))
        except subprocess.TimeoutExpired:
            return Probe(crash=f"no answer within {self._timeout:.0f} s")
        code = self._process.returncode
        return Probe(crash=_last_words(code, err)) if code else read(out)

    def stop(self) -> None:
        """End the process if it still runs."""
        with self._process:
            self._process.kill()


def run(folder: Path, timeout: float = TIMEOUT_SECONDS) -> Probe:
    """What the loaders make of a folder."""
    loaders = Loaders(folder, timeout)
    try:
        return loaders.answer()
    finally:
        loaders.stop()


def _last_words(code: int, said: bytes) -> str:
    if code < 0:
        return f"killed by signal {-code}"
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {code}"


def read(content: bytes) -> Probe:
    """The report of `probe_main`."""
    report: Mapping[str, Any] = json.loads(content)
    loads = {
        name: Load(row["class"], row["tokenizer"], row["error"], row["missing"])
        for name, row in report["loads"].items()
    }
    return Probe(
        versions=report["versions"],
        loads=loads,
        faults=report["faults"],
        split={token: tuple(ids) for token, ids in report.get("split", {}).items()},
        images=tuple(
            Pair(tuple(row["size"]), _answer(row["native"]), _answer(row["processor"]))
            for row in report.get("images", [])
        ),
        chats=tuple(
            Pair(row["chat"], _answer(row["native"]), _answer(row["fast"]))
            for row in report.get("chats", [])
        ),
        mismatch=report.get("mismatch", ""),
    )


def _answer(row: Mapping[str, Any] | None) -> Answer | None:
    return Answer(tuple(row["ids"]), row["error"], row["missing"]) if row else None


def require(place: str, answer: Answer | Load | None) -> None:
    """MissingPackageError where an answer is missing for want of a package."""
    if answer and answer.missing:
        raise MissingPackageError(place, f"cannot be loaded here: {answer.error}", INSTALL)
