"""What is checked and what fails: said on the command line, else in the repo's own file."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

from mmfmt.errors import MmfmtError
from mmfmt.repo import Repo
from mmfmt.schemas import validate
from mmfmt.verify.findings import Cost, Finding, Rule
from mmfmt.verify.rules import registered_rules
from mmfmt.verify.run import rules_of

FILE, PYPROJECT = "mmfmt.toml", "pyproject.toml"
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Expected:
    """A finding that does not count: of the rule with this id, in this file of the repo."""

    rule: str
    path: str
    reason: str


@dataclass(frozen=True)
class Options:
    """Selectors are ids (`MMF401`), beginnings of ids (`MMF4`) or names (`missing-module`).

    `file` is the file of the repo that was read, `notices` what it takes out of the check.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    level: Cost = "loaders"
    fail_on: Literal["error", "warning"] = "error"
    strict: bool = False
    expected: tuple[Expected, ...] = ()
    file: str = ""
    notices: tuple[str, ...] = ()

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules to run. MmfmtError if there are none."""
        chosen = {rule.id for rule in selected(self.select, "--select")} if self.select else None
        left_out = {rule.id for rule in selected(self.ignore, "--ignore")}
        wanted = [r for r in registered_rules() if chosen is None or r.id in chosen]
        wanted = [rule for rule in wanted if rule.id not in left_out]
        at_level = {rule.id for rule in rules_of(self.level)}
        rules = tuple(rule for rule in wanted if rule.id in at_level)
        if not rules:
            fix = f"add --level {wanted[0].cost}" if wanted else "select more or ignore less"
            raise MmfmtError("--select and --ignore", "leave no rule to run", fix)
        return rules

    def expects(self, finding: Finding) -> Expected | None:
        """The entry that a finding is expected by."""
        place = (finding.rule, finding.path)
        return next((e for e in self.expected if (e.rule, e.path) == place), None)


def selected(selectors: Iterable[str], place: str) -> list[Rule]:
    """The rules that selectors name, by id. MmfmtError for one that names none."""
    found: dict[str, Rule] = {}
    for text in selectors:
        rules = [rule for rule in registered_rules() if _is_named(rule, text)]
        if not rules:
            raise MmfmtError(place, f"no rule is called {text!r}", _nearest(text))
        found |= {rule.id: rule for rule in rules}
    return [found[id] for id in sorted(found)]


def _nearest(text: str) -> str:
    names = [name for rule in registered_rules() for name in (rule.id, rule.name)]
    near = get_close_matches(text, names, 1)
    return f"did you mean {near[0]}?" if near else "mmfmt rules lists them"


def _is_named(rule: Rule, selector: str) -> bool:
    return rule.name == selector or (selector != "" and rule.id.startswith(selector))


def read_options(repo: Repo, given: Mapping[str, Any], isolated: bool = False) -> Options:
    """Options given on the command line, and for the others what the repo's file says.

    A given `select` replaces what the file selects and ignores. `isolated` leaves the file
    unread. Raises MmfmtError for a file that is no TOML, and for keys and rules not known.
    """
    for key in ("select", "ignore"):
        selected(given.get(key, ()), f"--{key}")
    file, body = ("", {}) if isolated else _stated(repo)
    if "select" in given:
        body.pop("ignore", None)
    stated = {key.replace("-", "_"): _frozen(value) for key, value in body.items()}
    kept = {key: value for key, value in stated.items() if key not in given}
    return Options(**kept, **given, file=file, notices=tuple(_notices(file, kept)))


def _stated(repo: Repo) -> tuple[str, dict[str, Any]]:
    """The name of the file with options, and what it says, checked."""
    if repo.has(FILE):
        return FILE, _checked(FILE, _toml(repo, FILE))
    if repo.has(PYPROJECT):
        tools = _toml(repo, PYPROJECT).get("tool")
        if isinstance(tools, dict) and "mmfmt" in tools:
            return PYPROJECT, _checked(f"{PYPROJECT}: tool.mmfmt", tools["mmfmt"])
    return "", {}


def _toml(repo: Repo, name: str) -> dict[str, Any]:
    if repo.storage.sizes[name] > _LARGEST:
        raise MmfmtError(name, "is larger than a megabyte", "--isolated leaves it unread")
    try:
        return tomllib.loads(repo.storage.read(name).decode())
    except (ValueError, RecursionError) as error:
        fix = "mend it, or leave it unread with --isolated"
        raise MmfmtError(name, f"is not valid TOML: {error}", fix) from error


def _checked(place: str, body: dict[str, Any]) -> dict[str, Any]:
    validate(body, "options", place)
    for key in ("select", "ignore"):
        selected(body.get(key, ()), f"{place}: {key}")
    for number, entry in enumerate(body.get("expected", ())):
        rules = selected([entry["rule"]], f"{place}: expected[{number}].rule")
        if len(rules) > 1:
            problem = f"{entry['rule']!r} is not one rule"
            raise MmfmtError(f"{place}: expected[{number}].rule", problem)
        entry["rule"] = rules[0].id
    return body


def _frozen(value: Any) -> Any:
    """TOML's lists and tables as Options has them."""
    if isinstance(value, list):
        return tuple(Expected(**item) if isinstance(item, dict) else item for item in value)
    return value


def _notices(file: str, stated: Mapping[str, Any]) -> Iterable[str]:
    for key, verb in (("select", "lets only {} run"), ("ignore", "ignores {}")):
        if stated.get(key):
            rules = verb.format(", ".join(stated[key]))
            yield f"{file} in the repo {rules} (--isolated leaves it unread)"
    if stated.get("level") in ("header", "tokenizers"):
        yield f"{file} in the repo keeps loaders from running (--level loaders runs them)"
