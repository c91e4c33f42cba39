"""11x: SHA256SUMS against the files."""

from collections.abc import Iterator, Mapping
from hashlib import file_digest

from mmfmt import manifest
from mmfmt.errors import MmfmtError
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.parallel import parallel
from mmfmt.verify.subject import Subject

_ANEW = "write it anew with sha256sum when you know that the files are right"


@rule("MMF113")
def manifest_names_missing_file(subject: Subject) -> Iterator[Problem]:
    """SHA256SUMS can be read, and the files that it names are there.

    `sha256sum -c` fails at a file that is missing, and whoever downloads the repo thinks that
    the download did.

    Repair: take the line out, or put the file back.
    """
    try:
        hashes = _hashes(subject)
    except MmfmtError as error:
        yield Problem(manifest.NAME, "", error.problem, error.fix)
        return
    for name in hashes:
        if name not in subject.repo.storage.sizes:
            message = f"names {name!r}, which is not there"
            yield Problem(manifest.NAME, "", message, "take the line out, or put the file back")


@rule("MMF114", cost="bytes")
def hash_differs(subject: Subject) -> Iterator[Problem]:
    """Every file has the sha256 that SHA256SUMS gives for it.

    mmfmt writes the hashes while it writes the files. A file with another one was damaged or
    edited since, and everybody who runs `sha256sum -c` will see it.

    Repair: find out which of the two is right; write the manifest anew with sha256sum only then.
    """
    hashes, repo = _hashes(subject), subject.repo

    def sha256(name: str) -> str:
        with repo.storage.fetch(name).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    for name, found in parallel(sha256, (name for name in hashes if repo.has(name))):
        if found != hashes[name]:
            message = f"has sha256 {found[:12]}..., {manifest.NAME} says {hashes[name][:12]}..."
            yield Problem(name, "", message, _ANEW)


def _hashes(subject: Subject) -> Mapping[str, str]:
    """The manifest of the repo; empty where there is none. MmfmtError if it cannot be read."""
    if not subject.repo.has(manifest.NAME):
        return {}
    storage = subject.repo.storage
    return manifest.parse(storage.read(manifest.NAME, 0, manifest.MAX_BYTES + 1))
