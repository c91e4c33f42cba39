"""Every rule trips on its own defect and on nothing else, and stays silent on good repos."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from mmfmt.repo import open_repo
from mmfmt.schemas import json_schema
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.run import rules_of, verify
from tests.conftest import VERDICT
from tests.damage import drop, set_field
from tests.defects import DEFECTS
from tests.defects.defect import Defect
from tests.defects.files import truncate
from tests.repos import BASE, INDEX, NATIVE, REPOS, ROOT, W4A16, convert, good_repo

# repos whose tokenizers differ: loading each takes seconds
LOADED = ("dual", "bf16", "large", "spm", "native", "mistral")


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.rule} {d.what}")
def test_each_defect_trips_its_rule_only(
    defect: Defect, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    found = defect.found(tmp_path).findings
    record_property(VERDICT, defect.verdict({finding.rule for finding in found}))
    assert {finding.rule for finding in found} == {defect.rule}, found


def test_every_rule_has_a_defect_and_an_explanation() -> None:
    rules = {rule.id: rule for rule in registered_rules()}
    assert {defect.rule for defect in DEFECTS} == rules.keys()
    for rule in rules.values():
        assert "Repair:" in rule.explanation, rule.id


@pytest.mark.parametrize("name", REPOS)
def test_good_repos_are_clean(name: str) -> None:
    """Notes on the row order of random weights are no complaint."""
    rules = [rule for rule in rules_of("bytes") if rule.cost != "loaders" or name in LOADED]
    report = verify(open_repo(good_repo(name)), rules)
    assert [found for found in report.findings if found.level != "note"] == []
    assert report.skipped == ()


def test_row_order_of_another_reader_is_said(tmp_path: Path) -> None:
    convert(W4A16, tmp_path / "out", "--tokenizer-from", BASE, "--reader", "native")
    found = verify(open_repo(tmp_path / "out")).findings
    assert {finding.rule for finding in found} == {"MMF408"}
    names = {f"layers.{layer}.attention.{w}" for layer in range(4) for w in ("wq", "wk")}
    assert {finding.location.rpartition(".")[0] for finding in found} == names


def test_native_only_repo_is_clean(tmp_path: Path) -> None:
    convert(W4A16, tmp_path / "out", "--tokenizer-from", BASE)
    report = verify(open_repo(tmp_path / "out"))
    assert report.findings == () and report.skipped == ()


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m mmfmt`."""
    command = [sys.executable, "-m", "mmfmt", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return result.returncode, result.stdout, result.stderr


def test_exit_codes_and_text(tmp_path: Path) -> None:
    code, out, err = run("verify", good_repo("dual"))
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "who reads what"
    assert out.splitlines()[-1] == f"OK {good_repo('dual')}: 0 errors, 0 warnings"
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    drop(NATIVE, "norm.weight")(repo)
    code, out, _ = run("verify", repo)
    assert code == 1
    assert "error MMF302 missing-module: norm: is missing" in out
    code, out, err = run("verify", tmp_path)
    assert code == 2 and out == "" and err.startswith(f"error: {tmp_path}: holds no checkpoint")


def test_warnings_do_not_fail(tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("sharded"), tmp_path / "repo")
    set_field(INDEX, "metadata.total_size", 1)(repo)
    code, out, _ = run("verify", repo)
    assert code == 0 and "warning MMF105" in out


def test_json_report_keeps_its_schema(tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    drop(NATIVE, "norm.weight")(repo)
    truncate(NATIVE)(shutil.copytree(good_repo("dual"), tmp_path / "cut"))
    for name, code in (("repo", 1), ("cut", 1)):
        found, out, _ = run("verify", tmp_path / name, "--format", "json")
        assert found == code
        body = json.loads(out)
        Draft202012Validator(json_schema("findings")).validate(body)
        assert body["summary"]["errors"] == len(body["findings"]) == 1
    assert body["skipped"], "rules that need the header could not look"


def test_verify_does_not_import_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from mmfmt.repo import open_repo\n"
        "from mmfmt.verify.run import verify\n"
        f"verify(open_repo(Path({str(good_repo('dual'))!r}))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
