"""Hostile repos on a disk, for what works on folders only."""

from pathlib import Path

from tests.fuzz.memory import Files

# larger ones are left out: a conversion would write them
_LARGEST = 1 << 20


def laid_out(files: Files, folder: Path) -> bool:
    """Write a repo; False for one whose files no folder, or too large a one, can hold."""
    for name, content in files.items():
        if "/" in name or name in ("..", "") or content.size > _LARGEST:
            return False
        with (folder / name).open("wb") as file:
            file.write(content.head)
            file.truncate(content.size)
    return True
