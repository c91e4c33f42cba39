"""Where in its file a finding stands, for formats that point into files."""

from mmfmt.errors import MmfmtError
from mmfmt.repo import Repo
from mmfmt.verify.findings import Finding
from mmfmt.verify.json_text import line_of

# no config file is larger
_LARGEST = 1 << 20


def line(repo: Repo, finding: Finding) -> int:
    """The line of a finding in a JSON file; 1 in other files, and where it cannot be told."""
    size = repo.storage.sizes.get(finding.path, 0)
    if not finding.path.endswith(".json") or not 0 < size <= _LARGEST:
        return 1
    try:
        return line_of(repo.storage.read(finding.path).decode(), finding.location)
    except (MmfmtError, ValueError, IndexError, RecursionError):
        return 1
