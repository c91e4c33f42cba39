"""The gate as other people's CI runs it: GitHub action, pre-commit hook, GitLab job."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.damage import drop
from tests.repos import NATIVE, ROOT, good_repo

ACTION = ROOT / "action.yml"
HOOKS = ".pre-commit-hooks.yaml"
BIN = Path(sys.executable).parent
PATH = f"{BIN}:{os.environ['PATH']}"
BAD = drop(NATIVE, "norm.weight")


def check_schema(name: str, path: Path) -> None:
    """Validate against a schema that check-jsonschema ships."""
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", f"vendor.{name}", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def documented(title: str) -> str:
    """The YAML block under a heading of docs/gate.md."""
    text = (ROOT / "docs/gate.md").read_text()
    found = re.search(rf"^## {title}\n.*?```yaml\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def run_action(repo: Path | str, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the step that verifies as GitHub's runner does, with the inputs' defaults."""
    action = YAML(typ="safe").load(ACTION.read_text())
    values = {name: column["default"] for name, column in action["inputs"].items()}
    values |= {"repo": str(repo), "sarif": str(folder / "mmfmt.sarif"), **inputs}
    step = next(step for step in action["runs"]["steps"] if step["name"] == "Verify")
    env = {key: filled(text, values) for key, text in step["env"].items()}
    env |= {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    env |= {"PATH": PATH, "HOME": str(folder)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)


def filled(text: str, values: dict[str, Any]) -> str:
    """Text with `${{ inputs.name }}` replaced."""
    return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: str(values[found[1]]), text)


def test_action_keeps_its_schema() -> None:
    check_schema("github-actions", ACTION)


def test_action_passes_a_good_repo(tmp_path: Path) -> None:
    result = run_action(good_repo("dual"), tmp_path)
    assert result.returncode == 0, result
    assert (tmp_path / "mmfmt.sarif").exists()
    assert "OK" in (tmp_path / "summary.md").read_text()


def test_action_annotates_a_bad_repo(tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    BAD(repo)
    result = run_action(repo, tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("::error ")
    assert "MMF302" in (tmp_path / "summary.md").read_text()
    assert run_action(repo, tmp_path, args="--ignore MMF302").returncode == 0


def test_action_takes_no_code_from_its_inputs(tmp_path: Path) -> None:
    """A repo name is neither a command nor an option."""
    for name in ("$(touch made)", "; touch made", "--version"):
        assert run_action(name, tmp_path).returncode == 2
    assert not (tmp_path / "made").exists()


def test_gitlab_job_keeps_its_schema(tmp_path: Path) -> None:
    job = documented("GitLab")
    (tmp_path / ".gitlab-ci.yml").write_text(job)
    check_schema("gitlab-ci", tmp_path / ".gitlab-ci.yml")
    assert len(job.splitlines()) == 4, "three lines and the name of the job"


def test_pre_commit_hook(tmp_path: Path) -> None:
    """pre-commit runs the hook in a good and in a bad repo."""
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    project = published(tmp_path / "project")
    git(repo, "init", "-q")
    git(repo, "add", "-A")
    command = [
        str(BIN / "pre-commit"),
        "try-repo",
        str(project),
        "mmfmt-verify",
        "--all-files",
        "-v",
    ]
    env = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "cache"), "PATH": PATH}
    good = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
    assert (good.returncode, "Passed" in good.stdout) == (0, True), good
    BAD(repo)
    bad = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "MMF302" in bad.stdout


def published(folder: Path) -> Path:
    """A repository with the hook; the mmfmt that it runs is the installed one."""
    folder.mkdir()
    hook = (ROOT / HOOKS).read_text()
    assert "language: python" in hook
    (folder / HOOKS).write_text(hook.replace("language: python", "language: system"))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x")
    return folder


def git(folder: Path, *arguments: str) -> None:
    """Run git."""
    subprocess.run(["git", *arguments], cwd=folder, check=True)


@pytest.mark.parametrize("title", ["GitHub", "pre-commit"])
def test_documented_snippets_are_yaml(title: str) -> None:
    assert YAML(typ="safe").load(documented(title))
