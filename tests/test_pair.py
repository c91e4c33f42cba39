"""Both layouts in one folder hold the same values: every scheme in every family."""

from pathlib import Path

import pytest

from mmfmt.repo import open_repo
from mmfmt.verify.run import Report, rules_of, verify
from tests import builders
from tests.conftest import Run
from tests.test_roundtrip import succeed
from tests.test_schemes import READERS
from tests.test_schemes_families import KINDS, NO_LIST, SCHEMES, quantized

RULES = [rule for rule in rules_of("bytes") if rule.id in ("MMF701", "MMF702")]


def compare(folder: Path) -> Report:
    """What the rules on pairs say of a folder."""
    report = verify(open_repo(folder), RULES)
    assert report.skipped == ()
    return report


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_converted_layouts_are_equal(tmp_path: Path, run: Run, kind: str, name: str) -> None:
    """Silent on a pair in either row order."""
    if kind.startswith("voxtral") and name in NO_LIST:
        pytest.skip("refused by the converter")
    folder = quantized(tmp_path / "hf", kind, name)
    for reader in READERS:
        succeed(run("convert", "hf-to-consolidated", folder, "--reader", reader, "--force"))
        assert compare(folder).findings == ()


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_compared(tmp_path: Path, run: Run, kind: str) -> None:
    """One changed value is found in whichever tensor it is."""
    folder = tmp_path / "hf"
    builders.save_model(folder, kind)
    succeed(run("convert", "hf-to-consolidated", folder))
    tensors = builders.load_set(folder, "consolidated")
    builders.save_set(folder, [{n: -t - 1 for n, t in tensors.items()}], "consolidated")
    found = {finding.location for finding in compare(folder).findings}
    assert found == set(tensors)
