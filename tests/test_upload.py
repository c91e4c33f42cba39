"""Uploads, to a local server that huggingface_hub takes for the Hub."""

import time
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from mmfmt.errors import MmfmtError
from mmfmt.hub import HubRepo
from mmfmt.storage import Folder
from mmfmt.upload import upload
from tests.hub_server import Fault, HubServer

NAME = "me/tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of both kinds: in LFS and not, large and empty, deep down, and what stays behind."""
    folder = tmp_path / "repo"
    contents = {
        "params.json": b'{"dim": 64}\n',
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "docs/deep/a file.md": "é".encode(),
        "consolidated.safetensors": bytes(range(256)) * 5000,
        "large.json": b" " * (11 << 20),
        "empty.safetensors": b"",
    }
    behind = (".mmfmt-x1/model.safetensors", ".git/config", ".cache/huggingface/token")
    for name, content in {**contents, **dict.fromkeys(behind, b"stays")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token that may write, and retries that come at once."""
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def refusal(folder: Path, name: str = NAME, private: bool | None = None) -> str:
    """The one line that an upload is refused with; it never shows a token."""
    with pytest.raises(MmfmtError) as caught:
        upload(folder, name, private=private)
    line = str(caught.value)
    assert "\n" not in line
    assert "hf_" not in line
    return line


def test_every_file_arrives_as_it_was_in_one_commit(hub: HubServer, folder: Path) -> None:
    url = upload(folder, NAME, message="Two layouts")
    repo = hub.repos[NAME]
    assert url == f"{hub.url}/{NAME}/commit/{repo.branches['main']}"
    assert repo.messages[1:] == ["Two layouts"]
    assert not repo.private
    files = repo.commits[repo.branches["main"]]
    assert {name for name, blob in files.items() if blob.lfs} == {
        "consolidated.safetensors",
        "large.json",
    }
    copy = Path(snapshot_download(NAME))
    expected = {name for name in Folder(folder).sizes if not name.startswith(".mmfmt-")}
    assert HubRepo(NAME).sizes.keys() == expected | {".gitattributes"}
    for name in expected:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()


def test_many_files_are_one_commit_too(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(600):
        (tmp_path / "many" / f"{number}.json").write_text(str(number))
    upload(tmp_path / "many", NAME)
    assert len(hub.served("POST .*/commit/")) == 1
    assert len(HubRepo(NAME).sizes) == 601


def test_a_second_upload_changes_what_changed(hub: HubServer, folder: Path) -> None:
    first = upload(folder, NAME)
    assert upload(folder, NAME) == first
    assert len(hub.repos[NAME].commits) == 2
    (folder / "params.json").write_text("{}")
    (folder / "large.json").unlink()
    hub.requests.clear()
    assert upload(folder, NAME) != first
    assert not hub.served("PUT")
    assert HubRepo(NAME).read("params.json") == b"{}"
    assert "large.json" in HubRepo(NAME).sizes


def test_a_revision_is_a_branch_made_on_the_way(hub: HubServer, folder: Path) -> None:
    upload(folder, NAME, revision="w4a16")
    repo = hub.repos[NAME]
    assert repo.commits[repo.branches["main"]].keys() == {".gitattributes"}
    assert "params.json" in HubRepo(NAME, "w4a16").sizes
    (folder / "params.json").write_text("{}")
    upload(folder, NAME, revision="w4a16")
    assert HubRepo(NAME, "w4a16").read("params.json") == b"{}"


def test_a_private_upload_never_becomes_public(hub: HubServer, folder: Path) -> None:
    upload(folder, NAME, private=True)
    assert hub.repos[NAME].private
    upload(folder, NAME, private=True)
    hub.repos[NAME].private = False
    (folder / "params.json").write_text("{}")
    assert "exists already and is public" in refusal(folder, private=True)
    assert HubRepo(NAME).read("params.json") == b'{"dim": 64}\n'


def test_nothing_is_published_where_a_step_fails(hub: HubServer, folder: Path) -> None:
    upload(folder, NAME)
    repo = hub.repos[NAME]
    for name in ("params.json", "consolidated.safetensors"):
        (folder / name).write_bytes(b"new")
    before = dict(repo.branches)
    for step in ("POST .*/preupload/", "POST .*/batch", "PUT ", "POST .*/commit/"):
        hub.faults = [Fault(step, times=99, status=500)]
        assert "the Hub answers 500" in refusal(folder)
        assert repo.branches == before
    hub.faults = [Fault("PUT ", times=2, status=503)]
    upload(folder, NAME)
    assert HubRepo(NAME).read("consolidated.safetensors") == b"new"


@pytest.mark.parametrize(
    ("token", "said"), [(None, "log in"), ("hf_reader", "may not"), ("hf_wrong", "log in")]
)
def test_only_who_may_write_uploads(
    hub: HubServer, folder: Path, token: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert said in refusal(folder)
    assert not hub.repos


def test_a_model_card_with_bad_metadata_is_refused(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "Invalid metadata in README.md" in refusal(folder)
    assert not HubRepo(NAME).sizes.keys() & {"README.md", "params.json"}


def test_what_cannot_be_uploaded_is_said(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert "holds no files to upload" in refusal(tmp_path / "nothing")
    assert "Repo id must" in refusal(folder, "a/b/c")
    (folder / "link.json").symlink_to("/etc/hostname")
    assert "link.json: leads outside the repo" in refusal(folder)
    assert not hub.repos
