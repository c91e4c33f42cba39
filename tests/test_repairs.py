"""Repairs of quantization sections leave nothing to find."""

import shutil
from pathlib import Path

import pytest

from mmfmt.repo import open_repo
from mmfmt.verify.fix import plan_changes, write_changes
from mmfmt.verify.run import rules_of, verify
from tests.defects import ignore_lists, sections
from tests.defects.defect import Defect
from tests.repos import good_repo

# whose every finding has its repair
MENDED = ("MMF404", "MMF410", "MMF411", "MMF412", "MMF413", "MMF414", "MMF415", "MMF420")
DEFECTS = [d for d in (*ignore_lists.DEFECTS, *sections.DEFECTS) if d.rule in MENDED]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.rule} {d.what}")
def test_a_repaired_repo_is_clean(defect: Defect, tmp_path: Path) -> None:
    folder = shutil.copytree(good_repo(defect.repo), tmp_path / "repo")
    defect.damage(folder)
    repo = open_repo(folder)
    found = verify(repo, rules_of("tokenizers")).findings
    assert found and all(finding.edits for finding in found)
    write_changes(repo, plan_changes(repo, found))
    report = verify(open_repo(folder), rules_of("tokenizers"))
    assert report.findings == () and report.skipped == ()
