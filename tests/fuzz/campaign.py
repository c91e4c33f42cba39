"""Many cases in a row, and what a person needs to look into one that fails."""

import faulthandler
import gc
from collections import Counter
from collections.abc import Iterable

from mmfmt.verify.reports import FORMATS
from mmfmt.verify.run import rules_of
from tests.fuzz import oracle
from tests.fuzz.affected import affected
from tests.fuzz.cases import Case, changed

# seconds after which so many cases, of which one heeds no signal, take the whole process with them
_STUCK, _WATCHED = 600, 50
# every so manieth report is written, in each format in turn
_WRITTEN = 100
# and every so manieth repo is looked at by all rules, not only by those that read what is changed
_WHOLE = 25


class FailedCaseError(Exception):
    """A case that failed."""


def run(cases: Iterable[Case]) -> Counter[str]:
    """How many cases were refused, failed and passed; FailedCaseError for one that did harm."""
    gc.freeze()  # what other tests have left would be looked through again and again
    gc.disable()
    try:
        return Counter(outcome(case) for case in cases)
    finally:
        gc.enable()
        gc.unfreeze()
        faulthandler.cancel_dump_traceback_later()


def outcome(case: Case) -> str:
    """What became of a repo: `refused` (exit 2), `failed` (exit 1) or `passed` (exit 0)."""
    if case.number % _WATCHED == 0:
        gc.collect()
        faulthandler.dump_traceback_later(_STUCK, exit=True)
    files = case.files()
    names = changed(case.repo, files)
    whole = case.number % _WHOLE == 0
    rules = rules_of("tokenizers") if whole else affected(case.repo, files, names)
    try:
        verdict = oracle.judged(files, rules)
        if verdict and case.number % _WRITTEN == 0:
            oracle.check_report(verdict, FORMATS[case.number // _WRITTEN % len(FORMATS)])
    except (Exception, oracle.TooSlowError) as error:
        said = f"{case} ({', '.join(names)}): python -m tests.fuzz {case} shows it"
        raise FailedCaseError(said) from error
    return "refused" if not verdict else "failed" if verdict.failures else "passed"
