"""Run the rules over a repo."""

from dataclasses import dataclass
from pathlib import Path

from mmfmt.errors import MmfmtError
from mmfmt.repo import open_repo
from mmfmt.verify.findings import Finding, Rule
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.subject import Subject


@dataclass(frozen=True)
class Skipped:
    """A rule that could not look, and why."""

    rule: str
    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """Everything that the rules had to say of a repo."""

    repo: str
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)


def verify(path: Path) -> Report:
    """Run every rule; MmfmtError if there is no checkpoint to look at."""
    subject = Subject(open_repo(path))
    if not subject.models:
        fix = "name a folder with model*.safetensors or consolidated*.safetensors"
        raise MmfmtError(str(path), "holds no checkpoint", fix)
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    for rule in registered_rules():
        _run(rule, subject, findings, skipped)
    return Report(str(path), tuple(findings), tuple(skipped))


def _run(rule: Rule, subject: Subject, findings: list[Finding], skipped: list[Skipped]) -> None:
    try:
        findings.extend(rule.findings(subject))
    except MmfmtError as error:
        skipped.append(Skipped(rule.id, rule.name, str(error)))
