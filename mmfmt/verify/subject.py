"""What the rules look at: a repo, and the understanding of each of its layouts.

Everything is computed on first use and raises MmfmtError where it cannot be: the rule that
asked is then skipped with that reason, and another rule reports the cause.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.checkpoint import Checkpoint, Module, open_checkpoint
from mmfmt.configs import CONFIG, PARAMS, HfConfig, open_config, to_params
from mmfmt.errors import MmfmtError
from mmfmt.layout import Symbols, flatten
from mmfmt.quantization import Quantization, Scheme, parse_quantization
from mmfmt.repo import Repo, WeightSet
from mmfmt.schemas import validate


@dataclass(frozen=True)
class Side:
    """One layout of a repo: its weights and the config file that describes them."""

    repo: Repo
    weights: WeightSet
    config_file: str

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.weights)

    @cached_property
    def body(self) -> dict[str, Any]:
        """The config file, checked against its schema."""
        body = self.repo.json(self.config_file)
        validate(body, self.config_file.removesuffix(".json"), self.config_file)
        return body

    @cached_property
    def hf_config(self) -> HfConfig:
        return open_config(self.body)

    @cached_property
    def params(self) -> Mapping[str, Any]:
        """The fields of params.json, as found or as the HF config says them."""
        if self.config_file == CONFIG:
            return to_params(self.hf_config, self.checkpoint.has("output"))
        for unsupported in ("moe", "qk_nope_head_dim", "multimodal"):
            if self.body.get(unsupported):
                raise MmfmtError(f"{PARAMS}: {unsupported}", "is not supported yet")
        return self.body

    @cached_property
    def symbols(self) -> Symbols:
        return flatten(self.params)

    @property
    def multimodal(self) -> bool:
        return bool(self.params.get("vision_encoder"))

    @cached_property
    def quantization(self) -> Quantization | None:
        """The quantization config of the config file, under whichever key it stands."""
        for key in ("quantization", "quantization_config"):
            if self.body.get(key):
                return parse_quantization(self.body[key], f"{self.config_file}: {key}")
        return None

    def scheme(self, module: Module) -> Scheme | None:
        """The scheme that the config gives a linear module, ignore list aside."""
        return self.quantization.scheme_of(module) if self.quantization else None

    @property
    def quantization_place(self) -> str:
        """JSON path of the quantization config."""
        return "quantization_config" if self.body.get("quantization_config") else "quantization"


@dataclass(frozen=True)
class Subject:
    """A repo under verification."""

    repo: Repo

    @cached_property
    def hf(self) -> Side:
        return Side(self.repo, self.repo.hf, CONFIG)

    @cached_property
    def native(self) -> Side:
        return Side(self.repo, self.repo.native, PARAMS)

    @property
    def sides(self) -> list[Side]:
        """The layouts of which the repo has weight files or an index."""
        return [side for side in (self.hf, self.native) if side.weights.exists]

    @property
    def dual(self) -> bool:
        """Whether both layouts are there, with their config files."""
        return len(self.sides) == 2 and all(self.repo.has(s.config_file) for s in self.sides)
