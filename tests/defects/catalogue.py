"""What has broken repos before, and which planted defects stand for it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.defects.defect import Defect


def catalogue() -> Mapping[str, str]:
    """What went wrong, by the report that tells of it; without what files cannot show."""
    text = Path(__file__).with_suffix(".toml").read_text()
    entries = {name: e for section in tomllib.loads(text).values() for name, e in section.items()}
    return {name: entry for name, entry in entries.items() if isinstance(entry, str)}


def planted(defects: tuple[Defect, ...]) -> set[str]:
    """The reports that planted defects stand for."""
    return {name.strip() for defect in defects for name in defect.seen.split(",") if name.strip()}
