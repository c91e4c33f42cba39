"""Runs that are killed, and started again: the bytes are those of a run that nobody disturbed."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.processes import Files, Hit, contents
from tests.sites import DIRECTIONS, Site, Sites, made_sites

KILLS = int(os.environ.get("MMFMT_KILLS", "10"))
SEED = os.environ.get("MMFMT_SEED", "0")
# each shard takes a rename to its name in the staging folder; those of publishing come after
RENAME = ("rename",)
INDEXES = ("consolidated.safetensors.index.json", "model.safetensors.index.json")


sites = pytest.fixture(scope="module")(made_sites)


def shards(files: Files) -> list[str]:
    """The names of shards."""
    return [name for name in files if "-of-" in name and name.endswith(".safetensors")]


def source_is_whole(site: Site, before: Files) -> None:
    """Every file that SRC had holds the same bytes; a reordered set is replaced, so not that."""
    if site.direction != "reorder":
        found = contents(site.source)
        assert [name for name in before if found.get(name) != before[name]] == []


# --- at any moment ---


def share(number: int) -> int:
    """How many of all kills the nth direction gets."""
    return len(range(number, KILLS, len(DIRECTIONS)))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_at_random(sites: Sites, tmp_path: Path, direction: str) -> None:
    """Killed once or more, from the start of the process on or while it is at work."""
    chance, expected = random.Random(f"{direction} {SEED}"), sites.expected(direction)
    site = sites.site(direction, tmp_path / "undisturbed")
    lives = [site.spent() for _ in site.commands]
    site = sites.site(direction, tmp_path / "0")
    before = contents(site.source)
    for number in range(share([*DIRECTIONS].index(direction))):
        kill(site, lives, chance)
        source_is_whole(site, before)
        if chance.random() < 0.7:
            check_finished(site, expected, before)
            site = sites.site(direction, tmp_path / f"{number + 1}")
    check_finished(site, expected, before)


def kill(site: Site, lives: list[tuple[float, float]], chance: random.Random) -> None:
    """Kill one of the commands that are left, at a moment of its whole life or of its work."""
    left = range(site.done, len(lives))
    if not left:
        return
    chosen = chance.choice(left)
    while site.done < chosen:
        assert site.next().code == 0
    at_work = chance.random() < 0.5
    site.kill(chance.uniform(0, lives[chosen][at_work]), at_work)


def check_finished(site: Site, expected: Files, before: Files) -> None:
    """The commands that are left succeed, and everything is as it has to be."""
    if site.commands[site.done :] == [["convert", "finalize", str(site.target)]]:
        # killed after its end, it has nothing left to do
        site.done += "params.json" in contents(site.target) and not unpublished(site)
    site.finish()
    source_is_whole(site, before)
    found = contents(site.target)
    if site.direction == "reorder":  # done again on what is reordered: a plan of another name
        expected, found = (drop_comments(files) for files in (expected, found))
    assert found == expected
    assert site.staged() == []


def unpublished(site: Site) -> list[Path]:
    """Staging folders that are not on their way out."""
    return [folder for folder in site.staged() if "gone" not in folder.name]


def drop_comments(files: Files) -> Files:
    """Files, SHA256SUMS without what it says about its maker."""
    lines = files["SHA256SUMS"].splitlines()
    kept = b"\n".join(line for line in lines if not line.startswith(b"#"))
    return {**files, "SHA256SUMS": kept}


# --- at every step of publishing ---


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_at_every_rename(sites: Sites, tmp_path: Path, direction: str) -> None:
    """No loader ever finds a set of two generations, and the next run does what is left."""
    expected = sites.expected(direction)
    first = len(shards(expected)) + 1 if direction != "parts" else 1
    for number in range(first, first + 100):
        site = sites.site(direction, tmp_path / str(number))
        before = contents(site.target)
        while site.done < len(site.commands) - 1:
            assert site.next().code == 0
        outcome = site.next(Hit(number, RENAME))
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGKILL
        check_generations(site.target, before, expected)
        site.finish()
        site.check(expected)
        shutil.rmtree(site.folder)
    assert number > first + len(shards(expected)) + 2


def check_generations(target: Path, before: Files, expected: Files) -> None:
    """An index that is there names shards that are all there, all of them old or all new."""
    found = contents(target)
    for index in {*INDEXES} & {*found}:
        names = {*json.loads(found[index])["weight_map"].values()}
        of_now = {name: found.get(name) for name in names}
        assert of_now in ({n: before.get(n) for n in names}, {n: expected.get(n) for n in names})


@pytest.mark.parametrize("direction", ["to consolidated", "dual repo", "to hf"])
@pytest.mark.parametrize("call", ["rmdir", "unlink"])
def test_at_the_very_end(sites: Sites, tmp_path: Path, direction: str, call: str) -> None:
    """All is published, the staging folder is half removed: the same command has succeeded."""
    site, expected = sites.site(direction, tmp_path / "site"), sites.expected(direction)
    # of a few calls that come before: probing for clones, replacing nothing
    for number in range(1, 100):
        outcome = site.next(Hit(number, (call,)))
        if outcome.code == 0 or all("gone" in folder.name for folder in site.staged()):
            break
    assert outcome.code == -signal.SIGKILL
    assert site.staged() != []
    again = site.next()
    assert (again.code, again.err.count("nothing to do")) == (0, 1)
    site.check(expected)


@pytest.mark.parametrize("number", range(1, 4))
def test_finalize_at_the_very_end(sites: Sites, tmp_path: Path, number: int) -> None:
    """The same of finalize."""
    site = sites.site("parts", tmp_path / "site")
    assert (site.next().code, site.next().code) == (0, 0)
    assert site.next(Hit(number, ("unlink", "rmdir"))).code == -signal.SIGKILL
    assert ["gone" in folder.name for folder in site.staged()] == [True]
    assert site.next().code == 0
    site.check(sites.expected("parts"))
