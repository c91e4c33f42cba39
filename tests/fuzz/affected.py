"""The rules that a mutation can concern: the others would see what they see in the good repo."""

from collections.abc import Mapping
from functools import cache

from mmfmt.repo import Repo
from mmfmt.verify.findings import Rule
from mmfmt.verify.run import rules_of, verify
from tests.fuzz.memory import Files, Memory
from tests.fuzz.micro import good_files
from tests.fuzz.oracle import scratch


def affected(repo: str, files: Files, changed: list[str]) -> list[Rule]:
    """The rules that read headers, and one of the changed files in the good repo.

    All of them where a file came or went.
    """
    looks = _looks(repo)
    if good_files(repo).keys() != files.keys():
        return rules_of("tokenizers")
    return [rule for rule in rules_of("tokenizers") if looks[rule.id] & set(changed)]


@cache
def _looks(repo: str) -> Mapping[str, set[str]]:
    """The files that each rule reads in a good repo when it is alone."""
    found = {}
    for rule in rules_of("tokenizers"):
        memory = Memory(good_files(repo), scratch())
        verify(Repo(memory), [rule])
        found[rule.id] = memory.seen
    return found
