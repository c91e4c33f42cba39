"""Campaigns longer than the suite's, and one case in full.

python -m tests.fuzz --cases 1000000 --seed 7     as many cases of each good repo
python -m tests.fuzz pixtral:7:4711               what becomes of one
"""

import argparse
import sys
import time
import traceback

from tests.fuzz import campaign
from tests.fuzz.cases import Case, named
from tests.fuzz.micro import MAKERS


def main() -> None:
    """Run what the command line names; exit 1 if a case did harm."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("case", nargs="?", type=named)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repo", choices=tuple(MAKERS), action="append")
    given = parser.parse_args()
    if given.case:
        print(campaign.outcome(given.case))
        return
    done = [_campaign(repo, given.seed, given.cases) for repo in given.repo or MAKERS]
    sys.exit(0 if all(done) else 1)


def _campaign(repo: str, seed: int, count: int) -> bool:
    """Print what became of the cases, and the first of each way to fail."""
    start = time.monotonic()
    found: dict[str, str] = {}
    for number in range(count):
        try:
            campaign.outcome(Case(repo, seed, number))
        except campaign.FailedCaseError as error:
            told = traceback.format_exception(error.__cause__, limit=-3)
            found.setdefault("".join(told[:-1]), f"{error}\n{''.join(told)[-2000:]}")
    print(f"{repo}: {count} cases in {time.monotonic() - start:.0f} s, {len(found)} kinds of harm")
    print(*found.values(), sep="\n")
    return not found


main()
