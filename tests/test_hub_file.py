"""Ranges of large files streamed from the Hub, against a local server that breaks down."""

import time
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, close_session, constants, get_session
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfmt.errors import MmfmtError
from mmfmt.hub import HubRepo, hub_repo
from mmfmt.storage import OpenFile, Range
from tests.hub_endpoints import Endpoints
from tests.hub_server import Fault, HubServer

ORG, NAME = "org/tiny", "consolidated.safetensors"
BYTES = 12 << 20
RANGES = ((100, 1_000_000), (1_500_000, 5_000_000), (5_000_064, BYTES))
PLANNED = sum(stop - start for start, stop in RANGES)


@pytest.fixture(scope="module")
def data() -> bytes:
    return np.random.default_rng(0).bytes(BYTES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> Path:
    folder = tmp_path_factory.mktemp("repo")
    (folder / NAME).write_bytes(data)
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture(autouse=True)
def published(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repo is there; retries come at once, and silence is not waited out for long."""
    hub.add(ORG, folder)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)


@pytest.fixture
def storage() -> HubRepo:
    return HubRepo(ORG)


def read(file: OpenFile, start: int, stop: int) -> bytes:
    into = bytearray(stop - start)
    file.read_into(memoryview(into), start)
    return bytes(into)


def pieces(ranges: Sequence[Range], size: int) -> Iterator[Range]:
    """The ranges cut into pieces."""
    for start, stop in ranges:
        for place in range(start, stop, size):
            yield place, min(place + size, stop)


def stream(storage: HubRepo, ranges: Sequence[Range] = RANGES, size: int = 300_000) -> bytes:
    """The bytes of the ranges, read in order."""
    with closing(storage.open(NAME, ranges)) as file:
        return b"".join(read(file, *piece) for piece in pieces(ranges, size))


def expected(data: bytes, ranges: Sequence[Range] = RANGES) -> bytes:
    return b"".join(data[start:stop] for start, stop in ranges)


def ranges_asked(hub: HubServer) -> list[str | None]:
    return [request.range for request in hub.served("/objects/")]


def refusal(storage: HubRepo) -> str:
    """The one line that streaming is refused with; it never shows a token."""
    with pytest.raises(MmfmtError) as caught:
        stream(storage)
    line = str(caught.value)
    assert "\n" not in line
    assert "hf_" not in line
    return line


# what is asked for


def test_each_range_is_one_request(hub: HubServer, storage: HubRepo, data: bytes) -> None:
    assert stream(storage) == expected(data)
    assert ranges_asked(hub) == [f"bytes={start}-{stop - 1}" for start, stop in RANGES]
    assert hub.sent("/objects/") == PLANNED


def test_ranges_are_served_over_one_connection(
    hub: HubServer, storage: HubRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections, handle = [], Endpoints.handle

    def counted(endpoints: Endpoints) -> None:
        connections.append(endpoints)
        handle(endpoints)

    monkeypatch.setattr(Endpoints, "handle", counted)
    stream(storage, [(place, place + 70_000) for place in range(0, BYTES, 1 << 20)])
    # one to the Hub, one to its CDN
    assert len(connections) == 2


def test_opening_asks_for_no_bytes_and_pieces_may_be_as_large_as_the_range(
    hub: HubServer, storage: HubRepo, data: bytes
) -> None:
    storage.open(NAME, RANGES).close()
    assert not hub.served("/objects/")
    assert stream(storage, size=BYTES) == expected(data)
    assert len(hub.served("/objects/")) == len(RANGES)


def test_the_signature_is_that_of_the_commit(hub: HubServer, storage: HubRepo) -> None:
    sha = HfApi().model_info(ORG).sha
    assert storage.open(NAME).signature == (sha, BYTES)
    hub.requests.clear()
    assert storage.address == f"hf://{ORG}@{sha}"
    assert hub_repo(storage.address).open(NAME).signature == (sha, BYTES)
    assert not hub.served("/revision/")


def test_a_jump_opens_a_request_to_the_end_of_its_range(
    hub: HubServer, storage: HubRepo, data: bytes
) -> None:
    jumps = [(200, 300), (2_000_000, 2_100_000), (4_000_000, 4_100_000), (1_600_000, 1_700_000)]
    with closing(storage.open(NAME, RANGES)) as file:
        for start, stop in jumps:
            assert read(file, start, stop) == data[start:stop]
    ends = [999_999, 4_999_999, 4_999_999, 4_999_999]
    starts = [start for start, _ in jumps]
    assert ranges_asked(hub) == [f"bytes={s}-{e}" for s, e in zip(starts, ends, strict=True)]


def test_no_more_is_asked_for_than_a_view_where_nothing_was_planned(
    hub: HubServer, storage: HubRepo, data: bytes
) -> None:
    reads = [(0, 8), (999_990, 1_000_010), (1_200_000, 1_200_100)]
    with closing(storage.open(NAME, RANGES)) as file:
        for start, stop in reads:
            assert read(file, start, stop) == data[start:stop]
    asked = ["0-7", "999990-999999", "1000000-1000009", "1200000-1200099"]
    assert ranges_asked(hub) == [f"bytes={each}" for each in asked]


def test_a_range_is_not_held_in_memory(hub: HubServer, storage: HubRepo, data: bytes) -> None:
    into = memoryview(bytearray(300_000))
    with closing(storage.open(NAME, [(0, BYTES)])) as file:
        file.read_into(into, 0)
        tracemalloc.start()
        for start, stop in pieces([(300_000, BYTES)], len(into)):
            file.read_into(into[: stop - start], start)
            assert into[: stop - start] == data[start:stop]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # the server's pieces of 1 MiB are among it
    assert most < BYTES // 3


def test_reading_on_after_closing(storage: HubRepo, data: bytes) -> None:
    file = storage.open(NAME, RANGES)
    assert read(file, 100, 200) == data[100:200]
    file.close()
    file.close()
    assert read(file, 200, 300) == data[200:300]
    file.close()


@settings(max_examples=25)
@given(drawn=st.data())
def test_any_plan_and_views_give_the_bytes(
    drawn: st.DataObject, hub: HubServer, data: bytes
) -> None:
    edges = sorted(drawn.draw(st.sets(st.integers(0, BYTES), min_size=2, max_size=8)))
    plan = list(zip(edges[::2], edges[1::2], strict=False))
    size = drawn.draw(st.integers(50_000, 8 << 20))
    hub.requests.clear()
    assert stream(HubRepo(ORG), plan, size) == expected(data, plan)
    assert hub.sent("/objects/") == sum(stop - start for start, stop in plan)
    place = st.integers(0, BYTES)
    with closing(HubRepo(ORG).open(NAME, plan)) as file:
        for start in drawn.draw(st.lists(place, max_size=4)):
            stop = min(start + size, BYTES)
            assert read(file, start, stop) == data[start:stop]


def test_threads_that_share_a_repo_list_it_once(hub: HubServer, storage: HubRepo) -> None:
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda _: storage.sizes, range(8)))
    assert sizes == [{NAME: BYTES, "empty.txt": 0}] * 8
    assert [len(hub.served(path)) for path in ("/revision/", "/tree/")] == [1, 1]


def test_files_are_streamed_at_once_by_threads(
    hub: HubServer, storage: HubRepo, data: bytes
) -> None:
    hub.faults = [Fault("objects", times=6, cut_after=400_000)]
    plans = [RANGES, ((0, BYTES),), RANGES[1:], ((7, 9_000_000),)]
    with ThreadPoolExecutor(4) as threads:
        streamed = list(threads.map(lambda plan: stream(storage, plan), plans))
    assert streamed == [expected(data, plan) for plan in plans]
    assert len(hub.served("/tree/")) == len(hub.served("/revision/")) == 1
    assert not hub.faults[0].times


# trouble on the way


@pytest.mark.parametrize("path", ["resolve", "objects"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"stall": 2}])
def test_a_server_in_trouble_is_waited_for(
    hub: HubServer, storage: HubRepo, data: bytes, path: str, fault: dict[str, int]
) -> None:
    hub.faults = [Fault(path, times=4, **fault)]  # type: ignore[arg-type]
    assert stream(storage) == expected(data)
    assert not hub.faults[0].times
    assert hub.sent("/objects/") < PLANNED * 1.02


@pytest.mark.parametrize("stall", [0, 2])
def test_a_connection_that_breaks_is_continued_from_there(
    hub: HubServer, storage: HubRepo, data: bytes, stall: float
) -> None:
    hub.faults = [
        Fault("objects", times=6, cut_after=777_777, stall=stall),
        Fault("objects", times=2, status=503),
        Fault("objects", times=2, cut_after=0),
        Fault("objects", times=2, cut_after=1_234_567, stall=stall),
    ]
    assert stream(storage) == expected(data)
    assert not any(fault.times for fault in hub.faults)
    assert hub.sent("/objects/") < PLANNED * 1.02


def test_any_number_of_cuts_is_survived_while_bytes_come(
    hub: HubServer, storage: HubRepo, data: bytes
) -> None:
    hub.faults = [Fault("objects", times=1000, cut_after=100_000)]
    assert stream(storage) == expected(data)
    assert hub.sent("/objects/") == PLANNED
    assert len(hub.served("/objects/")) > 100


def test_it_gives_up_where_nothing_advances(hub: HubServer, storage: HubRepo) -> None:
    hub.faults = [Fault("objects", cut_after=50_000), Fault("objects", times=99, cut_after=0)]
    line = refusal(storage)
    assert line.startswith(f"hf://{ORG}@main/{NAME}: was cut off 6 times in a row at byte 50100 (")
    # the first began well
    assert len(hub.served("/objects/")) == 6


def test_waits_grow_until_it_gives_up(
    hub: HubServer, storage: HubRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.sizes
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.faults = [Fault("objects", times=99, cut_after=0)]
    assert "cut off" in refusal(storage)
    assert len(waits) >= 5
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("status", "said"), [(500, "the Hub answers 500"), (429, "no more requests"), (403, "token")]
)
def test_an_answer_that_stays_an_error_is_said(
    hub: HubServer, storage: HubRepo, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    hub.faults = [Fault("resolve", times=99, status=status)]
    assert said in refusal(storage)
    assert len(hub.served("/resolve/")) < 10


def test_a_hub_that_goes_away_is_said(
    storage: HubRepo, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = storage.open(NAME, RANGES)
    assert read(file, 100, 200) == data[100:200]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MmfmtError, match="offline mode is on"):
        read(file, 2_000_000, 2_000_100)
    file.close()


def test_a_client_that_another_thread_closed_is_replaced(
    storage: HubRepo, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(storage.open(NAME, RANGES)) as file:
        read(file, 1_500_000, 1_600_000)
        close_session()
        assert read(file, 1_600_000, 4_000_000) == data[1_600_000:4_000_000]
        # it has closed the client, and puts another in its place in a moment
        monkeypatch.setattr(time, "sleep", lambda seconds: close_session())
        get_session().close()
        assert read(file, 100, 900_000) == data[100:900_000]


def test_a_server_without_ranges_is_only_read_from_the_start(
    hub: HubServer, storage: HubRepo, data: bytes
) -> None:
    hub.ranges = False
    assert stream(storage, [(0, 500_000)]) == data[:500_000]
    assert "is not served in ranges: bytes 100-999999 were" in refusal(storage)


def test_what_is_not_there_is_refused(hub: HubServer, storage: HubRepo) -> None:
    with pytest.raises(MmfmtError, match=r"absent\.bin: is not in the repo"):
        storage.open("absent.bin")
    with closing(storage.open(NAME, [(BYTES - 10, BYTES + 10)])) as file:
        assert len(read(file, BYTES - 10, BYTES)) == 10
        with pytest.raises(MmfmtError, match=f"ends at byte {BYTES}: bytes {BYTES - 1}-{BYTES}"):
            read(file, BYTES - 1, BYTES + 1)
    with closing(storage.open("empty.txt", [])) as file:
        assert read(file, 0, 0) == b""
