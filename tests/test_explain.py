"""Explanations of the rules, the pages made of them, and a command line that starts fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from mmfmt.verify.docs import FAMILIES, markdown, pages, write_pages
from mmfmt.verify.findings import Rule
from mmfmt.verify.rules import registered_rules
from tests.conftest import Run
from tests.repos import ROOT

DOCS = ROOT / "docs/rules"
RULES = registered_rules()


def test_pages_are_made_from_the_docstrings() -> None:
    """`python -m mmfmt.verify.docs docs/rules` makes them anew."""
    found = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    assert found == pages()


def test_pages_of_rules_that_are_no_more_go(tmp_path: Path) -> None:
    (tmp_path / "MMF999.md").touch()
    (tmp_path / "picture.png").touch()
    write_pages(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "picture.png", *(f"{rule.id}.md" for rule in RULES)}


def test_every_rule_has_a_family_and_a_summary() -> None:
    for rule in RULES:
        assert rule.id[3] in FAMILIES
        assert rule.summary.endswith((".", ").")), rule.id
        assert "Repair:" not in rule.summary, rule.id
        assert len(rule.explanation.split("\n\n")) > 2, rule.id


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_pages_show_what_docstrings_say(rule: Rule) -> None:
    """Names such as `model*.safetensors` or `__metadata__` are no markup of Markdown."""
    tokens = MarkdownIt("commonmark").parse(markdown(rule))
    inner = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inner)}
    assert not kinds & {"html_block", "html_inline", "em_open", "strong_open", "image"}
    gaps = {"softbreak": " ", "hardbreak": " "}
    texts = (
        "".join(child.content or gaps.get(child.type, "") for child in token.children or ())
        for token in tokens
    )
    wanted = rule.explanation.replace("`", "").split()
    assert " ".join(texts).split() == [word for word in wanted if word != "-"]


def test_issues_are_links() -> None:
    links = "".join(markdown(rule) for rule in RULES)
    assert "[vllm#19953](https://github.com/vllm-project/vllm/issues/19953)" in links


def test_explain(run: Run) -> None:
    rule = RULES[0]
    for name in (rule.id, rule.name):
        out = run("explain", name).out
        assert out.startswith(f"{rule.id} {rule.name} ({rule.level}; reads headers")
        assert rule.explanation.split() == out.split("\n", 1)[1].split()
        assert max(map(len, out.splitlines())) <= 100
    family = run("explain", "MMF1").out
    assert [line[:6] for line in family.splitlines() if line.startswith("MMF1")] == [
        rule.id for rule in RULES if rule.id.startswith("MMF1")
    ]


def test_rules_are_listed(run: Run) -> None:
    lines = run("rules").out.splitlines()
    assert len(lines) == len(RULES)
    for line, rule in zip(lines, RULES, strict=True):
        assert line.split()[:4] == [rule.id, rule.name, rule.level, rule.cost]
        assert line.endswith(rule.summary)
    listed = json.loads(run("rules", "--format", "json").out)
    assert [entry["id"] for entry in listed] == [rule.id for rule in RULES]
    assert set(listed[0]) == {"id", "name", "level", "cost", "summary"}


def test_help_names_every_command(run: Run) -> None:
    out = run("--help").out
    for name in ("verify", "inspect", "upload", "explain", "rules", "convert"):
        assert f"\n  {name} " in out
        assert run(name, "--help").code == 0
    assert run("nothing").code == 2


def test_the_command_line_imports_what_it_runs() -> None:
    code = (
        "import sys; from mmfmt.cli import cli\n"
        "cli(['--version'], standalone_mode=False)\n"
        "heavy = {'rich', 'jsonschema_rs', 'numpy', 'huggingface_hub', 'mmfmt.verify'}\n"
        "sys.exit(heavy & sys.modules.keys() or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
