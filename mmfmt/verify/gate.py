"""Whether a repo passes: the report on it, judged by options."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from mmfmt.repo import Advance, Repo
from mmfmt.verify.findings import Finding, plural
from mmfmt.verify.options import Expected, Options
from mmfmt.verify.run import Report
from mmfmt.verify.run import verify as run


@dataclass(frozen=True)
class Verdict:
    """A report on a repo, the options it is judged by, and how many findings were mended."""

    repo: Repo
    options: Options
    whole: Report
    fixed: int = 0

    @cached_property
    def report(self) -> Report:
        """The report without what is expected."""
        left = tuple(f for f in self.whole.findings if not self.options.expects(f))
        return replace(self.whole, findings=left)

    @cached_property
    def expected(self) -> tuple[tuple[Finding, Expected], ...]:
        """Findings that do not count, each with the entry that says why."""
        found = ((f, self.options.expects(f)) for f in self.whole.findings)
        return tuple((finding, entry) for finding, entry in found if entry)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the repo does not pass, in words; empty if it does."""
        return tuple(self._failures())

    def _failures(self) -> Iterator[str]:
        report, options = self.report, self.options
        if errors := report.count("error"):
            yield plural(errors, "error")
        if options.fail_on == "warning" and (warnings := report.count("warning")):
            yield f"{plural(warnings, 'warning')} (--fail-on warning)"
        if report.blind:
            blind = sum(not skipped.missing for skipped in report.skipped)
            yield f"the repo kept {plural(blind, 'rule')} from looking and no error says why"
        if options.strict and report.skipped:
            yield f"{plural(len(report.skipped), 'rule')} skipped (--strict)"

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader must know of how the repo's own file bends the rules."""
        occurred = {entry for _, entry in self.expected}
        ran = {rule.id for rule in self.options.rules}
        stale = [e for e in self.options.expected if e.rule in ran and e not in occurred]
        lines = (f"{e.rule} in {e.path} is expected and did not occur" for e in stale)
        return (*self.options.notices, *(f"{self.options.file}: {line}" for line in lines))

    def counts(self, finding: Finding) -> bool:
        """Whether a finding of this level fails the repo."""
        return finding.level in ("error", self.options.fail_on)


def judge(repo: Repo, options: Options, advance: Advance | None = None) -> Verdict:
    """Run the rules that the options choose; MmfmtError if there is nothing to look at."""
    return Verdict(repo, options, run(repo, options.rules, advance))
