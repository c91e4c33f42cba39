"""The repairs that rules offer: carried out, they leave a repo that is clean and that loads."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers.utils.hub import get_checkpoint_shard_files

from mmfmt.repo import open_repo
from mmfmt.verify.fix import plan_changes, write_changes
from mmfmt.verify.run import rules_of, verify
from tests.defects import DEFECTS
from tests.defects.defect import Defect
from tests.repos import HF

# rules that know what belongs in a file's place whatever the defect
MENDED = {"MMF104", "MMF105", "MMF108", "MMF109", "MMF110", "MMF506", "MMF508", "MMF511", "MMF512"}
BY_RULE = [d for d in DEFECTS if d.rule in MENDED and "two answers" not in d.what]


@pytest.mark.parametrize("defect", BY_RULE, ids=lambda d: f"{d.rule} {d.what}")
def test_repairs_leave_nothing(defect: Defect, tmp_path: Path) -> None:
    found = defect.found(tmp_path).findings
    repo = open_repo(tmp_path / "repo")
    write_changes(repo, plan_changes(repo, found))
    assert verify(open_repo(tmp_path / "repo"), rules_of("header")).findings == ()


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.rule in ("MMF108", "MMF109", "MMF110")])
def test_an_index_written_anew_is_what_transformers_reads(defect: Defect, tmp_path: Path) -> None:
    found = defect.found(tmp_path).findings
    repo = open_repo(tmp_path / "repo")
    write_changes(repo, plan_changes(repo, found))
    index = tmp_path / "repo" / found[0].path
    body = json.loads(index.read_text())
    files, metadata = get_checkpoint_shard_files(str(tmp_path / "repo"), str(index))
    total, names = 0, set()
    for file in files:
        with safe_open(file, "pt") as tensors:
            names |= set(tensors.keys())
            total += sum(tensors.get_tensor(name).nbytes for name in tensors.keys())  # noqa: SIM118
    assert body["metadata"]["total_size"] == total
    assert set(metadata["all_checkpoint_keys"]) == names


def test_transformers_stops_at_an_index_without_metadata(tmp_path: Path) -> None:
    """What MMF109 says of it."""
    (defect,) = (d for d in DEFECTS if (d.rule, d.what) == ("MMF109", "no metadata"))
    defect.found(tmp_path)
    index = tmp_path / "repo" / f"{HF}.index.json"
    with pytest.raises(KeyError, match="metadata"):
        get_checkpoint_shard_files(str(tmp_path / "repo"), str(index))
