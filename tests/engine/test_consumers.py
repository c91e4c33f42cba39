"""The table of who takes what, against vLLM's own choices."""

import json
import shutil
from pathlib import Path

import pytest

from mmfmt.repo import open_repo
from mmfmt.verify.consumers import choices
from tests.repos import good_repo
from tests.test_consumers import ENGINES, without

from .conftest import Vllm

pytestmark = pytest.mark.engine

MODES = {
    "auto": "vLLM",
    "mistral": "vLLM --tokenizer-mode mistral",
    "hf": "vLLM --tokenizer-mode hf",
}


def test_vllm_takes_what_the_table_says(tmp_path: Path, vllm: Vllm) -> None:
    """Model and tokenizer, for every set of files that decides and every tokenizer mode."""
    expected, asked = [], []
    for files, (missing, _) in ENGINES.items():
        repo = Path(shutil.copytree(good_repo("bf16"), tmp_path / files.replace(" ", "-")))
        without(*missing)(repo)
        said = {choice.consumer: choice for choice in choices(open_repo(repo))}
        for mode, consumer in MODES.items():
            choice = said[consumer]
            lacking = "No tokenizer file found" in choice.note
            expected.append([choice.model, "" if lacking else choice.tokenizer])
            asked.append(f"{mode}:{repo}")
    lines = [line for line in vllm("pick", *asked).splitlines() if line.startswith("[")]
    assert list(map(json.loads, lines)) == expected
