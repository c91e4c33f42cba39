"""SHA256SUMS: the hashes of a repo's files, as `sha256sum -c` reads them."""

import re
from collections.abc import Iterable, Mapping

from mmfmt.errors import MmfmtError

NAME = "SHA256SUMS"
# larger ones are no list of a repo's files
MAX_BYTES = 16 << 20
# coreutils: 64 hex digits, a space, a space or an asterisk (binary), the name
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_OURS = "# mmfmt"


def parse(content: bytes) -> dict[str, str]:
    """The sha256 in hex of each file by name; lines that start with # are comments.

    Raises MmfmtError for a line that `sha256sum -c` could not use, and for a name twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_lines(content), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match or match[2] in found:
            problem = "names a file twice" if match else "is not a hash, two spaces and a name"
            raise MmfmtError(f"{NAME}:{number}", problem, "write it with sha256sum")
        found[match[2]] = match[1].lower()
    return found


def _lines(content: bytes) -> list[str]:
    if len(content) > MAX_BYTES:
        raise MmfmtError(NAME, f"is larger than {MAX_BYTES} bytes, for a list of files")
    try:
        return content.decode().splitlines()
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8: {error.reason}"
        raise MmfmtError(NAME, problem, "write it with sha256sum") from error


def manifest(before: bytes, gone: Iterable[str], made: Mapping[str, str], comment: str) -> str:
    """The text of a manifest: that of `before` without the files that are `gone`, and the new.

    `made` gives the sha256 in hex by name; `comment` says who made them. Raises MmfmtError
    where `before` cannot be read.
    """
    parse(before)
    kept = _without({*gone, *made}, _lines(before))
    new = [f"{_OURS} {comment}", *(f"{digest}  {name}" for name, digest in sorted(made.items()))]
    return "\n".join([*kept, *(new if made else []), ""]).lstrip("\n")


def rehashed(content: str, changes: Mapping[str, tuple[str, str]]) -> str:
    """A manifest after files were edited: by name, the sha256 before and after.

    Lines that said something else stay as they are.
    """
    for name, (before, after) in changes.items():
        content = content.replace(f"{before}  {name}\n", f"{after}  {name}\n")
    return content


def _without(names: set[str], lines: Iterable[str]) -> list[str]:
    """The lines of other files; a comment of ours goes when nothing is left below it."""
    kept: list[str] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match and match[2] in names:
            continue
        if line.startswith("#"):
            _drop_idle(kept)
        kept.append(line)
    _drop_idle(kept)
    return kept


def _drop_idle(lines: list[str]) -> None:
    while lines and lines[-1].startswith(_OURS):
        lines.pop()
