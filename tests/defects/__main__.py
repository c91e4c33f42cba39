"""Plant every defect in a good repo and say which rules found it.

    python -m tests.defects

Prints each defect that is missed or has a wrong name, then the numbers; exits 1 if there is any.
"""

import sys
import tempfile
from pathlib import Path

from tests.defects import DEFECTS
from tests.defects.catalogue import catalogue, planted
from tests.defects.defect import Defect


def verdict(defect: Defect) -> str:
    """`found`, `missed`, or `wrongly named: ...`."""
    with tempfile.TemporaryDirectory() as folder:
        rules = {finding.rule for finding in defect.found(Path(folder)).findings}
    if rules == {defect.rule}:
        return "found"
    return f"wrongly named: {', '.join(sorted(rules))}" if rules else "missed"


def main() -> int:
    """Try them all."""
    verdicts = {defect: verdict(defect) for defect in DEFECTS}
    for defect, said in verdicts.items():
        if said != "found":
            print(f"{said}: {defect.rule} {defect.what} (in {defect.repo}) {defect.seen}")
    found = sum(said == "found" for said in verdicts.values())
    missed = sum(said == "missed" for said in verdicts.values())
    wrong = len(verdicts) - found - missed
    print(f"{len(verdicts)} defects: {found} found, {missed} missed, {wrong} wrongly named")
    known = catalogue().keys()
    print(f"{len(known & planted(DEFECTS))} of {len(known)} reports of the catalogue are planted")
    return 0 if found == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
