"""Repairs: edits of JSON as text, what is refused, and `mmfmt verify --fix`."""

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmfmt.errors import MmfmtError
from mmfmt.repo import open_repo
from mmfmt.verify.findings import REMOVE, Edit, Finding
from mmfmt.verify.fix import Change, diff, plan_changes, write_changes
from mmfmt.verify.json_text import edited, line_of, members
from tests.conftest import Run
from tests.damage import edit_json, set_field
from tests.hub_server import HubServer
from tests.repos import INDEX, good_repo

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)
)


def bodies(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """JSON objects with at least one of these keys."""
    values = st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(keys, values, min_size=1, max_size=5)


BODIES = bodies(st.text(max_size=4))
STYLES = st.sampled_from(
    [
        {"indent": 2},
        {"indent": 4, "ensure_ascii": False},
        {"indent": "\t"},
        {},
        {"separators": (",", ":")},
    ]
)


def places(body: Any, keys: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys of every value below the top."""
    if not isinstance(body, dict | list):
        return []
    inside = body.items() if isinstance(body, dict) else enumerate(body)
    return [p for key, value in inside for p in ((*keys, key), *places(value, (*keys, key)))]


def plain(text: str) -> bool:
    """Whether nothing in a text is escaped or could be."""
    return text.isascii() and "\\u" not in text


def at(body: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        body = body[key]
    return body


@given(BODIES, STYLES, SCALARS | BODIES, st.data())
def test_a_value_is_replaced_and_nothing_else(
    body: Any, style: Any, value: Any, data: st.DataObject
) -> None:
    text = json.dumps(body, **style) + "\n"
    keys = data.draw(st.sampled_from(places(body)))
    new = edited(text, keys, value)
    wanted = deepcopy(body)
    at(wanted, keys[:-1])[keys[-1]] = value
    assert json.loads(new) == wanted
    back = edited(new, keys, at(body, keys))
    assert json.loads(back) == body
    if plain(text):
        assert back == text


@given(BODIES, STYLES, st.data())
def test_a_member_is_removed_and_added_again(body: Any, style: Any, data: st.DataObject) -> None:
    text = json.dumps(body, **style)
    keys = data.draw(st.sampled_from(places(body)))
    new = edited(text, keys, REMOVE)
    wanted = deepcopy(body)
    del at(wanted, keys[:-1])[keys[-1]]
    assert json.loads(new) == wanted
    holder = at(wanted, keys[:-1])
    assume(isinstance(holder, dict) or keys[-1] == len(holder))
    again = edited(new, keys, at(body, keys))
    assert json.loads(again) == body
    # in the style of the file, if that could still be seen in it
    if list(at(body, keys[:-1]))[-1:] == [keys[-1]] and "\n" in new and plain(text):
        assert again == text


@given(BODIES, STYLES)
def test_members_are_where_json_finds_them(body: Any, style: Any) -> None:
    text = json.dumps(body, **style)
    found = {m.key: json.loads(text[m.value : m.end]) for m in members(text, 0)}
    assert found == body


@given(bodies(st.text("abc", min_size=1, max_size=4)), st.data())
def test_lines_are_those_of_the_keys(body: Any, data: st.DataObject) -> None:
    keys = data.draw(st.sampled_from(places(body)))
    text = json.dumps(body, indent=1, ensure_ascii=False)
    line = line_of(text, ".".join(map(str, keys)))
    marked = edited(text, keys, "here it is")
    assert "here it is" in marked.split("\n")[line - 1]


def test_lines_of_places() -> None:
    text = '{\n "a": {\n  "b.c": [\n   1,\n   2\n  ]\n },\n "d": 1\n}'
    for place, line in {
        "a": 2,
        "a.b.c": 3,
        "a.b.c[1]": 5,
        "a.b.c.0": 4,
        "d": 8,
        "d.e": 8,
        "x": 1,
        "": 1,
    }.items():
        assert line_of(text, place) == line, place


@pytest.mark.parametrize(
    ("text", "keys", "value", "expected"),
    [
        ('{"a": [1, 2]}', ("a", 2), 3, '{"a": [1, 2, 3]}'),
        ('{"a":{}}', ("a", "b"), 3, '{"a":{"b":3}}'),
        ('{\n  "a": {}\n}', ("a", "b"), [1], '{\n  "a": {\n    "b": [\n      1\n    ]\n  }\n}'),
        ('{\r\n\t"a": 1}\r\n', ("a",), 2, '{\r\n\t"a": 2}\r\n'),
        ('{"a": 1.50, "b": 1e-5}', ("b",), REMOVE, '{"a": 1.50}'),
        ('{ "a": 1 }', ("a",), REMOVE, "{}"),
        ('{"\\u00e9": 1}', ("\xe9",), "\xe9", '{"\\u00e9": "\\u00e9"}'),
        ("", (), {"a": 1}, '{\n  "a": 1\n}\n'),
    ],
)
def test_style_stays(text: str, keys: tuple[Any, ...], value: Any, expected: str) -> None:
    assert edited(text, keys, value) == expected


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ('{"a": 1}', ("b", "c"), 1),
        ('{"a": 1}', ("a", "c"), 1),
        ('{"a": [1]}', ("a", 2), 1),
        ('{"a": [1]}', ("a", "b"), 1),
        ('{"a": {}}', ("a", 0), 1),
        ('{"a": 1}', ("b",), REMOVE),
        ('{"a": 1, "a": 2}', ("a",), 3),
        ('{"a": {}, "a": {}}', ("a", "b"), 3),
    ],
)
def test_edits_that_lead_nowhere(text: str, keys: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(LookupError):
        edited(text, keys, value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps({"dim": 1, "list": [0, 1, 2, 3], "x": {}}))
    return folder


def changes(folder: Path, *edits: Edit) -> list[Change]:
    findings = (Finding("MMF502", "x", "error", edit.file, "", "", "", (edit,)) for edit in edits)
    return plan_changes(open_repo(folder), findings)


def edit(keys: tuple[str | int, ...], value: Any, file: str = "params.json") -> Edit:
    return Edit(file, keys, value)


def test_edits_of_several_findings_go_together(folder: Path) -> None:
    (change,) = changes(
        folder,
        edit(("list", 0), REMOVE),
        edit(("dim",), 2),
        edit(("list", 2), REMOVE),
        edit(("list", 3), 9),
        edit(("dim",), 2),
        edit(("x",), {"y": {"z": 1}}),
        edit(("x", "y", "z"), 1),
        edit(("x", "gone"), REMOVE),
    )
    assert json.loads(change.after) == {"dim": 2, "list": [1, 9], "x": {"y": {"z": 1}}}
    assert changes(folder, edit(("dim",), 1)) == []


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([edit(("dim",), 2), edit(("dim",), 3)], "params.json: dim: two rules want different"),
        ([edit(("x",), {"y": 1}), edit(("x", "y"), 2)], "two rules want different"),
        ([edit((), {}), edit(("dim",), 2)], "two rules want different"),
        ([edit(("x",), REMOVE), edit(("x", "y"), 2)], "two rules want different"),
        ([edit(("no", "way"), 2)], "params.json: no.way: cannot be mended here"),
        ([edit(("x", "y"), "\ud800")], "params.json: x.y: cannot be mended here"),
        ([edit((), {}, "model.safetensors")], "model.safetensors: is no JSON file at the top"),
        ([edit((), {}, "../params.json")], "../params.json: is no JSON file at the top"),
        ([edit((), {}, "/tmp/params.json")], "/tmp/params.json: is no JSON file at the top"),
        ([edit((), {}, "deep/params.json")], "deep/params.json: is no JSON file at the top"),
    ],
)
def test_refusals(folder: Path, edits: list[Edit], said: str) -> None:
    with pytest.raises(MmfmtError) as caught:
        changes(folder, *edits)
    assert str(caught.value).startswith(said) or said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    """A snapshot in the Hub's cache links to blobs, which other revisions share."""
    blob = tmp_path / "blob"
    blob.write_text('{"dim": 1}')
    (folder / "config.json").symlink_to(blob)
    with pytest.raises(MmfmtError, match=r"config\.json: is a link"):
        changes(folder, edit(("dim",), 2, "config.json"))
    assert blob.read_text() == '{"dim": 1}'


def test_files_are_replaced_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "params.json").chmod(0o640)
    planned = changes(folder, edit(("dim",), 2), edit((), {"a": 1}, "new.json"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(MmfmtError, match=r"new\.json: cannot be written: No space"):
            write_changes(open_repo(folder), planned)
    assert [path.name for path in folder.iterdir()] == ["params.json"]
    write_changes(open_repo(folder), planned)
    assert json.loads((folder / "params.json").read_text())["dim"] == 2
    assert (folder / "params.json").stat().st_mode & 0o777 == 0o640
    assert json.loads((folder / "new.json").read_text()) == {"a": 1}
    assert len(list(folder.iterdir())) == 2


@given(body=BODIES, value=SCALARS)
def test_diffs_are_what_git_applies(body: Any, value: Any, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("patched")
    text = json.dumps(body, indent=2) + "\n"
    change = Change("a.json", text, edited(text, (next(iter(body)),), value))
    assume(change.after.isprintable() or all(map(str.isprintable, change.after.splitlines())))
    (folder / "a.json").write_text(text)
    lines = "".join(f"{line}\n" for line in diff(change))
    assume(lines)
    command = ["git", "apply", "-"]
    subprocess.run(command, cwd=folder, input=lines, text=True, check=True, capture_output=True)
    assert (folder / "a.json").read_text() == change.after


def test_a_minified_file_is_shown_line_by_line() -> None:
    text = json.dumps({"list": list(range(1000)), "b\u202e": 1})
    lines = list(diff(Change("a.json", text, edited(text, ("list", 500), -1))))
    assert "-    500," in lines
    assert "+    -1," in lines
    assert all(line.isprintable() for line in lines)


def test_fix_mends_and_looks_again(run: Run, tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("sharded"), tmp_path / "repo")
    before = {path.name: path.read_bytes() for path in repo.iterdir()}
    set_field(INDEX, "metadata.total_size", 1)(repo)
    edit_json(INDEX, lambda body: body["weight_map"].pop("norm.weight"))(repo)
    damaged = (repo / INDEX).read_bytes()
    outcome = run("verify", repo, "--level", "header", "--diff")
    assert outcome.code == 1
    assert '+    "norm.weight": "' in outcome.out
    assert (repo / INDEX).read_bytes() == damaged
    outcome = run("verify", repo, "--level", "header", "--fix", "--fail-on", "warning")
    assert outcome.code == 0
    assert '+    "norm.weight": "' in outcome.out
    assert outcome.out.splitlines()[-1] == f"OK {repo}: 0 errors, 0 warnings, 2 fixed"
    after = {path.name: path.read_bytes() for path in repo.iterdir()}
    assert json.loads(after.pop(INDEX)) == json.loads(before.pop(INDEX))
    assert after == before
    outcome = run("verify", repo, "--level", "header", "--diff")
    assert (outcome.code, outcome.out) == (0, "")


def test_fix_leaves_what_it_cannot_mend(run: Run, tmp_path: Path) -> None:
    repo = shutil.copytree(good_repo("sharded"), tmp_path / "repo")
    set_field(INDEX, "metadata.total_size", 1)(repo)
    (repo / "tekken.json").unlink()
    outcome = run("verify", repo, "--level", "header", "--fix", "--format", "json")
    assert outcome.code == 1
    assert '+    "total_size"' in outcome.err
    body = json.loads(outcome.out)
    assert "MMF105" not in {found["rule"] for found in body["findings"]}
    assert body["summary"]["errors"]


def test_fix_of_a_remote_repo_is_refused(run: Run, hub: HubServer) -> None:
    hub.add("org/tiny", good_repo("dual"))
    error = run("verify", "hf://org/tiny", "--fix").error
    assert "hf://org/tiny@main: is not a local folder (download it first)" in error
