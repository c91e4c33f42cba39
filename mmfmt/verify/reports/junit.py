"""JUnit XML as Jenkins and GitLab read it: a test case for each rule.

Schema: junit-10.xsd of Jenkins' xunit-plugin.
"""

from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from rich.console import Console

from mmfmt.errors import printable
from mmfmt.verify.findings import Finding, Rule
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import grouped
from mmfmt.verify.reports.text import verdict_line
from mmfmt.verify.run import Skipped


def write(verdict: Verdict, console: Console) -> None:
    """One suite; what fails the repo is a failure, or an error of the rule that could not look."""
    suites = Element("testsuites", name="mmfmt")
    suite = SubElement(suites, "testsuite", name=printable(verdict.report.repo))
    for notice in verdict.notices:
        properties = suite.find("properties")
        properties = SubElement(suite, "properties") if properties is None else properties
        SubElement(properties, "property", name="notice", value=printable(notice))
    for rule in verdict.options.rules:
        _case(suite, rule, verdict)
    SubElement(suite, "system-out").text = verdict_line(verdict).plain
    _count(suite)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    console.file.write(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _case(suite: Element, rule: Rule, verdict: Verdict) -> None:
    case = SubElement(suite, "testcase", classname=f"mmfmt.{rule.id}", name=rule.name)
    findings = [f for f in verdict.report.findings if f.rule == rule.id]
    if counting := [f for f in findings if verdict.counts(f)]:
        failure = SubElement(case, "failure", type=rule.id, message=rule.summary)
        failure.text = _text(counting)
    if others := [f for f in findings if not verdict.counts(f)]:
        SubElement(case, "system-out").text = _text(others)
    for skipped in verdict.report.skipped:
        if skipped.rule == rule.id:
            _skipped(case, skipped, verdict)


def _skipped(case: Element, skipped: Skipped, verdict: Verdict) -> None:
    fails = verdict.options.strict or (verdict.report.blind and not skipped.missing)
    tag = "error" if fails else "skipped"
    SubElement(case, tag, type="skipped", message=printable(skipped.reason))


def _text(findings: Iterable[Finding]) -> str:
    groups = grouped(findings)
    fixes = (f" (fix: {group.fix})" if group.fix else "" for group in groups)
    return "\n".join(f"{g.path}: {g.text}{fix}" for g, fix in zip(groups, fixes, strict=True))


def _count(suite: Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
