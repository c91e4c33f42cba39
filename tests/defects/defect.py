"""One planted defect."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mmfmt.repo import open_repo
from mmfmt.verify.findings import REGISTRY, Rule
from mmfmt.verify.run import Report, rules_of, verify
from tests.damage import Damage
from tests.repos import good_repo


@dataclass(frozen=True)
class Defect:
    """A defect, the one rule that must find it, and the good repo that it is planted in.

    `seen` names where it broke somebody: an issue, or a line of the catalogue.
    """

    rule: str
    what: str
    damage: Damage
    repo: str = "dual"
    level: str = "tokenizers"
    seen: str = ""

    def found(self, folder: Path) -> Report:
        """The report on a copy with the defect."""
        repo = shutil.copytree(good_repo(self.repo), folder / "repo")
        self.damage(repo)
        return verify(open_repo(repo), self._rules())

    def verdict(self, found: set[str]) -> str:
        """What came of it, given the rules that find something."""
        return "found" if found == {self.rule} else "wrongly named" if found else "missed"

    def _rules(self) -> list[Rule]:
        """All rules of the level; those that run loaders, which takes seconds, if one is meant."""
        loaded = REGISTRY[self.rule].cost == "loaders"
        return [rule for rule in rules_of(self.level) if loaded or rule.cost != "loaders"]
