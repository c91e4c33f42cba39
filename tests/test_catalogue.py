"""Every defect that has broken a published repo is planted, and so is proven to be found."""

from tests.defects import DEFECTS
from tests.defects.catalogue import catalogue, planted


def test_every_report_is_planted() -> None:
    assert planted(DEFECTS) >= catalogue().keys(), sorted(catalogue().keys() - planted(DEFECTS))
