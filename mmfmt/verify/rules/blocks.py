"""4xx: what AutoRound's own section says of single modules."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.checkpoint import Module
from mmfmt.ignore import IgnoreReader, readers_of
from mmfmt.model import Model
from mmfmt.verify.findings import Problem, rule, some
from mmfmt.verify.modules import quantized_modules
from mmfmt.verify.subject import Subject

METHOD = "auto-round"
_KEYS = ("block_name_to_quantize", "to_quant_block_names")
# bits from which vLLM takes a module for unquantized
_WHOLE = 16
# what makes a key of extra_config an expression to vLLM
_SPECIAL = re.compile(r"[*+?^$()\[\]{}|\\]")
_FIX = "name the modules that hold the quantized layers, such as model.language_model.layers"


@rule("MMF428")
def quantized_blocks_differ_from_tensors(subject: Subject) -> Iterator[Problem]:
    """In AutoRound's own format, block_name_to_quantize and extra_config tell just the modules
    that are quantized.

    vLLM takes a module for quantized whose name begins with a block's, but for those with 16 bits
    in extra_config, after a change of prefixes as in ignore lists (its INCConfigParser). Names of
    another generation, or no list at all, make it look for packed words in the vision tower, or
    for plain weights in the layers.

    Repair: name the modules that hold the quantized layers, such as model.language_model.layers.
    """
    for model in subject.models:
        # nothing quantized at all is another rule's business
        if model.quantization and model.quantization.method == METHOD and quantized_modules(model):
            for reader in readers_of(model.config_file, model.checkpoint.naming.family):
                if reader.label.startswith("vllm"):
                    yield from _differences(model, Blocks(model.quantization.body, reader))


def _differences(model: Model, blocks: "Blocks") -> Iterator[Problem]:
    reader = blocks.reader
    asked = [m for m in model.checkpoint.modules.values() if reader.asks(m)]
    wrong = [m for m in asked if blocks.quantized(m) is not m.quantized]
    for quantized, taken_for in ((True, "unquantized"), (False, "quantized")):
        if names := [m.name for m in wrong if m.quantized is quantized]:
            message = f"{reader.label} takes {some(names)} for {taken_for}, against the tensors"
            place = f"{model.quantization_key}.{blocks.key}"
            yield Problem(model.config_file, place, message, _FIX)


@dataclass(frozen=True)
class Blocks:
    """What a section says of each module to a reader."""

    body: Mapping[str, Any]
    reader: IgnoreReader

    @property
    def key(self) -> str:
        """Where the blocks stand."""
        return next((key for key in _KEYS if self.body.get(key)), _KEYS[0])

    def quantized(self, module: Module) -> bool:
        """Whether vLLM takes a module for quantized."""
        name = self.reader.name(module)
        for entry, bits in self._bits.items():
            if name == entry or name.endswith(f".{entry}"):
                return bits < _WHOLE
        if any(map(_SPECIAL.search, self._bits)):  # not tried: what is there is taken for right
            return module.quantized
        return not self._names or name.startswith(self._names)

    @cached_property
    def _bits(self) -> dict[str, int]:
        extra = self.body.get("extra_config") or {}
        return {
            self.reader.rewrite(name): said.get("bits") or self.body["bits"]
            for name, said in extra.items()
        }

    @cached_property
    def _names(self) -> tuple[str, ...]:
        said = self.body.get(self.key) or []
        names = said.split(",") if isinstance(said, str) else said
        return tuple(map(self.reader.rewrite, names))
