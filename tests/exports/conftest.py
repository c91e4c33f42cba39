"""Makes the exports, once a run: each tool in the environment of setup_exports.sh."""

import os
import subprocess
from pathlib import Path

import pytest

from .sources import make_sources

HERE = Path(__file__).parent
SCRIPTS = ("export_llm_compressor.py", "export_auto_round.py")
# nothing is downloaded; each tool has one of two cores
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repo for each export, exactly as the tool left it."""
    python = os.environ.get("MMFMT_EXPORT_PYTHON")
    if not python:
        pytest.fail("MMFMT_EXPORT_PYTHON names no python (see setup_exports.sh)")
    folder = tmp_path_factory.mktemp("exports")
    make_sources(folder / "sources")
    (folder / "repos").mkdir()
    running = [start(python, script, folder) for script in SCRIPTS]
    for script, process in zip(SCRIPTS, running, strict=True):
        if process.wait():
            pytest.fail(f"{script}:\n{log_of(script, folder).read_text()[-5000:]}")
    return folder / "repos"


def start(python: str, script: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a tool, with its output in a file."""
    command = [python, str(HERE / script), str(folder / "sources"), str(folder / "repos")]
    with log_of(script, folder).open("wb") as log:
        environment = {**os.environ, **ENVIRONMENT}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def log_of(script: str, folder: Path) -> Path:
    return folder / f"{script}.log"
