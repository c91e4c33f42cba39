"""Uploads file by file that one commit publishes, to a local server taken for the Hub."""

import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, snapshot_download

from mmfmt.errors import MmfmtError
from mmfmt.hub import HubRepo, target_sizes
from mmfmt.upload import Sent, commit_sent, prepare_push, send
from tests.hub_server import Fault, HubServer

NAME = "me/tiny"
SHARDS = {f"model-0000{i}-of-00003.safetensors": bytes([i]) * 300_000 for i in (1, 2, 3)}
SMALL = {"config.json": b"{}", "docs/a file.md": "é".encode(), "empty.txt": b""}
INFO = f"GET /api/models/{NAME}$"
LARGE_TEXT = {"tokenizer.json": b" " * (11 << 20)}


@pytest.fixture(autouse=True)
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token that may write, and retries that come at once."""
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Path]:
    """The files that are committed along, of which one goes to LFS."""
    folder = tmp_path / "small"
    for name, content in (SMALL | LARGE_TEXT).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {name: folder / name for name in SMALL | LARGE_TEXT}


def send_all(folder: Path, shards: dict[str, bytes] = SHARDS) -> dict[str, Sent]:
    """Send shards one by one, and keep none of them."""
    sent, path = {}, folder / "shard"
    for name, content in shards.items():
        path.write_bytes(content)
        sent[name] = send(NAME, name, path)
        path.unlink()
    return sent


def published() -> dict[str, bytes]:
    """What anyone gets who downloads the repo."""
    copy = Path(snapshot_download(NAME))
    found = {p.relative_to(copy).as_posix(): p for p in copy.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != ".gitattributes"}


def commits(hub: HubServer) -> int:
    """Commits of the repo after the one that created it."""
    return len(hub.repos[NAME].commits) - 1


def line_of(caught: "pytest.ExceptionInfo[MmfmtError]") -> str:
    """The one line of a refusal; it never shows a token."""
    line = str(caught.value)
    assert "\n" not in line
    assert "hf_" not in line
    return line


def commit(sent: dict[str, Sent], files: dict[str, Path], deletes: Any = ()) -> str:
    return commit_sent(NAME, sent, files, deletes, "Converted")


# what is published


def test_what_was_sent_is_published_by_one_commit(
    hub: HubServer, tmp_path: Path, small: dict[str, Path]
) -> None:
    prepare_push(NAME, None)
    sent = send_all(tmp_path)
    assert sent == {name: (len(c), sha256(c).hexdigest()) for name, c in SHARDS.items()}
    assert published() == {}
    assert commits(hub) == 0
    url = commit(sent, small)
    assert url == f"{hub.url}/{NAME}/commit/{HfApi().model_info(NAME).sha}"
    assert published() == SHARDS | SMALL | LARGE_TEXT
    assert hub.repos[NAME].messages[1:] == ["Converted"]
    # each content went over the network once
    assert len(hub.served("PUT ")) == len(SHARDS) + len(LARGE_TEXT)


def test_another_process_commits_what_was_sent(
    hub: HubServer, tmp_path: Path, small: dict[str, Path]
) -> None:
    prepare_push(NAME, None)
    sent = send_all(tmp_path)
    hub.requests.clear()
    code = f"""if True:
        from pathlib import Path, PosixPath
        from mmfmt.upload import commit_sent
        print(commit_sent({NAME!r}, {sent!r}, {small!r}, [], "Later"))"""
    environment = {**os.environ, **hub.environment(tmp_path / "home")}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert out.stdout.decode().startswith(f"{hub.url}/{NAME}/commit/"), out.stderr
    assert published() == SHARDS | SMALL | LARGE_TEXT
    assert len(hub.served("PUT ")) == len(LARGE_TEXT)


def test_deletes_are_gone_and_other_files_stay(
    hub: HubServer, tmp_path: Path, small: dict[str, Path]
) -> None:
    prepare_push(NAME, None)
    commit(send_all(tmp_path, {"old.safetensors": b"old", "kept.safetensors": b"kept"}), small)
    deletes = {"old.safetensors", "docs/a file.md", "was-never-there.json"}
    commit(send_all(tmp_path), {}, deletes)
    expected = SHARDS | SMALL | LARGE_TEXT | {"kept.safetensors": b"kept"}
    del expected["docs/a file.md"]
    assert published() == expected
    assert commits(hub) == 2


def test_a_shard_takes_the_place_of_another(hub: HubServer, tmp_path: Path) -> None:
    prepare_push(NAME, None)
    name = next(iter(SHARDS))
    commit(send_all(tmp_path, {name: b"old"}), {})
    assert published() == {name: b"old"}
    commit(send_all(tmp_path, {name: b"new"}), {})
    assert published() == {name: b"new"}


def test_the_repos_own_rules_leave_nothing_out(hub: HubServer, tmp_path: Path) -> None:
    prepare_push(NAME, None)
    names = {"weights.txt": b"a name for small files", "config.json": b"{}"}
    commit(send_all(tmp_path, names), {})
    assert published() == names


def test_a_commit_again_changes_nothing(
    hub: HubServer, tmp_path: Path, small: dict[str, Path]
) -> None:
    prepare_push(NAME, None)
    sent = send_all(tmp_path)
    first = commit(sent, small, ["old.json"])
    hub.requests.clear()
    assert commit(sent, small, ["old.json"]) == first
    assert commits(hub) == 1
    assert not hub.served("PUT |/commit/")


# repos


def test_the_repo_is_made_as_asked_and_kept_as_it_is(hub: HubServer) -> None:
    assert target_sizes(NAME) == {}
    prepare_push(NAME, True)
    assert hub.repos[NAME].private
    prepare_push(NAME, True)
    prepare_push(NAME, None)
    assert hub.repos[NAME].private
    assert target_sizes(NAME).keys() == {".gitattributes"}
    hub.repos[NAME].private = False
    with pytest.raises(MmfmtError, match="exists already and is public"):
        prepare_push(NAME, True)


def test_a_repo_that_is_not_there_yet_has_no_files(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_push(NAME, None)
    assert target_sizes(NAME) == {".gitattributes": 25}
    assert target_sizes("me/absent") == {}
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert target_sizes("me/absent") == {}
    monkeypatch.delenv("HF_TOKEN")
    assert target_sizes("me/absent") == {}
    hub.repos[NAME].private = True
    assert target_sizes(NAME) == {}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(MmfmtError) as caught:
        target_sizes("me/absent")
    assert "wants a valid token" in line_of(caught)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("token", "said"), [(None, "log in"), ("hf_reader", "may not"), ("hf_wrong", "log in")]
)
def test_a_token_that_may_not_write_is_said_first(
    hub: HubServer, token: str | None, said: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        prepare_push(NAME, None)
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(MmfmtError) as caught:
        prepare_push(NAME, None)
    assert said in line_of(caught)
    assert line_of(caught).startswith(f"hf://{NAME}: ")
    assert there or not hub.repos


# trouble on the way


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(
    hub: HubServer, tmp_path: Path, small: dict[str, Path], status: int
) -> None:
    steps = ("create", "auth-check", "batch", "PUT ", "preupload", INFO, "/tree/", "/commit/")
    hub.faults = [Fault(step, status=status) for step in steps]
    prepare_push(NAME, None)
    commit(send_all(tmp_path), small)
    assert {fault.pattern: fault.times for fault in hub.faults if fault.times} == {}
    assert published() == SHARDS | SMALL | LARGE_TEXT
    assert commits(hub) == 1


@pytest.mark.parametrize("loss", [{"cut_after": 0}, {"stall": 1.5}])
def test_what_was_done_is_not_done_twice_if_the_answer_is_lost(
    hub: HubServer,
    tmp_path: Path,
    small: dict[str, Path],
    loss: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmfmt.upload._SILENCE", 0.5)
    steps = ("create", "auth-check", "batch", "PUT ", "preupload", INFO, "/tree/", "/commit/")
    hub.faults = [Fault(step, **loss) for step in steps]
    prepare_push(NAME, None)
    url = commit(send_all(tmp_path), small, [".gitattributes"])
    assert not any(fault.times for fault in hub.faults)
    assert published() == SHARDS | SMALL | LARGE_TEXT
    assert ".gitattributes" not in target_sizes(NAME)
    assert commits(hub) == 1
    assert url.endswith(hub.repos[NAME].branches["main"])


def test_someone_elses_commit_in_between_stays(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_push(NAME, None)
    sent = send_all(tmp_path)
    record, repo = hub.record, hub.repos[NAME]

    def meanwhile(method: str, path: str, *rest: Any) -> Any:
        if "/commit/" in path and commits(hub) == 0:
            repo.commit({"README.md": hub.put(b"other", False)})
        return record(method, path, *rest)

    monkeypatch.setattr(hub, "record", meanwhile)
    commit(sent, {})
    assert published() == SHARDS | {"README.md": b"other"}
    assert commits(hub) == 2
    # the first was for a repo as it was before
    assert len(hub.served("/commit/")) == 2


@pytest.mark.parametrize("step", [INFO, "/tree/", "preupload", "PUT ", "/commit/"])
def test_nothing_is_published_where_a_commit_fails(
    hub: HubServer, tmp_path: Path, small: dict[str, Path], step: str
) -> None:
    prepare_push(NAME, None)
    sent = send_all(tmp_path)
    hub.faults = [Fault(step, times=999, status=500)]
    with pytest.raises(MmfmtError) as caught:
        commit(sent, small)
    assert "the Hub answers 500" in line_of(caught)
    hub.faults = []
    assert published() == {}
    commit(sent, small)
    assert published() == SHARDS | SMALL | LARGE_TEXT


def test_a_hub_that_falls_silent_is_given_up(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmfmt.upload._SILENCE", 0.2)
    hub.faults = [Fault("create", times=99, stall=60)]
    with pytest.raises(MmfmtError) as caught:
        prepare_push(NAME, None)
    assert "is out of reach: no answer in time (check the connection" in line_of(caught)


def test_a_shard_that_cannot_be_sent_is_named(hub: HubServer, tmp_path: Path) -> None:
    prepare_push(NAME, None)
    hub.faults = [Fault("PUT ", times=99, status=500)]
    with pytest.raises(MmfmtError) as caught:
        send_all(tmp_path)
    name = next(iter(SHARDS))
    assert line_of(caught).startswith(f"hf://{NAME}/{name}: the Hub answers 500")
    assert (tmp_path / "shard").exists()


def test_content_that_is_gone_is_said(hub: HubServer, tmp_path: Path) -> None:
    prepare_push(NAME, None)
    sent = send_all(tmp_path)
    hub.objects.clear()
    with pytest.raises(MmfmtError) as caught:
        commit(sent, {})
    assert "does not have what was sent any more (start over with --force)" in line_of(caught)
    assert published() == {}
    hub.repos.clear()
    with pytest.raises(MmfmtError, match="is not there, or private"):
        commit(sent, {})


def test_a_sent_file_is_read_from_the_hub_as_any_other(hub: HubServer, tmp_path: Path) -> None:
    prepare_push(NAME, None)
    commit(send_all(tmp_path), {})
    assert HubRepo(NAME).sizes.keys() == SHARDS.keys() | {".gitattributes"}
    assert all(HubRepo(NAME).read(name) == content for name, content in SHARDS.items())
