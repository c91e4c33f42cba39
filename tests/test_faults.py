"""Disks that are full, fail or cannot do something, and sources that change meanwhile."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmfmt.convert.consolidated import Request, plan_consolidated
from mmfmt.convert.execute import Options, Watch, execute
from mmfmt.convert.plan import Plan
from mmfmt.errors import MmfmtError
from mmfmt.open import open_any
from mmfmt.reader import reader
from mmfmt.storage import Folder
from tests.processes import ROOT, Files, Zygote, contents, mounted, problem, zygote
from tests.sites import BASE, DIRECTIONS, Site, Sites, made_sites

WEIGHTS = "model.safetensors"
SHARD = ".safetensors"
Change = Callable[[Path], None]

sites = pytest.fixture(scope="module")(made_sites)


def visible(site: Site) -> Files:
    """What a loader sees."""
    return {name: body for name, body in contents(site.target).items() if name[0] != "."}


# --- a layer between mmfmt and the kernel ---


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs whose system calls can be made to fail."""
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc")
    folder = tmp_path_factory.mktemp("faulty")
    library, source = folder / "faulty.so", ROOT / "tests" / "faulty.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    with zygote(folder, LD_PRELOAD=str(library)) as run:
        yield run


def failing(call: str, number: int, code: int, path: str) -> dict[str, str]:
    """The nth of these calls on files whose paths have this part fails; 0 is every one."""
    return {
        "FAULTY_CALL": call,
        "FAULTY_NTH": str(number),
        "FAULTY_ERRNO": str(code),
        "FAULTY_PATH": path,
    }


def disturbed(faulty: Zygote, site: Site, tampering: dict[str, str]) -> Site:
    """The site with a run of its last command to come in which calls are tampered with."""
    log = site.folder / "log"
    environment = {**tampering, "FAULTY_LOG": str(log)}
    return Site(site.direction, site.folder, Zygote(faulty.process, faulty.folder, environment))


def tampered(site: Site) -> int:
    """How many calls were."""
    log = site.folder / "log"
    return log.stat().st_size if log.exists() else 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_short_counts(sites: Sites, faulty: Zygote, tmp_path: Path, direction: str) -> None:
    """Every read and write of weights takes part of what it is given: no byte is another."""
    short = {"FAULTY_SHORT": "1", "FAULTY_PATH": str(tmp_path)}
    site = disturbed(faulty, sites.site(direction, tmp_path / "site"), short)
    site.finish()
    assert tampered(site) > 100
    site.check(sites.expected(direction))


def test_short_counts_without_kernel_copies(sites: Sites, faulty: Zygote, tmp_path: Path) -> None:
    """The same where bytes pass through memory."""
    refused = failing("copy_file_range", 0, errno.EXDEV, SHARD)
    short = {**refused, "FAULTY_SHORT": "1", "FAULTY_PATH": str(tmp_path)}
    site = disturbed(faulty, sites.site("to consolidated", tmp_path / "site"), short)
    site.finish()
    site.check(sites.expected("to consolidated"))


REFUSALS = [
    *(
        ("copy_file_range", errno.errorcode[code], number, "to consolidated")
        for code in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
        for number in (0, 3)
    ),
    *(
        ("ioctl", errno.errorcode[code], 0, "to hf")
        for code in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY)
    ),
]


@pytest.mark.parametrize(("call", "code", "number", "direction"), REFUSALS)
def test_refused(
    sites: Sites,
    faulty: Zygote,
    tmp_path: Path,
    call: str,
    code: str,
    number: int,
    direction: str,
) -> None:
    """What the kernel does not do, from the start or in the midst, is done another way."""
    refused = failing(call, number, getattr(errno, code), SHARD if number else ".mmfmt-")
    site = disturbed(faulty, sites.site(direction, tmp_path / "site"), refused)
    site.finish()
    assert tampered(site)
    site.check(sites.expected(direction))


def test_without_copy_file_range(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a Python for an old kernel, or for macOS."""
    site = sites.site("to consolidated", tmp_path / "site")
    monkeypatch.delattr(os, "copy_file_range")
    execute(plan_of(site), Options(site.target))
    site.done = 1
    site.check(sites.expected("to consolidated"))


# each fails in another step, the last two in publishing
BROKEN = [
    ("preadv", 1, WEIGHTS),
    ("preadv", 5, WEIGHTS),
    ("copy_file_range", 1, SHARD),
    ("copy_file_range", 6, SHARD),
    ("write", 1, SHARD),
    ("write", 9, SHARD),
    ("write", 1, "job.json"),
    ("write", 1, "params.json"),
    ("write", 1, f"{SHARD}.json"),
    ("sendfile", 1, "tekken.json"),
    ("rename", 3, SHARD),
    ("write", 1, "SHA256SUMS"),
    ("fsync", 1, SHARD),
    ("fsync", 8, ".mmfmt-"),
    ("rename", 3, "/dst/consolidated"),
]


@pytest.mark.parametrize(("call", "number", "path"), BROKEN)
def test_broken_disk(
    sites: Sites, faulty: Zygote, tmp_path: Path, call: str, number: int, path: str
) -> None:
    """One line that names a file or a folder, nothing published; the next run does the rest."""
    site = sites.site("to consolidated", tmp_path / "site")
    before = contents(site.source)
    code = {"sendfile": errno.ENOSPC}.get(call, errno.EIO)
    broken = disturbed(faulty, site, failing(call, number, code, path))
    line = problem(broken.next())
    assert tampered(site) == 1
    assert os.strerror(code) in line
    assert str(site.folder) in line or path in line
    assert visible(site) == {}
    site.finish()
    site.check(sites.expected("to consolidated"))
    assert contents(site.source) == before


@pytest.mark.parametrize("number", [1, 4, 12])
def test_broken_disk_in_finalize(sites: Sites, faulty: Zygote, tmp_path: Path, number: int) -> None:
    """A rename of publishing fails: what was renamed is taken back."""
    site = sites.site("parts", tmp_path / "site")
    assert (site.next().code, site.next().code) == (0, 0)
    broken = disturbed(faulty, site, failing("rename", number, errno.EIO, f"{site.target}/"))
    broken.done = 2
    assert "Input/output error" in problem(broken.next())
    assert visible(site) == {}
    site.finish()
    site.check(sites.expected("parts"))


@pytest.mark.parametrize("code", ["EOPNOTSUPP", "ENOSYS", "EXDEV", "EPERM"])
def test_no_rename(sites: Sites, faulty: Zygote, tmp_path: Path, code: str) -> None:
    """Seen before the first shard is written; nothing is left."""
    site = sites.site("to consolidated", tmp_path / "site")
    refused = failing("rename", 0, getattr(errno, code), str(site.target))
    broken = disturbed(faulty, site, refused)
    line = problem(broken.next())
    assert os.strerror(getattr(errno, code)) in line
    assert tampered(site) == 1
    assert not site.target.exists()
    site.finish()
    site.check(sites.expected("to consolidated"))


# --- disks ---


def plan_of(site: Site) -> Plan:
    """What the first command of the site plans."""
    source, tokenizer = open_any(str(site.source)), open_any(str(BASE))
    request = Request(source, Folder(site.target), reader("vllm"), tokenizer, 1_000_000)
    return plan_consolidated(request)


@pytest.fixture
def small(sites: Sites, tmp_path: Path) -> Iterator[Site]:
    """A target on a disk that has room for it, and not for much more."""
    site = sites.site("to consolidated", tmp_path / "site")
    with mounted(site.target, "-t", "tmpfs", "-o", "size=24m", "tmpfs"):
        yield site


def fill(folder: Path) -> Path:
    """Take all the room that is left on a disk."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.truncate(path, path.stat().st_size // 4096 * 4096)
    return path


@pytest.mark.parametrize("calls", [1, 4])
def test_disk_fills_up(small: Site, sites: Sites, calls: int) -> None:
    """Another program takes the room while shards are written; there is room again later."""
    left = [calls]

    def advance(_: int) -> None:
        left[0] -= 1
        if not left[0]:
            fill(small.target)

    with pytest.raises(MmfmtError, match="No space left on device"):
        execute(plan_of(small), Options(small.target, jobs=1), Watch(advance))
    assert visible(small).keys() == {"filler"}
    (small.target / "filler").unlink()
    again = small.next()
    assert ("kept from an earlier run" in again.err) == (calls > 1), again
    small.check(sites.expected("to consolidated"))


def test_disk_is_full(small: Site, sites: Sites) -> None:
    """Both numbers are said, nothing is left."""
    fill(small.target)
    line = problem(small.next())
    assert "0 bytes are free" in line
    assert "are needed" in line
    assert [path.name for path in small.target.iterdir()] == ["filler"]
    (small.target / "filler").unlink()
    small.finish()
    small.check(sites.expected("to consolidated"))


def test_disk_becomes_read_only(small: Site, sites: Sites) -> None:
    """As ext4 does after an error; writable again, the run goes on."""

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", small.target], check=True)

    execute(plan_of(small), Options(small.target, part=(1, 2)))
    before = contents(small.target)
    remount("ro")
    assert "Read-only file system" in problem(small.next())
    assert contents(small.target) == before
    remount("rw")
    small.finish()
    small.check(sites.expected("to consolidated"))


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_target_is_a_file(sites: Sites, tmp_path: Path, place: str) -> None:
    """Or lies below one."""
    site = sites.site("to consolidated", tmp_path / "site")
    (tmp_path / "file").write_text("mine")
    command = [
        str(tmp_path / place) if part == str(site.target) else part for part in site.commands[0]
    ]
    outcome = site.run(*command)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert "file" in outcome.err.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "mine"


# --- a source that changes meanwhile ---


def another(source: Path) -> bytes:
    """Other weights under the same header."""
    content = bytearray(source.read_bytes())
    for place in range(len(content) - 1000, len(content) // 2, -200_000):
        content[place] ^= 1
    return bytes(content)


def rewritten(path: Path) -> None:
    path.write_bytes(another(path))


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(another(path))
    new.replace(path)


def deleted(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("how", [rewritten, replaced, deleted])
@pytest.mark.parametrize("calls", [1, 4, 1000])
@pytest.mark.parametrize("jobs", [1, 2])
def test_source_changes(sites: Sites, tmp_path: Path, how: Change, calls: int, jobs: int) -> None:
    """In a shard, between two, after the last: refused; then it is as a fresh conversion's."""
    site = sites.site("to consolidated", tmp_path / "site")
    path, content = site.source / WEIGHTS, another(site.source / WEIGHTS)
    plan = plan_of(site)
    left, total = [calls], [plan.data_bytes]

    def advance(count: int) -> None:
        left[0] -= 1
        total[0] -= count
        if not left[0] or (not total[0] and left[0] > 0):
            left[0] = 0
            how(path)

    changed = "changed|became shorter|cannot be read: No such file"
    with pytest.raises(MmfmtError, match=changed) as caught:
        execute(plan, Options(site.target, jobs=jobs), Watch(advance))
    assert WEIGHTS in str(caught.value)
    assert left[0] <= 0
    assert not site.target.exists() or visible(site) == {}
    if how is deleted:
        path.write_bytes(content)
    assert path.read_bytes() == content
    site.finish()
    site.check(afresh(site))
    assert path.read_bytes() == content


def afresh(site: Site) -> Files:
    """What a conversion of the source gives that nothing came before."""
    fresh = Site(site.direction, site.folder / "fresh", site.run)
    shutil.copytree(site.source, fresh.source)
    fresh.finish()
    return contents(fresh.target)


def test_file_goes_while_a_folder_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread gives its finished shard the final name just then."""
    (tmp_path / "a.part").touch()
    real = Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        found = real(path, **how)
        if path.suffix == ".part":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat)
    assert {*Folder(tmp_path).sizes} <= {"a.part"}
