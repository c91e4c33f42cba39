"""What is checked and what fails: the command line, the repo's own file, and who wins."""

import json
import shutil
from pathlib import Path

import pytest

from mmfmt.repo import open_repo
from mmfmt.verify.findings import Finding
from mmfmt.verify.options import Expected, Options, read_options
from mmfmt.verify.rules import registered_rules
from tests.conftest import Outcome, Run
from tests.damage import drop, set_field
from tests.hub_server import HubServer
from tests.repos import INDEX, NATIVE, ROOT, good_repo

IDS = [rule.id for rule in registered_rules()]
SIZE = set_field(INDEX, "metadata.total_size", 1)


@pytest.fixture
def verify(run: Run) -> Run:
    """Run `mmfmt verify` without loaders, which would take seconds."""

    def call(*arguments: object) -> Outcome:
        return run("verify", *arguments, "--level", "header")

    return call


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repo with one warning (MMF105)."""
    repo = shutil.copytree(good_repo("sharded"), tmp_path / "repo")
    SIZE(repo)
    return repo


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A repo with one error (MMF302)."""
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    drop(NATIVE, "norm.weight")(repo)
    return repo


def ids(**options: object) -> list[str]:
    return [rule.id for rule in Options(**options).rules]  # type: ignore[arg-type]


def test_selectors_are_ids_beginnings_and_names() -> None:
    header = ids()
    assert set(ids(level="bytes")) == set(IDS) > set(header)
    assert ids(select=("MMF302",)) == ids(select=("missing-module",)) == ["MMF302"]
    assert ids(select=("MMF4",)) == [id for id in header if id.startswith("MMF4")]
    assert ids(ignore=("MMF4", "missing-module")) == [
        id for id in header if not id.startswith("MMF4") and id != "MMF302"
    ]
    assert ids(select=("MMF3", "MMF401"), ignore=("MMF30",)) == ["MMF401"]


def test_unknown_rules_are_errors(run: Run, verify: Run, repo: Path) -> None:
    for name in ("MMF999", "missing-modul", "mmf3", "*"):
        for option in ("--select", "--ignore"):
            error = verify(repo, option, f"MMF1,{name}").error
            assert error.startswith(f"error: {option}: no rule is called {name!r} (")
    assert "did you mean missing-module?" in run("explain", "missing-modul").error


def test_no_rule_left_is_an_error(run: Run, repo: Path) -> None:
    assert "select more or ignore less" in run("verify", repo, "--ignore", "MMF").error
    assert "add --level bytes" in run("verify", repo, "--select", "MMF702").error


def test_command_line(verify: Run, repo: Path) -> None:
    assert verify(repo).code == 0
    assert verify(repo, "--fail-on", "warning").code == 1
    assert verify(repo, "--fail-on", "warning", "--ignore", "MMF105").code == 0
    assert verify(repo, "--fail-on", "warning", "--select", "MMF1", "--select", "MMF2").code
    assert verify(repo, "--fail-on", "warning", "--select", "MMF2, MMF3").code == 0


def test_an_ignored_rule_that_would_say_why_others_cannot_look_leaves_a_failure(
    verify: Run, tmp_path: Path
) -> None:
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    (repo / "params.json").write_text("{")
    assert verify(repo).code == 1
    outcome = verify(repo, "--ignore", "MMF5")
    assert outcome.code == 1
    assert "from looking and no error says why" in outcome.out.splitlines()[-1]


def test_file_of_the_repo(verify: Run, repo: Path) -> None:
    (repo / "mmfmt.toml").write_text('fail-on = "warning"\n')
    assert verify(repo).code == 1
    assert verify(repo, "--isolated").code == 0
    assert verify(repo, "--fail-on", "error").code == 0
    (repo / "mmfmt.toml").write_text('fail-on = "warning"\nignore = ["index-total-size"]\n')
    outcome = verify(repo)
    assert outcome.code == 0
    line = "mmfmt.toml in the repo ignores index-total-size (--isolated leaves it unread)"
    assert f"note: {line}" in outcome.out.splitlines()
    # a selection of the user's own leaves nothing ignored behind his back
    assert verify(repo, "--select", "MMF1").code == 1
    assert "MMF105" in verify(repo, "--ignore", "MMF2").out


def test_pyproject(verify: Run, repo: Path) -> None:
    file = repo / "pyproject.toml"
    file.write_text('[project]\nname = "x"\n[tool.ruff]\nline-length = 1\n')
    assert verify(repo, "--fail-on", "warning").code == 1
    file.write_text('[tool.mmfmt]\nselect = ["MMF1"]\nfail-on = "warning"\n')
    outcome = verify(repo)
    assert outcome.code == 1
    assert "pyproject.toml in the repo lets only MMF1 run" in outcome.out
    (repo / "mmfmt.toml").write_text("")
    assert verify(repo).code == 0


@pytest.mark.parametrize("option", ["text", "json", "sarif", "junit", "github", "markdown"])
def test_a_repo_that_silences_the_gate_is_said_in_every_format(
    verify: Run, bad: Path, option: str
) -> None:
    (bad / "mmfmt.toml").write_text('ignore = ["MMF3"]\n')
    outcome = verify(bad, "--format", option)
    assert outcome.code == 0
    assert "in the repo ignores MMF3" in outcome.out
    assert verify(bad, "--isolated").code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ignored = []", "mmfmt.toml: Additional properties are not allowed ('ignored' was"),
        ('ignore = ["MMF999"]', "mmfmt.toml: ignore: no rule is called 'MMF999'"),
        ('ignore = "MMF1"', 'mmfmt.toml: ignore: "MMF1" is not of type "array"'),
        ('level = "all"', 'mmfmt.toml: level: "all" is not one of'),
        ("strict = 1", 'mmfmt.toml: strict: 1 is not of type "boolean"'),
        ("level = ", "mmfmt.toml: is not valid TOML"),
        ("x = " + "[" * 5000, "mmfmt.toml: is not valid TOML"),
        ("# " + "x" * (1 << 20), "mmfmt.toml: is larger than a megabyte"),
        ('[[expected]]\nrule = "MMF105"\npath = "x"', '"reason" is a required property'),
        (
            '[[expected]]\nrule = "MMF1"\npath = "x"\nreason = "y"',
            "mmfmt.toml: expected[0].rule: 'MMF1' is not one rule",
        ),
    ],
    ids=lambda text: text[:20],
)
def test_bad_files_are_errors(verify: Run, repo: Path, text: str, said: str) -> None:
    (repo / "mmfmt.toml").write_text(text)
    assert said in verify(repo).error
    assert verify(repo, "--isolated").code == 0


def test_bad_bytes_are_an_error(verify: Run, repo: Path) -> None:
    (repo / "mmfmt.toml").write_bytes(b"\xff")
    assert "mmfmt.toml: is not valid TOML" in verify(repo).error
    (repo / "mmfmt.toml").unlink()
    (repo / "pyproject.toml").write_text("[tool]\nmmfmt = 3\n")
    assert 'pyproject.toml: tool.mmfmt: 3 is not of type "object"' in verify(repo).error


EXPECTED = """
[[expected]]
rule = "missing-module"
path = "consolidated.safetensors"
reason = "the norm is folded in"
"""


def test_expected_findings_do_not_count(verify: Run, bad: Path) -> None:
    (bad / "mmfmt.toml").write_text(EXPECTED)
    outcome = verify(bad)
    assert outcome.code == 0
    line = "expected MMF302 in consolidated.safetensors: the norm is folded in"
    assert line in outcome.out.splitlines()
    assert outcome.out.splitlines()[-1] == f"OK {bad}: 0 errors, 0 warnings, 1 expected"
    (entry,) = json.loads(verify(bad, "--format", "json").out)["expected"]
    assert (entry["rule"], entry["reason"]) == ("MMF302", "the norm is folded in")
    assert verify(bad, "--isolated").code == 1
    other = EXPECTED.replace("consolidated", "model")
    (bad / "mmfmt.toml").write_text(other)
    outcome = verify(bad)
    assert outcome.code == 1
    assert "MMF302 in model.safetensors is expected and did not occur" in outcome.out


def test_the_documented_file_is_read(repo: Path) -> None:
    text = (ROOT / "docs/gate.md").read_text()
    (repo / "mmfmt.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    options = read_options(open_repo(repo), {})
    assert options.strict
    assert options.expected[0].rule == "MMF408"


def test_file_gives_every_option(repo: Path) -> None:
    text = 'select = ["MMF1"]\nlevel = "bytes"\nfail-on = "warning"\nstrict = true\n'
    (repo / "mmfmt.toml").write_text(text + EXPECTED)
    options = read_options(open_repo(repo), {})
    entry = Expected("MMF302", "consolidated.safetensors", "the norm is folded in")
    assert (options.select, options.level) == (("MMF1",), "bytes")
    assert (options.fail_on, options.strict, options.expected) == ("warning", True, (entry,))
    found = Finding("MMF302", "missing-module", "error", "consolidated.safetensors", "", "", "")
    assert options.expects(found) == entry


def test_a_file_that_keeps_loaders_from_running_is_said(run: Run, repo: Path) -> None:
    (repo / "mmfmt.toml").write_text('level = "header"\n')
    outcome = run("verify", repo)
    assert "mmfmt.toml in the repo keeps loaders from running" in outcome.out
    rules = json.loads(run("verify", repo, "--format", "json").out)["rules"]
    assert rules == ids(level="header")


def test_file_of_a_remote_repo(verify: Run, bad: Path, hub: HubServer) -> None:
    (bad / "mmfmt.toml").write_text('ignore = ["MMF3"]\n')
    hub.add("org/tiny", bad)
    outcome = verify("hf://org/tiny")
    assert outcome.code == 0
    assert "mmfmt.toml in the repo ignores MMF3" in outcome.out
    assert verify("hf://org/tiny", "--isolated").code == 1
    (bad / "mmfmt.toml").write_text("ignored = []\n")
    hub.add("org/other", bad)
    assert "'ignored' was unexpected" in verify("hf://org/other").error


def test_output_files(verify: Run, repo: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    outcome = verify(repo, "--format", "json", "--output", report)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith(f"OK {repo}: 0 errors, 1 warning")
    assert json.loads(report.read_text())["findings"][0]["rule"] == "MMF105"
    files = ("--output", f"junit={tmp_path / 'a=b.xml'}", "--output", f"sarif={report}")
    outcome = verify(repo, *files)
    assert "warning MMF105" in outcome.out
    assert outcome.err == ""
    assert (tmp_path / "a=b.xml").read_text().startswith("<?xml")
    assert json.loads(report.read_text())["version"] == "2.1.0"
    assert "cannot be written" in verify(repo, "--output", tmp_path / "no" / "x").error


def test_quiet_prints_failures_only(verify: Run, repo: Path) -> None:
    outcome = verify(repo, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    outcome = verify(repo, "--quiet", "--fail-on", "warning")
    assert outcome.code == 1
    assert "MMF105" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [("--level", "header"), ("--level", "bytes", "--select", "MMF3,MMF7")],
)
def test_upload_goes_through_the_gate(
    run: Run,
    verify: Run,
    bad: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    outcome = run("upload", bad, "me/tiny", *arguments)
    assert outcome.code == 1
    assert "MMF302" in outcome.err
    assert outcome.err.splitlines()[-1] == "nothing was uploaded"
    assert not hub.repos
    good = good_repo("dual")
    outcome = run("upload", good, "me/tiny", *arguments)
    assert outcome.code == 0
    assert outcome.out.startswith(f"{hub.url}/me/tiny/commit/")
    assert verify("hf://me/tiny").code == 0


def test_upload_keeps_to_the_options_of_the_repo(
    run: Run, repo: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    (repo / "mmfmt.toml").write_text('fail-on = "warning"\n')
    header = ("--level", "header")
    assert run("upload", repo, "me/tiny", *header).code == 1
    assert not hub.repos
    assert run("upload", repo, "me/tiny", *header, "--fail-on", "error", "--private").code == 0
    assert hub.repos["me/tiny"].private
