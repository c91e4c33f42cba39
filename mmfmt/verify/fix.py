"""Repairs of JSON files: what the findings' edits change, as a diff and on disk.

Weight files are never touched.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from hashlib import sha256
from pathlib import Path, PurePosixPath

from mmfmt import manifest
from mmfmt.errors import MmfmtError, printable
from mmfmt.repo import Repo, parse_json
from mmfmt.verify.findings import REMOVE, Edit, Finding
from mmfmt.verify.json_text import edited

# longer lines are shown re-indented, so that a diff of a minified file can be read
_LONGEST_LINE = 1000


@dataclass(frozen=True)
class Change:
    """The text of a file before (empty for a new one) and after its repair."""

    file: str
    before: str
    after: str


def plan_changes(repo: Repo, findings: Iterable[Finding]) -> list[Change]:
    """What the edits of findings make of the repo's files, SHA256SUMS among them.

    Raises MmfmtError where an edit cannot be carried out: the repo is not on this disk, two
    edits disagree, the file is a link, lies elsewhere or is no JSON file.
    """
    by_file: dict[str, list[Edit]] = {}
    for edit in (edit for finding in findings for edit in finding.edits):
        by_file.setdefault(edit.file, []).append(edit)
    planned = (_change(repo, file, edits) for file, edits in sorted(by_file.items()))
    changes = [change for change in planned if change.before != change.after]
    return [*changes, *_hashes(repo, changes)]


def _hashes(repo: Repo, changes: Iterable[Change]) -> Iterator[Change]:
    """The lines of SHA256SUMS for files that are as it says, and will not be."""
    if not repo.has(manifest.NAME):
        return
    content = repo.storage.read(manifest.NAME, 0, manifest.MAX_BYTES + 1)
    with suppress(MmfmtError):  # a rule says what is wrong with it
        manifest.parse(content)
        hashes = {
            change.file: (_sha256(change.before), _sha256(change.after)) for change in changes
        }
        before = content.decode()
        if (after := manifest.rehashed(before, hashes)) != before:
            yield Change(manifest.NAME, before, after)


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _change(repo: Repo, file: str, edits: list[Edit]) -> Change:
    _check_writable(repo, file)
    before = ""
    if repo.has(file):
        content = repo.storage.read(file)
        if all(edit.keys for edit in edits):  # what is written anew may have been broken
            parse_json(file, content)
        before = content.decode(errors="replace")
    after = before
    for edit in _in_order(file, edits):
        try:
            after = edited(after, edit.keys, edit.value)
            after.encode()
        except (LookupError, UnicodeEncodeError) as error:
            place = f"{file}: {_dotted(edit)}"
            raise MmfmtError(place, "cannot be mended here", "mend it by hand") from error
    return Change(file, before, after)


def _check_writable(repo: Repo, file: str) -> None:
    if PurePosixPath(file).name != file or not file.endswith(".json"):
        raise MmfmtError(file, "is no JSON file at the top of the repo", "mend it by hand")
    if (repo.path / file).is_symlink():
        fix = "copy the repo to a folder of its own first"
        raise MmfmtError(file, "is a link, as in the Hub's cache", fix)


def _in_order(file: str, edits: list[Edit]) -> list[Edit]:
    """Each edit once: values first, the outer before the inner, then removals, last item first.

    An edit below another that says the same is left out. MmfmtError where two disagree.
    """
    kept: dict[tuple[str | int, ...], Edit] = {}
    for edit in sorted(edits, key=lambda edit: len(edit.keys)):
        above = [kept[edit.keys[:n]] for n in range(len(edit.keys) + 1) if edit.keys[:n] in kept]
        if any(_inside(other, edit) != edit.value for other in above):
            problem = "two rules want different repairs"
            raise MmfmtError(f"{file}: {_dotted(edit)}", problem, "mend it by hand")
        if not above:
            kept[edit.keys] = edit
    values = [edit for edit in kept.values() if edit.value is not REMOVE]
    removals = [edit for edit in kept.values() if edit.value is REMOVE]
    return values + sorted(removals, key=_item_order, reverse=True)


def _inside(outer: Edit, inner: Edit) -> object:
    """What an edit leaves at the place of another one below it."""
    value = outer.value
    for key in inner.keys[len(outer.keys) :]:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return REMOVE
    return value


def _item_order(edit: Edit) -> list[tuple[bool, str | int]]:
    return [(isinstance(key, str), key) for key in edit.keys]


def _dotted(edit: Edit) -> str:
    return ".".join(map(str, edit.keys)) or "the whole file"


def diff(change: Change) -> Iterator[str]:
    """The lines of a unified diff, safe to print."""
    old, new = f"a/{change.file}" if change.before else "/dev/null", f"b/{change.file}"
    lines = unified_diff(_lines(change.before), _lines(change.after), old, new, lineterm="")
    return map(printable, lines)


def _lines(text: str) -> list[str]:
    lines = text.splitlines()
    if any(len(line) > _LONGEST_LINE for line in lines):
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
    return lines


def write_changes(repo: Repo, changes: Iterable[Change]) -> None:
    """Write changed files, each all at once. MmfmtError where one cannot be written."""
    for change in changes:
        try:
            _replace(repo.path / change.file, change.after.encode())
        except OSError as error:
            raise MmfmtError(change.file, f"cannot be written: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    """Put a file of this content in the place of another, whose mode it keeps."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".mmfmt-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, file.name)
            else:
                Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
