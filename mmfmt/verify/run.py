"""Run the rules over a repo."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import get_args

from mmfmt.errors import MissingPackageError, MmfmtError
from mmfmt.repo import Advance, Repo
from mmfmt.verify.consumers import Choice, choices
from mmfmt.verify.findings import Cost, Finding, Rule
from mmfmt.verify.probe import Loaders
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.subject import Subject


@dataclass(frozen=True)
class Skipped:
    """A rule that could not look, and why: the repo, or this machine (`missing`)."""

    rule: str
    name: str
    reason: str
    missing: bool = False


@dataclass(frozen=True)
class Report:
    """Everything that the rules had to say of a repo."""

    repo: str
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    consumers: tuple[Choice, ...] = ()

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)

    @property
    def blind(self) -> bool:
        """Whether something in the repo kept a rule from looking, and no finding says what."""
        return not self.count("error") and any(not s.missing for s in self.skipped)


def verify(
    repo: Repo, rules: Iterable[Rule] | None = None, advance: Advance | None = None
) -> Report:
    """Run rules (all that read no bytes of the weights, if not said otherwise) over a repo.

    `advance` is told of the bytes of weights that are read. Raises MmfmtError if there is no
    checkpoint to look at.
    """
    chosen = rules_of("loaders") if rules is None else list(rules)
    checks = frozenset(rule.check for rule in chosen)
    subject = Subject(repo, advance or (lambda _: None), checks)
    if not subject.models:
        fix = "name a folder with model*.safetensors or consolidated*.safetensors"
        raise MmfmtError(repo.storage.label, "holds no checkpoint", fix)
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    if any(rule.cost == "bytes" for rule in chosen):
        _ = repo.path  # whole weights are read from this disk only
    with _loaders_beside(subject, chosen):
        for rule in chosen:
            _run(rule, subject, findings, skipped)
    consumers = choices(repo, subject.probed)
    return Report(repo.storage.label, tuple(findings), tuple(skipped), consumers)


def rules_of(level: str) -> list[Rule]:
    """The rules of a level, `header`, `loaders` or `bytes`, and of those before it."""
    costs = get_args(Cost)
    chosen = costs[: costs.index(level) + 1]
    return [rule for rule in registered_rules() if rule.cost in chosen]


@contextmanager
def _loaders_beside(subject: Subject, rules: Iterable[Rule]) -> Iterator[None]:
    """The loaders at work while other rules look, if some rule asks what they make of the repo."""
    started: Loaders | None = None
    if any(rule.cost == "loaders" for rule in rules):
        with suppress(MmfmtError):  # the rule that asks tells
            started = subject.loaders
    try:
        yield
    finally:
        if started:
            started.stop()


def _run(rule: Rule, subject: Subject, findings: list[Finding], skipped: list[Skipped]) -> None:
    try:
        findings.extend(rule.findings(subject))
    except MmfmtError as error:
        missing = isinstance(error, MissingPackageError)
        skipped.append(Skipped(rule.id, rule.name, str(error), missing))
