"""What lies in a staging folder may be damaged, and the source another by then."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmfmt.convert.publish import finish_staged
from mmfmt.convert.staging import Job, Staging
from mmfmt.errors import MmfmtError
from tests.conftest import Outcome
from tests.processes import Files, Hit, contents, problem
from tests.sites import Site, Sites, made_sites

Damage = Callable[[bytes], bytes]

# shards are renamed in the staging folder, then everything in publishing: in the midst of each
IN_WORK, IN_PUBLISHING = Hit(5, ("rename",)), Hit(10, ("rename",))

sites = pytest.fixture(scope="module")(made_sites)


@dataclass
class Kept:
    """A target as a run left it that was killed, for many tests to damage."""

    site: Site
    expected: Files
    copy: Path

    def again(self) -> Site:
        """The site as it was kept; its source has not been touched since."""
        shutil.rmtree(self.site.target)
        shutil.copytree(self.copy, self.site.target)
        return self.site


def kept(site: Site, sites: Sites) -> Kept:
    """Keep the target of a site."""
    copy = site.folder / "kept"
    shutil.copytree(site.target, copy)
    return Kept(site, sites.expected(site.direction), copy)


@pytest.fixture(scope="module")
def in_work(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Killed while it wrote shards."""
    site = sites.site("to consolidated", tmp_path_factory.mktemp("work") / "site")
    assert site.next(IN_WORK).code == -9
    return kept(site, sites)


@pytest.fixture(scope="module")
def in_publishing(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Killed between two renames of publishing."""
    site = sites.site("to consolidated", tmp_path_factory.mktemp("publishing") / "site")
    assert site.next(IN_PUBLISHING).code == -9
    return kept(site, sites)


@pytest.fixture(scope="module")
def in_parts(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Both parts done, nothing published."""
    site = sites.site("parts", tmp_path_factory.mktemp("parts") / "site")
    assert (site.next().code, site.next().code) == (0, 0)
    return kept(site, sites)


def staging(site: Site) -> Path:
    """The one staging folder."""
    (found,) = site.staged()
    return found


def finished(site: Site) -> list[Path]:
    """Shards of the staging folder that have a record."""
    records = sorted(staging(site).glob("*.safetensors.json"))
    return [record.with_suffix("") for record in records]


def visible(site: Site) -> Files:
    """What a loader sees."""
    return {name: body for name, body in contents(site.target).items() if name[0] != "."}


# --- damage ---


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """One bit of the last tensor."""
    return content[:-99] + bytes([content[-99] ^ 1]) + content[-98:]


def text(body: bytes) -> Damage:
    return lambda _: body


def field(key: str, value: object) -> Damage:
    return lambda content: json.dumps({**json.loads(content), key: value}).encode()


def without(key: str) -> Damage:
    def damage(content: bytes) -> bytes:
        body = json.loads(content)
        del body[key]
        return json.dumps(body).encode()

    return damage


NO_JSON = {
    "truncated": truncated,
    **{
        repr(body): text(body)
        for body in (b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[1, [2]]")
    },
}
RECORDS = {
    **NO_JSON,
    "no sha256": without("sha256"),
    "signatures null": field("signatures", None),
    "signatures of numbers": field("signatures", {"model.safetensors": 3}),
    "notes a number": field("notes", 3),
    "size a text": field("size", "x"),
}
JOBS = {
    **NO_JSON,
    "not said if forced": without("forced"),
    "shards null": field("shards", None),
    "files of numbers": field("files", [3]),
    "replaces null": field("replaces", None),
}


def damage(path: Path, how: Damage) -> None:
    path.write_bytes(how(path.read_bytes()))


@pytest.mark.parametrize("how", [truncated, flipped, text(b"")], ids=["cut", "flipped", "empty"])
@pytest.mark.parametrize("number", [0, -1])
def test_damaged_shard(in_work: Kept, how: Damage, number: int) -> None:
    """Noticed, said, and written anew; the others are kept."""
    site = in_work.again()
    path = finished(site)[number]
    damage(path, how)
    outcome = finish(site)
    assert f"note: {path.name}: is not as an earlier run left it" in outcome.err
    assert (outcome.err.count("note:"), "kept from an earlier run" in outcome.err) == (1, True)
    site.check(in_work.expected)


def finish(site: Site) -> Outcome:
    """Run the last command; it must succeed."""
    site.done = len(site.commands) - 1
    outcome = site.next()
    assert outcome.code == 0, outcome
    return outcome


@pytest.mark.parametrize("finished_one", [True, False])
def test_half_written_part(in_work: Kept, finished_one: bool) -> None:
    """Of a shard that is finished as of one that is not."""
    site = in_work.again()
    done = {path.name for path in finished(site)}
    for name in (name for name in in_work.expected if "-of-" in name):
        if (name in done) == finished_one:
            part = staging(site) / f"{name}.{'0123456789abcdef' * 2}.part"
            part.write_bytes(truncated(in_work.expected[name]))
    finish(site)
    site.check(in_work.expected)


@pytest.mark.parametrize("how", RECORDS)
def test_damaged_record(in_work: Kept, how: str) -> None:
    """The shard comes out right."""
    site = in_work.again()
    damage(Path(f"{finished(site)[0]}.json"), RECORDS[how])
    finish(site)
    site.check(in_work.expected)


@pytest.mark.parametrize("how", JOBS)
def test_damaged_job(in_work: Kept, how: str) -> None:
    """It is made again from the plan."""
    site = in_work.again()
    damage(staging(site) / "job.json", JOBS[how])
    finish(site)
    site.check(in_work.expected)


def published_or_refused(site: Site, expected: Files) -> bool:
    """The last command publishes all as it has to be, or says in one line why it cannot."""
    before = visible(site)
    site.done = len(site.commands) - 1
    outcome = site.next()
    if outcome.code:
        assert problem(outcome)
        assert visible(site) == before
    else:
        site.check(expected)
    return outcome.code == 0


@pytest.mark.parametrize(
    ("file", "how"),
    [*(("job.json", how) for how in JOBS), *(("publishing.json", how) for how in NO_JSON)],
)
def test_damaged_while_publishing(in_publishing: Kept, file: str, how: str) -> None:
    """What is published is as it has to be, and no traceback tells of the rest."""
    site = in_publishing.again()
    damage(staging(site) / file, JOBS[how])
    published_or_refused(site, in_publishing.expected)
    assert visible(site).items() <= in_publishing.expected.items()


@pytest.mark.parametrize(
    ("file", "how"),
    [
        *(("job.json", how) for how in JOBS),
        *(("record", how) for how in RECORDS),
        *(("shard", how) for how in ("truncated", "b''")),
    ],
)
def test_finalize_of_damage(in_parts: Kept, file: str, how: str) -> None:
    """What finalize refuses is right after the parts were run again."""
    site = in_parts.again()
    shard = finished(site)[0]
    paths = {"job.json": staging(site) / file, "record": Path(f"{shard}.json")}
    damage(paths.get(file, shard), {**RECORDS, **JOBS}[how])
    if not published_or_refused(site, in_parts.expected):
        site.done = 0
        site.finish()
        site.check(in_parts.expected)


# --- another source ---


def weights(site: Site) -> Path:
    return site.source / "model.safetensors"


def flip_source(site: Site, place: int) -> None:
    """Change one byte; nothing that `ls` shows is another."""
    path = weights(site)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def converted_afresh(site: Site) -> Files:
    """What a conversion of the source gives that nothing came before."""
    fresh = Site(site.direction, site.folder / "fresh", site.run)
    shutil.copytree(site.source, fresh.source)
    fresh.finish()
    return contents(fresh.target)


def test_source_changed(sites: Sites, tmp_path: Path) -> None:
    """A byte that went into one shard: that is written anew, which is said; the rest is kept."""
    site = sites.site("to consolidated", tmp_path / "site")
    assert site.next(IN_WORK).code == -9
    shard = finished(site)[0]
    end = shard.read_bytes()[-64:]
    source = weights(site).read_bytes()
    assert source.count(end) == 1
    flip_source(site, source.index(end))
    expected = converted_afresh(site)
    assert expected[shard.name] != sites.expected(site.direction)[shard.name]
    before = contents(site.source)
    outcome = finish(site)
    note = f"note: model.safetensors: changed since an earlier run: {shard.name} is written anew"
    assert (outcome.err.count("note:"), note in outcome.err) == (1, True)
    assert "kept from an earlier run" in outcome.err
    site.check(expected)
    assert contents(site.source) == before


def test_source_touched(sites: Sites, tmp_path: Path) -> None:
    """Its bytes are what counts."""
    site = sites.site("to consolidated", tmp_path / "site")
    assert site.next(IN_WORK).code == -9
    os.utime(weights(site))
    outcome = finish(site)
    assert "note:" not in outcome.err
    assert "kept from an earlier run" in outcome.err
    site.check(sites.expected(site.direction))


@pytest.mark.parametrize("how", ["touched", "changed"])
def test_source_other_before_finalize(sites: Sites, tmp_path: Path, how: str) -> None:
    """Refused; the parts are run again, and then it is good."""
    site = sites.site("parts", tmp_path / "site")
    assert (site.next().code, site.next().code) == (0, 0)
    if how == "touched":
        os.utime(weights(site))
    else:
        flip_source(site, weights(site).stat().st_size - 1000)
    expected = converted_afresh(site)
    line = problem(site.next())
    assert "model.safetensors: changed after " in line
    assert visible(site) == {}
    site.done = 0
    site.finish()
    site.check(expected)


def test_source_out_of_reach_of_finalize(sites: Sites, tmp_path: Path) -> None:
    """Parts may have been made on machines that see a source which this one does not."""
    site = sites.site("parts", tmp_path / "site")
    assert (site.next().code, site.next().code) == (0, 0)
    site.source.rename(site.folder / "elsewhere")
    finish(site)
    site.check(sites.expected("parts"))


def test_names_on_record_stay_in_the_folder(tmp_path: Path) -> None:
    """A staging folder in a repo of somebody else moves no file from or to another place."""
    staging = tmp_path / "repo" / ".mmfmt-0123"
    staging.mkdir(parents=True)
    (staging / "key").write_text("theirs")
    names: dict[str, object] = dict.fromkeys(Job.__dataclass_fields__, "")
    job = names | {"shards": {}, "files": [], "replaces": [], "hashed": True, "forced": True}
    (staging / "job.json").write_text(json.dumps(job | {"push": None}))
    (staging / "publishing.json").write_text(json.dumps([["../../key"], []]))
    with pytest.raises(MmfmtError, match="is damaged"):
        finish_staged(Staging(staging))
    (staging / "job.json").write_text(json.dumps(job | {"push": None, "files": ["../key"]}))
    with pytest.raises(MmfmtError, match="holds no conversion"):
        finish_staged(Staging(staging))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo"]
