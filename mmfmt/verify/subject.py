"""What the rules look at: a repo, and each of its layouts understood.

A layout that cannot be understood raises MmfmtError: the rule that asked is then skipped with
that reason, and another rule reports the cause.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmfmt.errors import MmfmtError
from mmfmt.model import Model, hf_model, native_model
from mmfmt.repo import Advance, Repo
from mmfmt.verify.probe import Loaders, Probe
from mmfmt.verify.rotary import Judged, judged
from mmfmt.verify.tokenizers import Tokenizers

if TYPE_CHECKING:
    from mmfmt.verify.findings import Check

# endings of tokenizer, processor and config files
BESIDE_WEIGHTS = (".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True)
class Subject:
    """A repo under verification by some checks.

    `advance` is told of the bytes of weights that are read.
    """

    repo: Repo
    advance: Advance = field(repr=False)
    checks: frozenset["Check"] = field(repr=False)
    _failed: dict["Check", bool] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def hf(self) -> Model:
        return hf_model(self.repo)

    @cached_property
    def native(self) -> Model:
        return native_model(self.repo)

    def fails(self, check: "Check") -> bool:
        """Whether a check is made and finds something; it is asked once for all who wonder."""
        if check not in self.checks:
            return False
        if check not in self._failed:
            self._failed[check] = next(check(self), None) is not None
        return self._failed[check]

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """The tokenizer files."""
        return Tokenizers(self.repo)

    @property
    def models(self) -> list[Model]:
        """The layouts of which the repo has weight files or an index."""
        return [model for model in (self.hf, self.native) if model.weights.exists]

    @property
    def dual(self) -> bool:
        """Whether both layouts are there, with their config files."""
        return len(self.models) == 2 and all(self.repo.has(m.config_file) for m in self.models)

    @cached_property
    def folder(self) -> Path:
        """A local folder with the files that lie beside the weights, for loaders to read."""
        names = [n for n in self.repo.names if n.endswith(BESIDE_WEIGHTS)]
        names += [self.repo.tokenizer_name] if self.repo.tokenizer_name else []
        if not names:
            raise MmfmtError(self.repo.storage.label, "holds no config and no tokenizer")
        return [self.repo.storage.fetch(name) for name in names][-1].parent

    @cached_property
    def loaders(self) -> Loaders:
        """The loaders of its users at work on the repo."""
        return Loaders(self.folder)

    @cached_property
    def probe(self) -> Probe:
        """What they make of it."""
        return self.loaders.answer()

    @property
    def probed(self) -> Probe | None:
        """The same, if a rule had the loaders run."""
        return vars(self).get("probe")

    @cached_property
    def row_orders(self) -> tuple[Judged, ...]:
        """The row order of every kind of rotary module of the first layout, from its weights.

        Of two layouts, the other holds the same rows (MMF702).
        """
        return tuple(judged(self.models[0], self.advance))
