"""Hostile repos: exit 1 or 2 with a reason, never a traceback, a hang or a memory blow-up.

The cases are the same in every run. MMFMT_FUZZ_CASES says how many repos are verified (2,000 if
not said), and one in 500 goes through a command.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmfmt.errors import MmfmtError, printable
from mmfmt.verify.findings import Check, Problem, Rule
from mmfmt.verify.reports import FORMATS
from mmfmt.verify.run import rules_of
from mmfmt.verify.subject import Subject
from tests.conftest import Run
from tests.fuzz import campaign, oracle
from tests.fuzz.attacks import ATTACKS, Attack
from tests.fuzz.cases import Case, named
from tests.fuzz.disk import laid_out
from tests.fuzz.micro import MAKERS, good_files

CASES = int(os.environ.get("MMFMT_FUZZ_CASES", "2000"))
# cases of each repo in a hundred, in parts that several processes share; most go to the one that
# is verified fastest
_SHARES = {"pixtral": [2], "latent": [3], "audio": [2], "modelopt": [9] * 7 + [10] * 3}
PARTS = [(repo, part, n) for repo, parts in _SHARES.items() for part, n in enumerate(parts)]
FILE_RULES = ",".join(rule.id for rule in rules_of("tokenizers"))


@pytest.mark.parametrize("repo", MAKERS)
def test_repos_are_good_before_they_are_mutated(repo: str) -> None:
    verdict = oracle.judged(good_files(repo), rules_of("tokenizers"))
    assert verdict and not verdict.report.count("error") and verdict.report.skipped == ()


@pytest.mark.parametrize(("repo", "part", "share"), PARTS)
def test_hostile_repos_are_verified(repo: str, part: int, share: int) -> None:
    """One case in ten thousand that does harm fails this; its name makes it again."""
    count = max(CASES * share // 100, 1)
    outcomes = campaign.run(Case(repo, part, number) for number in range(count))
    assert outcomes.total() == count
    assert outcomes["failed"] and outcomes["passed"], "mutations that all do the same try nothing"


COMMANDS = {
    "verify": ("verify", "{repo}", "--select", FILE_RULES),
    "fix": ("verify", "{repo}", "--select", FILE_RULES, "--fix", "--format", "markdown"),
    "inspect": ("inspect", "{repo}"),
    "page": ("inspect", "{repo}", "--html", "{out}.html"),
    "to consolidated": ("convert", "hf-to-consolidated", "{repo}", "{out}"),
    "to HF": ("convert", "consolidated-to-hf", "{repo}", "{out}"),
    "reorder": ("convert", "reorder", "{repo}", "{out}", "--reader", "native"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_hostile_repos(command: str, tmp_path: Path, run: Run) -> None:
    """Exit 0, 1 or 2, one line on stderr for 2, and nothing that a terminal would obey."""
    for number in range(max(CASES // 500 // len(COMMANDS), 1)):
        case, repo = Case("pixtral", 1000, number), tmp_path / str(number)
        repo.mkdir()
        if laid_out(case.files(), repo):
            words = (w.format(repo=repo, out=f"{repo}-out") for w in COMMANDS[command])
            outcome = run(*words)
            assert outcome.code in (0, 1, 2), case
            for line in (outcome.out + outcome.err).splitlines():
                assert line == printable(line), (case, line)
            assert outcome.code != 2 or outcome.error, case


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_are_told(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in few seconds and little memory, and none of these repos passes as if nothing were."""
    monkeypatch.setattr(oracle, "PATIENCE", 20)
    verdict = oracle.judged(attack(), rules_of("tokenizers"))
    assert verdict and verdict.report.findings
    for name in FORMATS:
        oracle.check_report(verdict, name)


# --- that the oracle would see it ---


def _raises(_: Subject) -> Iterator[Problem]:
    yield Problem("config.json", "", {"a": "b"}["missing"])


def _hangs(_: Subject) -> Iterator[Problem]:
    while True:
        pass


def _hoards(_: Subject) -> Iterator[Problem]:
    yield Problem("config.json", "", str(len(bytearray(3 * oracle.MEMORY))))


def _looks_away(_: Subject) -> Iterator[Problem]:
    yield from ()
    raise MmfmtError("config.json", "cannot be read")


HARMS: dict[str, tuple[Check, type[BaseException]]] = {
    "traceback": (_raises, KeyError),
    "hang": (_hangs, oracle.TooSlowError),
    "memory": (_hoards, MemoryError),
    "blind": (_looks_away, oracle.HarmError),
}


@pytest.mark.parametrize(("check", "harm"), HARMS.values(), ids=HARMS)
def test_harm_is_seen(
    check: Check, harm: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "PATIENCE", 0.2)
    with pytest.raises(harm):
        oracle.judged(good_files("modelopt"), [_rule(check)])


def test_a_case_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """And made again from it, byte by byte."""
    case = Case("modelopt", 3, 14)
    assert named(str(case)).files() == case.files() != good_files("modelopt")
    monkeypatch.setattr(campaign, "affected", lambda *_: [_rule(_raises)])
    with pytest.raises(campaign.FailedCaseError, match=r"tests\.fuzz modelopt:3:14 "):
        campaign.outcome(case)


def _rule(check: Check) -> Rule:
    return Rule("MMF999", "harm", "error", "header", check)
