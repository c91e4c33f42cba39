"""What mmfmt says of a repo."""

from collections.abc import Iterable
from pathlib import Path

from mmfmt.repo import open_repo
from mmfmt.verify.findings import Rule
from mmfmt.verify.run import rules_of, verify

EVERY = tuple(rules_of("bytes"))
# those that run the loaders take seconds, and see only the tokenizer and the processor
QUICK = tuple(rule for rule in EVERY if rule.cost != "loaders")
# None of the tools writes a model card, and every repo needs one.
CARD = "MMF805"


def found(repo: Path, rules: Iterable[Rule] = QUICK) -> set[str]:
    """Ids of the rules that find fault with a repo, a missing model card apart."""
    report = verify(open_repo(repo), rules)
    assert not report.skipped
    ids = {finding.rule for finding in report.findings if finding.level != "note"}
    assert (CARD in ids) != (repo / "README.md").exists()
    return ids - {CARD}
