"""Reports in every format: official schemas, hostile texts, what a person sees."""

import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt
from rich.console import Console
from xmlschema import XMLSchema

from mmfmt.cli.terminal import console_for
from mmfmt.repo import open_repo
from mmfmt.schemas import json_schema
from mmfmt.verify.consumers import Choice
from mmfmt.verify.findings import Edit, Finding
from mmfmt.verify.gate import Verdict
from mmfmt.verify.options import Expected, Options
from mmfmt.verify.reports import FORMATS, write
from mmfmt.verify.reports.grouping import grouped
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.run import Report, Skipped

SCHEMAS = Path(__file__).parent / "data/schemas"
SARIF = Draft202012Validator(json.loads((SCHEMAS / "sarif-2.1.0.json").read_text()))
JUNIT = XMLSchema(str(SCHEMAS / "junit-10.xsd"))
RULES = {rule.id: rule for rule in registered_rules()}
HOSTILE = "a,b:c%0A\n::error::x|`<img src=x>[l](http://e)\x1b[31m\ud800\x00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with one JSON file, which findings point into."""
    folder = tmp_path_factory.mktemp("repo")
    body = {"dim": 1, "yarn": {"beta": 2, "alpha": 3}, "ignore": ["a", "b"]}
    (folder / "params.json").write_text(json.dumps(body, indent=2))
    return folder


def finding(
    rule: str,
    path: str = "params.json",
    location: str = "",
    message: str = "is wrong",
    fix: str = "",
    fixable: bool = False,
) -> Finding:
    """A finding of a rule at its level."""
    edits = (Edit(path, ("dim",), 2),) if fixable else ()
    known = RULES[rule]
    return Finding(rule, known.name, known.level, path, location, message, fix, edits)


def verdict(folder: Path, *findings: Finding, **options: Any) -> Verdict:
    """The verdict on a repo in which rules found this."""
    skipped = options.pop("skipped", ())
    consumers = options.pop("consumers", ())
    report = Report(str(folder), findings, tuple(skipped), consumers)
    return Verdict(open_repo(folder), Options(**options), report)


def written(format_name: str, judged: Verdict) -> str:
    """The report as it lands in a file."""
    file = StringIO()
    write(judged, format_name, console_for(file=file))
    return file.getvalue()


def layers(count: int, **columns: Any) -> list[Finding]:
    """A finding for each of many layers."""
    names = (f"layers.{layer}.attention.wq" for layer in range(count))
    return [finding("MMF303", "model.safetensors", name, **columns) for name in names]


# every kind of thing that a report shows
def full(folder: Path, **options: Any) -> Verdict:
    findings = (
        *layers(40, message="has 3 rows", fix="export again"),
        finding("MMF105", location="yarn.alpha", fixable=True, fix="write 4"),
        finding("MMF502", HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        finding("MMF408", "consolidated.safetensors"),
    )
    expected = (Expected("MMF408", "consolidated.safetensors", f"on purpose {HOSTILE}"),)
    skipped = (
        Skipped("MMF301", "unknown-tensor", f"cut off {HOSTILE}"),
        Skipped("MMF604", "merges", "transformers is not installed", missing=True),
    )
    notices = ("mmfmt.toml in the repo ignores MMF1",)
    consumers = (
        Choice("AutoProcessor", "TokenizersBackend", "PixtralProcessor", ""),
        Choice("vLLM", "MistralTokenizer", "", "consolidated*.safetensors", f"fails: {HOSTILE}"),
    )
    shown = {"expected": expected, "skipped": skipped, "notices": notices, "consumers": consumers}
    return verdict(folder, *findings, **shown, **options)


def test_findings_of_many_layers_are_one_line(folder: Path) -> None:
    text = written("text", verdict(folder, *layers(40, message="has 3 rows", fix="export again")))
    assert text.splitlines()[:3] == [
        "model.safetensors",
        "  error MMF303 wrong-shape: layers.{0..39}.attention.wq: has 3 rows (40 errors)",
        "    fix: export again",
    ]
    assert text.splitlines()[-1].startswith(f"FAILED {folder}: 40 errors, 0 warnings")


def test_groups_name_what_is_there_only() -> None:
    def group(*places: str) -> list[str]:
        return [g.location for g in grouped(finding("MMF303", location=p) for p in places)]

    assert group("layers.3.w", "layers.1.w", "layers.2.w", "layers.7.w") == ["layers.{1..3,7}.w"]
    assert group("layers.3.w") == ["layers.3.w"]
    assert group("a.1.b", "a.1.c") == ["a.1.b", "a.1.c"]
    assert group("l.0.e.0", "l.0.e.1", "l.1.e.0") == ["l.{0..1}.e.{0..1}"]
    assert group(*(f"l.{2 * n}" for n in range(9))) == ["l.{0,2,4,6,8,...}"]
    paths = [finding("MMF303", f"model-0000{n}-of-00002.safetensors") for n in (1, 2)]
    assert [g.path for g in grouped(paths)] == ["model-{00001..00002}-of-00002.safetensors"]
    assert group("9" * 5000, "8" * 5000)


@given(st.lists(st.tuples(st.sampled_from(sorted(RULES)), st.text(), st.text()), max_size=20))
def test_every_finding_is_in_one_group(parts: list[tuple[str, str, str]]) -> None:
    findings = [finding(rule, location=place, message=text) for rule, place, text in parts]
    groups = grouped(findings)
    members = [member for group in groups for member in group.findings]
    assert sorted(map(repr, members)) == sorted(map(repr, findings))
    assert len({group.shape for group in groups}) == len(groups)
    for group in groups:
        assert group.text.isprintable()


def test_long_lists_are_cut(folder: Path) -> None:
    names = [chr(ord("a") + n) for n in range(20)]
    found = [finding("MMF301", location=f"{name}.weight") for name in names]
    text = written("text", verdict(folder, *found))
    assert text.count("unknown-tensor") == 8
    assert "  and 12 more of MMF301 (--format json lists all)" in text.splitlines()


def test_text_says_all(folder: Path) -> None:
    lines = written("text", full(folder)).splitlines()
    assert "note: mmfmt.toml in the repo ignores MMF1" in lines
    assert "skipped MMF604: transformers is not installed" in lines
    start = lines.index("who reads what")
    assert lines[start + 1] == "  AutoProcessor: TokenizersBackend, PixtralProcessor"
    assert lines[start + 2] == "  vLLM: MistralTokenizer, consolidated*.safetensors"
    assert lines[start + 3].startswith("    fails: a,b")
    assert any(line.startswith("expected MMF408 in consolidated.safetensors: on") for line in lines)
    counts = "41 errors, 1 warning, 1 expected, 2 rules skipped, 1 fixable with --fix"
    assert lines[-1] == f"FAILED {folder}: {counts}"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"fail_on": "warning"}, "1 warning (--fail-on warning)"),
        ({"strict": True, "skipped": (Skipped("MMF604", "merges", "x", True),)}, "--strict"),
        ({"skipped": (Skipped("MMF604", "merges", "x"),)}, "kept 1 rule from looking"),
    ],
)
def test_verdict_says_why_without_errors(folder: Path, options: dict[str, Any], why: str) -> None:
    judged = verdict(folder, finding("MMF105"), **options)
    line = written("text", judged).splitlines()[-1]
    assert line.startswith("FAILED")
    assert why in line
    assert why in written("junit", judged)
    plain = {**options, "fail_on": "error", "strict": False, "skipped": ()}
    assert not verdict(folder, finding("MMF105"), **plain).failures


def terminal(judged: Verdict, **environ: str) -> str:
    """What is sent to a terminal of 100 columns."""
    file = StringIO()
    environ = {"TERM": "xterm-256color", "COLUMNS": "100", **environ}
    write(judged, "text", Console(file=file, force_terminal=True, markup=False, _environ=environ))
    return file.getvalue()


def test_colours_on_terminals_only(folder: Path) -> None:
    coloured = terminal(full(folder))
    assert "\x1b[1;31merror\x1b[0m" in coloured
    # bold stays without colour
    assert not re.search(r"\x1b\[[0-9;]*3\d", terminal(full(folder), NO_COLOR="1"))
    assert "\x1b" not in written("text", full(folder))


def test_hostile_texts_stay_on_their_line(folder: Path) -> None:
    for format_name in ("text", "github", "markdown"):
        text = written(format_name, full(folder))
        assert all(line.isprintable() for line in text.splitlines()), format_name
    assert "x\x1b[31m" not in terminal(full(folder))


def test_json_keeps_its_schema(folder: Path) -> None:
    body = json.loads(written("json", full(folder)))
    Draft202012Validator(json_schema("findings")).validate(body)
    assert len(body["findings"]) == 42
    assert body["summary"] == {"errors": 41, "warnings": 1, "notes": 0}
    assert [entry["rule"] for entry in body["expected"]] == ["MMF408"]
    assert body["passed"] is False
    assert [choice["consumer"] for choice in body["consumers"]] == ["AutoProcessor", "vLLM"]
    assert body["rules"] == [rule.id for rule in full(folder).options.rules]


def test_sarif_keeps_the_official_schema(folder: Path) -> None:
    body = json.loads(written("sarif", full(folder)))
    SARIF.validate(body)
    (run,) = body["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] >= 1
        assert place["artifactLocation"]["uri"]
    by_rule = {result["ruleId"]: result for result in run["results"]}
    assert by_rule["MMF303"]["occurrenceCount"] == 40
    assert by_rule["MMF408"]["suppressions"][0]["kind"] == "external"
    assert by_rule["MMF105"]["locations"][0]["physicalLocation"]["region"]["startLine"] == 5
    (invocation,) = run["invocations"]
    assert "ignores MMF1" in str(invocation["toolConfigurationNotifications"])
    assert len(invocation["toolExecutionNotifications"]) == 2


def test_sarif_paths_start_at_the_checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def where() -> tuple[str, str]:
        (run,) = json.loads(written("sarif", verdict(folder, finding("MMF502"))))["runs"]
        place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
        return run["originalUriBaseIds"][place["uriBaseId"]]["uri"], place["uri"]

    for here, uri in ((folder, "params.json"), (folder.parent, f"{folder.name}/params.json")):
        monkeypatch.chdir(here)
        assert where() == (f"{here.as_uri()}/", uri)
    monkeypatch.chdir("/usr")
    assert where() == (f"{folder.as_uri()}/", "params.json")


def test_sarif_fingerprints_are_stable(folder: Path) -> None:
    def prints(*found: Finding) -> list[str]:
        (run,) = json.loads(written("sarif", verdict(folder, *found)))["runs"]
        return [result["partialFingerprints"]["mmfmt/v1"] for result in run["results"]]

    before = prints(*layers(40), finding("MMF502"))
    assert prints(finding("MMF502"), *layers(39)) == before[::-1]
    assert len(set(before)) == 2


def test_junit_keeps_jenkins_schema(folder: Path) -> None:
    text = written("junit", full(folder))
    JUNIT.validate(text)
    suite = ElementTree.fromstring(text)[0]
    cases = {case.get("classname"): case for case in suite.iter("testcase")}
    assert len(cases) == int(suite.get("tests", "")) == len(full(folder).options.rules)
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failed == {"mmfmt.MMF303", "mmfmt.MMF502"}
    assert suite.get("failures") == "2"
    assert suite.get("skipped") == "2"
    assert "is wrong" in (cases["mmfmt.MMF105"].findtext("system-out") or "")
    assert "ignores MMF1" in text
    strict = ElementTree.fromstring(written("junit", full(folder, strict=True)))[0]
    assert strict.get("errors") == "2"


def commands(text: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Workflow commands, parsed and unescaped as ActionCommand of actions/runner does it."""
    for line in text.splitlines():
        if line.startswith("::"):
            head, _, data = line[2:].partition("::")
            name, _, rest = head.partition(" ")
            pairs = (pair.partition("=") for pair in rest.split(","))
            yield name, {key: unescaped(value) for key, _, value in pairs}, unescaped(data)


def unescaped(text: str) -> str:
    for code, plain in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, plain)
    return text


def test_github_commands(folder: Path) -> None:
    found = list(commands(written("github", full(folder))))
    names = [name for name, _, _ in found]
    assert names == ["error", "error", "warning", "notice", "notice", "warning"]
    _, properties, message = found[2]
    assert properties == {
        "title": "mmfmt (MMF105 index-total-size)",
        "file": f"{folder}/params.json",
        "line": "5",
    }
    assert message == "yarn.alpha: is wrong (fix: write 4)"
    hostile = found[1][1]["file"]
    assert hostile.startswith(f"{folder}/a,b:c%0A\\n::error::x|`<img")


def test_markdown_shows_hostile_texts_as_they_are(folder: Path) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(written("markdown", full(folder)))
    inner = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inner)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open"}
    assert "table_open" in kinds
    code = [child.content for child in inner if child.type == "code_inline"]
    assert "layers.{0..39}.attention.wq" in code
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type in ("td_open", "th_open")]
    # three rows are of the table of consumers, which has five columns
    assert len(cells) == 4 * (len(rows) - 3) + 5 * 3


TEXT = st.text(st.characters(), max_size=30)
FAMILY = sorted(rule for rule in RULES if rule.startswith("MMF1"))
FINDINGS = st.builds(
    finding, st.sampled_from(FAMILY), TEXT.filter(bool), TEXT, TEXT, TEXT, st.booleans()
)


@given(st.lists(FINDINGS, max_size=6))
def test_any_text_keeps_every_format_valid(folder: Path, findings: list[Finding]) -> None:
    judged = verdict(folder, *findings, select=("MMF1",), level="bytes")
    texts = {name: written(name, judged) for name in FORMATS}
    for text in texts.values():
        text.encode()
    SARIF.validate(json.loads(texts["sarif"]))
    JUNIT.validate(texts["junit"])
    Draft202012Validator(json_schema("findings")).validate(json.loads(texts["json"]))
    assert len(texts["github"].splitlines()) == len(grouped(findings)) + 1
