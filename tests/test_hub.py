"""Repos on the Hub, against a local server that huggingface_hub takes for one."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, constants, snapshot_download
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmfmt.errors import MmfmtError
from mmfmt.header import read_header
from mmfmt.hub import HEAD_BYTES, HubRepo, hub_repo
from mmfmt.repo import Repo as Repository
from mmfmt.storage import Folder
from mmfmt.verify.run import verify
from tests.damage import set_field
from tests.hub_server import Fault, HubServer
from tests.hub_store import Repo
from tests.repos import good_repo

ORG = "org/tiny"
SHARDS = tuple(f"consolidated-0000{i}-of-00002.safetensors" for i in (1, 2))
SHARD_BYTES = 8 << 20
TOKEN = "hf_reader"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A consolidated set in two shards of 8 MiB, with small files beside and below it."""
    folder = tmp_path_factory.mktemp("repo")
    for layer, shard in enumerate(SHARDS):
        weight = np.full((SHARD_BYTES // 1024, 512), layer, dtype=np.float16)
        save_file({f"layers.{layer}.attention.wq.weight": weight}, folder / shard)
    (folder / "params.json").write_text('{"dim": 512}\n')
    (folder / "empty.txt").touch()
    (folder / "docs" / "deep").mkdir(parents=True)
    (folder / "docs" / "deep" / "a file.md").write_text("# é\n", encoding="utf-8")
    return folder


@pytest.fixture
def repo(hub: HubServer, folder: Path) -> Repo:
    return hub.add(ORG, folder)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once, and no answer is waited for longer than a blink."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)


def refusal(storage: HubRepo, name: str = "params.json") -> str:
    """The one line that reading a file is refused with; it never shows a token."""
    with pytest.raises(MmfmtError) as caught:
        storage.read(name)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("hf://org/")
    assert "hf_" not in line
    return line


# the server is one that huggingface_hub's own client understands


def test_huggingface_hub_lists_and_downloads_from_the_server(
    hub: HubServer, repo: Repo, folder: Path
) -> None:
    hub.page = 2
    api, found = HfApi(), Folder(folder).sizes
    assert sorted(api.list_repo_files(ORG)) == sorted(found)
    siblings = api.model_info(ORG, files_metadata=True).siblings
    assert {file.rfilename: file.size for file in siblings or ()} == found
    (info,) = api.get_paths_info(ORG, [SHARDS[0]])
    assert info.size == found[SHARDS[0]]  # type: ignore[union-attr]
    copy = snapshot_download(ORG)
    for name in found:
        assert Path(copy, name).read_bytes() == (folder / name).read_bytes()


def test_folders_are_listed_one_level_at_a_time(repo: Repo) -> None:
    assert [e.path for e in HfApi().list_repo_tree(ORG, "docs")] == ["docs/deep"]
    assert [e.path for e in HfApi().list_repo_tree(ORG, "docs", recursive=True)] == [
        "docs/deep",
        "docs/deep/a file.md",
    ]


# listing and reading


@pytest.mark.parametrize("page", [1000, 2])
def test_the_listing_is_that_of_the_folder(
    hub: HubServer, repo: Repo, folder: Path, page: int
) -> None:
    hub.page = page
    assert HubRepo(ORG).sizes == Folder(folder).sizes
    assert len(hub.served("GET .*/tree/")) == (1 if page == 1000 else 4)


@settings(max_examples=20)
@given(data=st.data())
def test_any_range_reads_as_from_the_folder(
    data: st.DataObject, hub: HubServer, repo: Repo, folder: Path
) -> None:
    local, remote = Folder(folder), HubRepo(ORG)
    name = data.draw(st.sampled_from(sorted(local.sizes)))
    edges = [0, 8, HEAD_BYTES, SHARD_BYTES, local.sizes[name]]
    place = st.sampled_from(edges).flatmap(lambda at: st.integers(max(0, at - 2), at + 2))
    for _ in range(3):
        start, stop = data.draw(place), data.draw(place | st.none())
        stop = stop if stop is None else max(stop, start)
        assert remote.read(name, start, stop) == local.read(name, start, stop)


def test_headers_are_read_without_the_weights(hub: HubServer, repo: Repo, folder: Path) -> None:
    storage = hub_repo(f"hf://{ORG}")
    for shard in SHARDS:
        header = read_header(storage, shard)
        theirs = HfApi().parse_safetensors_file_metadata(ORG, shard).tensors
        assert {n: (t.dtype, t.shape) for n, t in theirs.items()} == {
            n: (t.dtype, list(t.shape)) for n, t in header.tensors.items()
        }
        ours = [r for r in hub.served(f"/objects/.*{shard}") if r.range != "bytes=0-100000"]
        assert [r.sent for r in ours] == [HEAD_BYTES]
    assert hub.sent() < 2 * SHARD_BYTES // 20


def test_the_verifier_says_the_same_of_a_remote_repo(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(good_repo("sharded"), folder)
    set_field("config.json", "text_config.head_dim", 24)(folder)
    hub.add(ORG, folder)
    local, remote = (verify(Repository(s)) for s in (Folder(folder), HubRepo(ORG)))
    assert remote.findings == local.findings != ()
    shards = {r.path for r in hub.served("/objects/")}
    assert len(shards) == 5
    assert all(hub.sent(path) == HEAD_BYTES for path in shards)


def test_a_long_header_takes_one_more_request_for_its_rest(hub: HubServer, tmp_path: Path) -> None:
    save_file({f"{i:0200}": np.zeros(1, np.int8) for i in range(2000)}, tmp_path / "m.safetensors")
    hub.add(ORG, tmp_path)
    header = read_header(HubRepo(ORG), "m.safetensors")
    assert header.data_start > HEAD_BYTES
    ranges = [f"bytes=0-{HEAD_BYTES - 1}", f"bytes={HEAD_BYTES}-{header.data_start - 1}"]
    assert [r.range for r in hub.served("/objects/")] == ranges
    assert hub.sent("/objects/") == header.data_start


def test_nothing_is_asked_for_beyond_the_end(hub: HubServer, repo: Repo) -> None:
    storage = HubRepo(ORG)
    assert storage.sizes
    hub.requests.clear()
    assert storage.read("params.json", 100) == storage.read("empty.txt") == b""
    assert not hub.requests


def test_a_file_is_fetched_into_the_hubs_cache_once(
    hub: HubServer, repo: Repo, folder: Path
) -> None:
    storage = HubRepo(ORG)
    path = storage.fetch("docs/deep/a file.md")
    assert path.read_bytes() == (folder / "docs/deep/a file.md").read_bytes()
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    hub.requests.clear()
    assert storage.fetch("docs/deep/a file.md") == path
    assert not hub.requests
    with pytest.raises(MmfmtError, match=r"absent\.json: is not in the repo"):
        storage.fetch("absent.json")


# revisions and addresses


def test_a_revision_is_one_commit_even_if_the_branch_moves_on(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    storage = HubRepo(ORG)
    assert "params.json" in storage.sizes
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "params.json").write_text("{}")
    old = storage.commit
    hub.add(ORG, tmp_path / "new")
    assert storage.read("params.json") == b'{"dim": 512}\n'
    assert hub_repo(f"hf://{ORG}").read("params.json") == b"{}"
    assert hub_repo(f"hf://{ORG}@{old}").read("params.json") == b'{"dim": 512}\n'


def test_a_commit_is_not_asked_for(hub: HubServer, repo: Repo, folder: Path) -> None:
    commit = repo.branches["main"]
    assert HubRepo(ORG, commit).commit == commit
    assert not hub.requests
    assert HubRepo(ORG, commit).sizes == Folder(folder).sizes
    assert "has no such revision" in refusal(HubRepo(ORG, "0" * 40))


def test_a_copy_in_another_process_is_of_the_same_commit(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    storage = HubRepo(ORG)
    assert storage.sizes
    copy = pickle.loads(pickle.dumps(storage))
    (tmp_path / "params.json").write_text("{}")
    hub.add(ORG, tmp_path)
    assert copy == storage
    assert copy.read("params.json") == b'{"dim": 512}\n'


def test_a_branch_name_may_hold_slashes(repo: Repo) -> None:
    repo.branches["refs/pr/1"] = repo.branches["main"]
    storage = hub_repo(f"hf://{ORG}@refs/pr/1")
    assert storage.label == "hf://org/tiny@refs/pr/1"
    assert storage.read("params.json") == b'{"dim": 512}\n'


@pytest.mark.parametrize(
    "address",
    [
        "org/tiny",
        "hf://tiny",
        "hf://",
        "hf://org/",
        "hf://models/org/tiny",
        "hf://org/tiny/params.json",
        "hf://org/tiny@",
        "hf://org/tiny@a@b",
        "hf://org/tiny@a b",
        "hf://org/../tiny",
        "https://huggingface.co/org/tiny",
    ],
)
def test_only_whole_repos_have_an_address(address: str) -> None:
    with pytest.raises(MmfmtError, match=r"write hf://org/name\[@revision\]"):
        hub_repo(address)


@pytest.mark.parametrize("address", ["hf://org/tiny/", "hf://org/tiny@main/"])
def test_a_slash_at_the_end_of_an_address_means_nothing(address: str) -> None:
    assert hub_repo(address) == HubRepo("org/tiny", "main")


# refusals


def test_what_is_not_there_is_said(hub: HubServer, repo: Repo) -> None:
    assert "is not there, or private (check the spelling" in refusal(HubRepo("org/absent"))
    assert "tiny@v9: has no such revision" in refusal(HubRepo(ORG, "v9"))
    assert "absent.json: is not in the repo" in refusal(HubRepo(ORG), "absent.json")
    assert "is not there, or private" in refusal(HubRepo("org/ti--ny"))


@pytest.mark.parametrize("kind", [{"gated": True}, {"private": True}])
@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_closed_repo_asks_for_a_log_in(
    hub: HubServer,
    folder: Path,
    kind: dict[str, bool],
    token: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = hub.add(ORG, folder, **kind)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    line = refusal(HubRepo(ORG))
    assert ("is gated" if "gated" in kind else "or private") in line
    assert "log in with `hf auth login`" in line
    closed.readers.add(TOKEN)
    if token:
        assert HubRepo(ORG).read("params.json") == b'{"dim": 512}\n'


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(
    hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    HubRepo(ORG).read(SHARDS[0], 0, 8)
    assert {r.token for r in hub.served("/api/|/resolve/")} == {TOKEN}
    assert {r.token for r in hub.served("/objects/")} == {None}


def test_a_wrong_token_is_said(hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "log in with `hf auth login`, or unset HF_TOKEN" in refusal(HubRepo(ORG))


@pytest.mark.parametrize("status", [401, 403, 404, 418, 429, 500])
def test_every_other_answer_is_one_line(
    hub: HubServer, repo: Repo, status: int, impatient: None
) -> None:
    hub.faults.append(Fault("resolve", times=99, status=status))
    assert refusal(HubRepo(ORG)).startswith(f"hf://{ORG}@main/params.json: ")
    assert len(hub.served("resolve")) == (6 if status in (429, 500) else 1)


def test_offline_mode_is_said(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal(HubRepo(ORG))


def test_a_hub_out_of_reach_is_said(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "is out of reach" in refusal(HubRepo(ORG))
    monkeypatch.setattr(constants, "ENDPOINT", "nowhere")
    assert "check the connection and HF_ENDPOINT" in refusal(HubRepo(ORG))


@pytest.mark.parametrize("path", ["revision", "tree"])
@pytest.mark.parametrize("body", [b"<html>", b"{}", b"7", b"[7]", b'[{"type": "file", "size": 1}]'])
def test_an_answer_that_is_not_the_hubs_is_said(
    hub: HubServer, repo: Repo, path: str, body: bytes
) -> None:
    hub.faults.append(Fault(path, status=200, body=body))
    assert "was not answered by a Hub" in refusal(HubRepo(ORG))


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "a/../b", "a//b", "./a", "a/", "", "a\\b", "a\nb", "a\0b"]
)
def test_a_listing_that_leads_out_of_the_repo_is_refused(
    hub: HubServer, repo: Repo, name: str
) -> None:
    listing = json.dumps([{"type": "file", "path": name, "size": 1, "oid": ""}])
    hub.faults.append(Fault("tree", status=200, body=listing.encode()))
    assert "leads out of the repo" in refusal(HubRepo(ORG))


# trouble on the way


@pytest.mark.parametrize("path", ["revision", "tree", "resolve", "objects"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"stall": 2}, {"cut_after": 0}])
def test_passing_trouble_is_waited_out(
    hub: HubServer,
    repo: Repo,
    folder: Path,
    path: str,
    fault: dict[str, int],
    impatient: None,
) -> None:
    hub.faults.append(Fault(f"GET .*{path}", times=2, **fault))  # type: ignore[arg-type]
    name = SHARDS[0] if path == "objects" else "params.json"
    assert HubRepo(ORG).read(name, 0, 100) == (folder / name).read_bytes()[:100]
    assert not hub.faults[0].times


def test_what_came_before_a_cut_is_not_asked_for_again(
    hub: HubServer, repo: Repo, folder: Path, impatient: None
) -> None:
    hub.faults.append(Fault("objects", times=3, cut_after=1_000_000))
    assert HubRepo(ORG).read(SHARDS[0]) == (folder / SHARDS[0]).read_bytes()
    assert hub.sent("objects") == (folder / SHARDS[0]).stat().st_size
    hub.faults.append(Fault("objects", times=99, cut_after=0))
    assert "cut off 6 times in a row at byte 0" in refusal(HubRepo(ORG), SHARDS[0])


def test_a_server_without_ranges_is_not_read_to_the_end(hub: HubServer, tmp_path: Path) -> None:
    with (tmp_path / "consolidated.safetensors").open("wb") as file:
        file.truncate(64 << 20)
    (tmp_path / "params.json").write_text("{}")
    hub.add(ORG, tmp_path)
    hub.ranges = False
    storage = HubRepo(ORG)
    assert storage.read("consolidated.safetensors", 0, 8) == bytes(8)
    with pytest.raises(MmfmtError, match="is not served in ranges: bytes 300000-399999 were"):
        storage.read("consolidated.safetensors", 300_000, 400_000)
    # what the sockets' buffers hold is on its way
    assert hub.sent("objects") < 32 << 20
    assert storage.read("params.json") == b"{}"


def test_the_environment_names_the_hub(hub: HubServer, repo: Repo, tmp_path: Path) -> None:
    code = f"from mmfmt.hub import hub_repo; print(hub_repo('hf://{ORG}').read('params.json'))"
    environment = {**os.environ, **hub.environment(tmp_path / "home")}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert out.stdout.strip() == repr(b'{"dim": 512}\n').encode(), out.stderr
