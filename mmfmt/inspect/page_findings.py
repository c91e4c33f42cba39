"""What the rules say of a repo, on its page."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import get_args
from xml.etree.ElementTree import Element

from mmfmt.inspect.markup import element, table
from mmfmt.verify.consumers import Choice
from mmfmt.verify.findings import Level
from mmfmt.verify.gate import Verdict
from mmfmt.verify.reports.grouping import Group, grouped
from mmfmt.verify.reports.text import counts, skipped_by_reason

_LEVELS: tuple[Level, ...] = get_args(Level)
# lines of one rule that are listed
_MOST = 50
# rules up to which all are unfolded
_OPEN = 3


def verdict_line(verdict: Verdict) -> Element:
    """What the gate says, in a word and in numbers."""
    word, state = ("failed", "error") if verdict.failures else ("ok", "good")
    badge = element("strong", word, class_=f"badge {state}")
    why = () if verdict.report.count("error") else verdict.failures
    told = ", ".join((*counts(verdict), *why))
    return element("p", badge, element("span", told), class_="verdict")


def findings_section(verdict: Verdict) -> Element:
    """Findings rule by rule, errors first; then what else must be known of the check."""
    ordered = sorted(grouped(verdict.report.findings), key=_rank)
    rules = [[*groups] for _, groups in groupby(ordered, key=_rank)]
    nothing = element("p", "No rule has found anything.", class_="quiet")
    return element(
        "section",
        element("h2", "Findings"),
        *(_rule(groups, len(rules) <= _OPEN) for groups in rules),
        None if rules else nothing,
        *_remarks(verdict),
        _consumers(verdict.report.consumers),
        id="findings",
    )


def _rank(group: Group) -> tuple[int, str]:
    return _LEVELS.index(group.first.level), group.first.rule


def _rule(groups: Sequence[Group], opened: bool) -> Element:
    first = groups[0].first
    summary = element(
        "summary",
        element("span", first.level, class_=f"badge {first.level}"),
        element("code", first.rule),
        element("span", first.name),
        element("span", groups[0].text, class_="grow quiet"),
        element("span", f"{sum(len(g.findings) for g in groups):,}", class_="count"),
    )
    more = len(groups) - _MOST
    rest = element("li", f"and {more:,} more", class_="quiet") if more > 0 else None
    body = element("ul", *map(_group, groups[:_MOST]), rest)
    return element("details", summary, body, class_="finding", open="" if opened else None)


def _group(group: Group) -> Element:
    place = ": ".join(filter(None, (group.path, group.location)))
    return element(
        "li",
        element("code", place),
        element("span", group.message),
        element("span", f"Fix: {group.fix}", class_="fix") if group.fix else None,
    )


def _remarks(verdict: Verdict) -> Iterator[Element]:
    """What is expected, what could not be looked at, and what the repo's own file takes out."""
    for finding, entry in verdict.expected:
        place = f"expected: {finding.rule} in {finding.path}: {entry.reason}"
        yield element("p", place, class_="quiet")
    for reason, ids in skipped_by_reason(verdict).items():
        yield element("p", f"skipped {', '.join(ids)}: {reason}", class_="quiet")
    for notice in verdict.notices:
        yield element("p", notice, class_="quiet")


def _consumers(choices: Sequence[Choice]) -> Element | None:
    """Who reads what: each consumer's tokenizer, class and weights."""
    if not choices:
        return None
    heads = [(name, "") for name in ("who", "tokenizer", "class", "weights", "")]
    summary = element("summary", "Who reads what")
    return element("details", summary, table(heads, map(_choice, choices)), class_="readers")


def _choice(choice: Choice) -> Element:
    names = (choice.tokenizer, choice.model, choice.weights)
    cells = (element("td", element("code", name)) for name in names)
    who = element("th", choice.consumer, scope="row")
    return element("tr", who, *cells, element("td", choice.note, class_="alarm"))
