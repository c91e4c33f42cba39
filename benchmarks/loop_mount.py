"""A file system in a sparse file, for as long as it is needed: mkfs and mount, as root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

FileSystem = Literal["xfs", "btrfs"]
"""One whose files can share blocks."""

_MKFS = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
}


def missing(filesystem: FileSystem) -> str:
    """What stands in the way of such a mount; empty if nothing is known to."""
    if sys.platform != "linux":
        return "there are loop mounts on Linux only"
    if os.geteuid():
        return "mounting takes root"
    absent = [name for name in (_MKFS[filesystem][0], "mount") if not shutil.which(name)]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextmanager
def mounted(folder: Path, filesystem: FileSystem, size: int) -> Iterator[Path]:
    """A new file system of `size` bytes (300 MiB at least), in two new entries of a folder.

    Both are removed in the end. Raises OSError where it cannot be made or mounted.
    """
    image, place = folder / f"{filesystem}.img", folder / filesystem
    try:
        with image.open("wb") as file:
            file.truncate(size)
        place.mkdir()
        _run(*_MKFS[filesystem], str(image))
        _run("mount", "-o", "loop", str(image), str(place))
        try:
            _bypass_cache(place)
            yield place
        finally:
            _unmount(place)
        place.rmdir()
    finally:
        image.unlink(missing_ok=True)


def _bypass_cache(place: Path) -> None:
    """Keep blocks out of the page cache of the file below, where that one can: once is enough."""
    device = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", str(place)], capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["losetup", "--direct-io=on", device], capture_output=True)


def _unmount(place: Path) -> None:
    try:
        _run("umount", str(place))
    except OSError:  # somebody looks into it: it goes when they are done
        _run("umount", "--lazy", str(place))


def _run(*command: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise OSError(f"{' '.join(command)}: {run.stderr.strip()}")
