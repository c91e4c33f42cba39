"""Converts checkpoints with the command line, serves them in vLLM, reports what was measured."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean

import pytest

from . import checkpoints, results
from .results import Result

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
BF16 = TESTS / "data" / "tinystral-bf16"
W4A16 = ROOT / "examples" / "tinystral-w4a16"
TEKKEN = ROOT / "examples" / "tinystral-base"
TASKS = TESTS / "data" / "tasks.jsonl"

ENVIRONMENT = {
    # one process: no worker to start, and functions reach the model without being pickled
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # two threads gain a tenth on models this small, and wait for each other where cores are shared
    "OMP_NUM_THREADS": "1",
}
# What is served of each checkpoint, beside its Hugging Face layout: repository and layout.
BOTH_WAYS = {"consolidated": "mistral", "back": "hf"}
NATIVE = {"native-reader": "mistral"}
SERVED = {
    "W4A16": {**BOTH_WAYS, "dual": "auto", "dual-hf": "hf", **NATIVE}
    | {"vision-rows": "mistral", "apply-scale": "mistral"},
    "BF16": {**BOTH_WAYS, "dual": "auto"},
    "W3A16_ASYM": BOTH_WAYS,
    "W4A16_ASYM": BOTH_WAYS,
    "W8A8": BOTH_WAYS,
    "FP8_DYNAMIC": BOTH_WAYS,
    "FP8_BLOCK": BOTH_WAYS,
    "MXFP8": {**BOTH_WAYS, **NATIVE},
    "NVFP4": {**BOTH_WAYS, **NATIVE},
    "NVFP4A16": BOTH_WAYS,
}
BROKEN = {"native-reader", "vision-rows", "apply-scale"}  # on purpose: tests must see it

Serve = Callable[[str], dict[str, Result]]
Vllm = Callable[..., str]
measured: list[str] = []


def convert(direction: str, source: Path, target: Path | None, *options: str) -> None:
    """Run the converter as a user would."""
    command = [sys.executable, "-m", "mmfmt", "convert", direction, str(source)]
    command += [*([str(target)] if target else []), "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def consolidate(source: Path, target: Path | None = None, reader: str = "vllm") -> None:
    """Make the consolidated set of a checkpoint, in a folder of its own or beside the HF set."""
    options = ("--tokenizer-from", str(TEKKEN), "--reader", reader, "--force")
    convert("hf-to-consolidated", source, target, *options)


def convert_back(source: Path, target: Path) -> None:
    """Take a checkpoint to the consolidated layout, and from there to a HF repo of its own.

    Nothing but the consolidated set is left to make tokenizer, processor and config from.
    """
    between = target.with_name(f"{target.name}-between")
    consolidate(source, between)
    convert("consolidated-to-hf", between, target)


def prepare(kind: str, source: Path, target: Path) -> None:
    """Make one of the repositories that are served: converted, and perhaps broken afterwards."""
    if kind.startswith("dual"):
        shutil.copytree(source, target)
        consolidate(target)
        return
    if kind == "back":
        convert_back(source, target)
        return
    consolidate(source, target, reader="native" if kind == "native-reader" else "vllm")
    if kind == "vision-rows":
        checkpoints.swap_vision_rows(target)
    if kind == "apply-scale":
        checkpoints.flip_apply_scale(target)


def serve_jobs(vllm: Vllm, jobs: dict[str, tuple[str, Path]], folder: Path) -> dict[str, Result]:
    """Serve some (layout, repository) jobs one after another in one fresh process."""
    out = {kind: folder / f"{kind}.json" for kind in jobs}
    arguments = [f"{layout}:{repo}:{out[kind]}" for kind, (layout, repo) in jobs.items()]
    vllm("serve", "--tasks", str(TASKS), *arguments)
    return {kind: results.read(path) for kind, path in out.items()}


def report(checkpoint: str, kind: str, result: Result, hf: Result) -> None:
    """Keep one line for the end of the run."""
    answers = f"{result.text_right:>4}{result.image_right:>7}"
    text, images = results.text_difference(hf, result), results.image_differences(hf, result)
    parameters = len(results.differing_parameters(hf, result))
    kernel = "  *" if result.reference_kernel else ""
    measured.append(
        f"{checkpoint:<14}{kind:<14}{answers}{text:>10.3g}"
        f"{mean(images):>12.3g}{max(images):>11.3g}{parameters:>12}{result.seconds:>9.0f}{kernel}"
    )


@pytest.fixture(scope="session")
def vllm() -> Vllm:
    """Run a module of this folder in vLLM's environment, and give what it prints."""
    python = os.environ.get("MMFMT_VLLM_PYTHON")
    if not python:
        pytest.skip("MMFMT_VLLM_PYTHON does not name a python with vLLM (see setup_vllm.sh)")

    def run(module: str, *arguments: str) -> str:
        command = [python, "-m", f"engine.{module}", *arguments]
        settings = os.environ | ENVIRONMENT
        done = subprocess.run(
            command, cwd=TESTS, env=settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"the engine failed:\n{(done.stdout + done.stderr)[-4000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the Hugging Face repository of a checkpoint, making it on first use."""

    @cache
    def find(checkpoint: str) -> Path:
        if checkpoint in checkpoints.FORMATS:
            target = tmp_path_factory.mktemp(checkpoint) / "hf"
            checkpoints.make(BF16, checkpoint, target)
            return target
        return BF16 if checkpoint == "BF16" else W4A16

    return find


@pytest.fixture(scope="session")
def serve(
    tmp_path_factory: pytest.TempPathFactory, source: Callable[[str], Path], vllm: Vllm
) -> Serve:
    """Give a function that serves every layout of a checkpoint once and remembers the results."""

    @cache
    def serve_all(checkpoint: str) -> dict[str, Result]:
        folder = tmp_path_factory.mktemp("served")
        jobs = {"hf": ("hf", source(checkpoint))}
        for kind, layout in SERVED[checkpoint].items():
            prepare(kind, source(checkpoint), folder / kind)
            jobs[kind] = (layout, folder / kind)
        served = serve_jobs(vllm, jobs, folder)
        for kind, result in served.items():
            report(checkpoint, kind, result, served["hf"])
        return served

    return serve_all


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured; the differences are to the same checkpoint's HF layout."""
    if not measured:
        return
    terminalreporter.section("engine: right answers, log-probability differences to HF layout")
    head = f"{'checkpoint':<14}{'layout':<14}{'text':>4}{'image':>7}"
    terminalreporter.line(
        f"{head}{'text max':>10}{'image mean':>12}{'image max':>11}{'parameters':>12}{'s':>9}"
    )
    for line in measured:
        terminalreporter.line(line)
    if any(line.endswith("*") for line in measured):
        terminalreporter.line("* product in plain torch, as the engine has none for this processor")
        terminalreporter.line("  (reference_kernel.py, emulation.py); its loading is its own.")
