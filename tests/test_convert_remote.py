"""Conversions from the Hub and to it, by a local server that breaks down."""

import time
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from tests import builders
from tests.conftest import Outcome, Run
from tests.hub_server import Fault, HubServer

SOURCE, TARGET = "org/tiny", "me/tiny-consolidated"
# weights of some 70 MB, of which headers are little
LARGE = builders.Geometry(hidden=1024, heads=8, kv_heads=2, head_dim=128, ff=3072, layers=2)


def faults() -> list[Fault]:
    """What goes wrong on the way: errors, silence before and in an answer, cut connections."""
    return [
        Fault("GET /objects/", times=2, status=500),
        Fault("GET /objects/", times=3, cut_after=700_000),
        Fault("GET /objects/", stall=1.0),
        Fault("GET /objects/", times=2, stall=1.0, cut_after=300_000),
        Fault("GET /api/", times=2, status=503),
    ]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once, and silence is not waited out for long."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several shards."""
    return builders.save_model(
        tmp_path_factory.mktemp("hf") / "repo", "mistral", LARGE, max_shard_size="30MB"
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def done(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, outcome
    return outcome


def test_from_the_hub(tmp_path: Path, hub: HubServer, folder: Path, to_consolidated: Run) -> None:
    """The files of a local conversion, with little more than these fetched, whatever breaks."""
    done(to_consolidated(folder, tmp_path / "local"))
    hub.add(SOURCE, folder)
    hub.faults = faults()
    done(to_consolidated(f"hf://{SOURCE}", tmp_path / "remote"))
    assert files(tmp_path / "remote") == files(tmp_path / "local")
    assert not any(fault.times for fault in hub.faults), hub.faults
    needed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert needed <= hub.sent("GET /objects/") <= 1.02 * needed
    assert not list((tmp_path / "hf-home").rglob("*.safetensors"))


def test_back_from_the_hub(
    tmp_path: Path, hub: HubServer, folder: Path, to_consolidated: Run, to_hf: Run
) -> None:
    """The other direction, at a revision by name."""
    done(to_consolidated(folder, tmp_path / "native"))
    hub.add(SOURCE, tmp_path / "native")
    done(to_hf(tmp_path / "native", tmp_path / "local"))
    done(to_hf(f"hf://{SOURCE}@main", tmp_path / "remote"))
    assert files(tmp_path / "remote") == files(tmp_path / "local")


def test_resumed_from_the_hub(
    tmp_path: Path, hub: HubServer, folder: Path, to_consolidated: Run
) -> None:
    """A run that lost the Hub keeps its shards; the next fetches the others only."""
    hub.add(SOURCE, folder)
    target = tmp_path / "out"
    arguments = (f"hf://{SOURCE}", target, "--jobs", 1)
    # two headers and a shard are served, and then nothing any more
    hub.faults = [Fault("GET /objects/", times=3), Fault("GET /objects/", times=1000, status=404)]
    outcome = to_consolidated(*arguments)
    assert "1 finished shard is kept" in outcome.error
    hub.faults = []
    hub.requests.clear()
    done(to_consolidated(*arguments))
    first, second = sorted(folder.glob("*.safetensors"))
    assert hub.sent(f"GET /objects/.*/{first.name}") < first.stat().st_size / 10
    assert hub.sent(f"GET /objects/.*/{second.name}") >= second.stat().st_size
    done(to_consolidated(folder, tmp_path / "local"))
    assert files(target) == files(tmp_path / "local")


@pytest.mark.parametrize("broken", [False, True])
def test_pushed(
    tmp_path: Path,
    hub: HubServer,
    folder: Path,
    to_consolidated: Run,
    monkeypatch: pytest.MonkeyPatch,
    broken: bool,
) -> None:
    """From the Hub to the Hub: one commit, and nothing stays on this disk."""
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    done(to_consolidated(folder, tmp_path / "local"))
    hub.add(SOURCE, folder)
    hub.faults = [*faults(), Fault("PUT /objects/", times=2, status=500)] if broken else []
    work = tmp_path / "work"
    outcome = done(to_consolidated(f"hf://{SOURCE}", work, "--push", TARGET, "--jobs", 1))
    assert "hf_writer" not in outcome.err
    repo = hub.repos[TARGET]
    assert len(hub.served("POST .*/commit/")) == 1
    assert f"/commit/{repo.branches['main']}" in outcome.err
    expected = files(tmp_path / "local")
    got = files(Path(snapshot_download(TARGET, token="hf_writer")))
    assert {name: got[name] for name in expected} == expected
    assert got.keys() - expected.keys() == {".gitattributes"}
    assert not work.exists() or not list(work.iterdir())


def test_pushed_into_the_source(
    tmp_path: Path,
    hub: HubServer,
    folder: Path,
    to_consolidated: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other layout is added to a repo on the Hub, whose own files stay as they are."""
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    hub.add(SOURCE, folder)
    local = builders.copy_repo(folder, tmp_path / "dual")
    done(to_consolidated(local))
    done(to_consolidated(f"hf://{SOURCE}", tmp_path / "work", "--push", SOURCE))
    assert files(Path(snapshot_download(SOURCE, token="hf_writer"))) == files(local)


def test_push_takes_up_what_was_sent(
    tmp_path: Path,
    hub: HubServer,
    folder: Path,
    to_consolidated: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a failed commit, the same command sends no shard again."""
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    hub.add(SOURCE, folder)
    arguments = (f"hf://{SOURCE}", tmp_path / "work", "--push", TARGET)
    hub.faults = [Fault("POST .*/commit/", status=403, body=b'{"error": "no"}')]
    outcome = to_consolidated(*arguments)
    assert outcome.code == 2
    assert "the same command goes on from there" in outcome.error
    assert not list((tmp_path / "work").rglob("*.safetensors"))
    hub.requests.clear()
    done(to_consolidated(*arguments))
    assert not [r for r in hub.served("PUT /objects/") if r.path.endswith(".safetensors")]
    assert not hub.served("GET /objects/.*safetensors$")[len(list(folder.glob("*.safetensors"))) :]
    done(to_consolidated(folder, tmp_path / "local"))
    got = files(Path(snapshot_download(TARGET, token="hf_writer")))
    assert files(tmp_path / "local").items() <= got.items()


def test_refusals(tmp_path: Path, hub: HubServer, folder: Path, to_consolidated: Run) -> None:
    """One line each: no DST to work in, no such repo, no right to write."""
    hub.add(SOURCE, folder)
    assert "name DST" in to_consolidated(f"hf://{SOURCE}").error
    assert "is not there" in to_consolidated("hf://org/none", tmp_path / "out").error
    pushed = to_consolidated(f"hf://{SOURCE}", tmp_path / "out", "--push", TARGET)
    assert "log in with" in pushed.error
    assert not (tmp_path / "out").exists()
