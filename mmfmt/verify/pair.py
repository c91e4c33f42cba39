"""The two layouts of a repo against each other: which tensors, and which values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmfmt.checkpoint import Module, Parameter
from mmfmt.convert.plan import PlannedTensor
from mmfmt.convert.stream import opened, stream
from mmfmt.convert.tensors import Layout, Transfer
from mmfmt.model import Key, Model, kv_cache_faults, presence_faults
from mmfmt.quantization import module_faults, packing_of
from mmfmt.reader import Reader, reader, reader_labels, recorded_or_vllm
from mmfmt.repo import Advance, silent

Twins = tuple[Parameter, Parameter]
"""A parameter of the HF layout, and the same one of the consolidated layout."""


@dataclass(frozen=True)
class Pair:
    """Both layouts of one repo."""

    hf: Model
    native: Model

    @cached_property
    def reader(self) -> Reader:
        """Whose row order the consolidated set has; vLLM's where nothing is recorded."""
        return recorded_or_vllm(self.native.weights)

    def twins(self) -> Iterator[Twins]:
        """Every parameter that both layouts hold, in the order of the HF set's bytes."""
        for shard in self.hf.weights.shards:
            for parameter in self.hf.checkpoint.shard(shard):
                if found := self._twin(parameter):
                    yield parameter, found

    def _twin(self, parameter: Parameter) -> Parameter | None:
        key: Key = (parameter.match.row, parameter.match.slots)
        module = self.native.checkpoint.modules.get(key)
        if module is None:
            return None
        own = canonical(self.hf, self.hf.checkpoint.modules[key])[parameter.suffix]
        twins = {name: suffix for suffix, name in canonical(self.native, module).items()}
        return module.parameters.get(twins.get(own, ""))

    def difference(self, twins: Twins, advance: Advance) -> str | None:
        """How the consolidated tensor differs from the image of its twin; None if it does not."""
        fault = self._fault(twins, self.reader, advance)
        others = (label for label in reader_labels() if label != self.reader.label)
        for label in others if fault else ():
            if not self._fault(twins, reader(label), silent):
                return f"has its rows in the order of the reader {label!r}"
        return fault

    def _image(self, twins: Twins, wanted: Reader) -> PlannedTensor:
        """The consolidated tensor that the HF one becomes."""
        source = Layout(self.hf.checkpoint.naming)
        target = Layout(self.native.checkpoint.naming, wanted)
        packings = {self._packing(self.hf, twins[0]), self._packing(self.native, twins[1])}
        return Transfer(self.hf, source, target, repack=len(packings) > 1).tensor(twins[0])

    def _packing(self, model: Model, parameter: Parameter) -> str:
        module = model.checkpoint.modules[parameter.match.row, parameter.match.slots]
        scheme = model.scheme_of_quantized(module)
        return packing_of(module, scheme, model.symbols) if scheme else ""

    def _fault(self, twins: Twins, wanted: Reader, advance: Advance) -> str | None:
        image, found = self._image(twins, wanted), twins[1]
        if image.dtype != found.entry.dtype:
            return f"is {found.entry.dtype}, but {image.dtype} in the HF layout"
        if image.length != found.entry.nbytes:
            return f"takes {found.entry.nbytes} bytes, but {image.length} in the HF layout"
        stored = self.native.weights.stream(found.shard, found.entry)
        with opened(self.hf.weights.storage, image.segments) as files:
            expected = (piece for segment in image.segments for piece in stream(segment, files))
            unlike = next(_differing(expected, stored, advance), None)
        return None if unlike is None else f"differs from the HF layout from byte {unlike} on"


def one_sided(model: Model, other: Model) -> Iterator[Parameter]:
    """Parameters of `model` that `other` lacks, though each is complete by its own config."""
    for key, module in model.checkpoint.modules.items():
        twin = other.checkpoint.modules.get(key)
        held = set(canonical(other, twin).values()) if twin else set()
        own = canonical(model, module)
        lone = [p for suffix, p in module.parameters.items() if own[suffix] not in held]
        if lone and other.checkpoint.naming.has(module.row) and not module.row.absent:
            yield from () if _faulty(model, key) or _faulty(other, key) else lone


def _faulty(model: Model, key: Key) -> bool:
    """Whether a module is at fault by its own layout's config: other rules say so."""
    module = model.checkpoint.modules.get(key)
    name = model.checkpoint.naming.module(*key)
    places = [place for place, _ in (*presence_faults(model), *kv_cache_faults(model))]
    if module is None or any(place.startswith(name) for place in places):
        return name in places
    scheme = model.scheme_of_quantized(module)
    return any(True for _ in module_faults(module, scheme, model.symbols))


def canonical(model: Model, module: Module) -> Mapping[str, str]:
    """compressed-tensors' name of each parameter of a module, by the suffix it is stored under."""
    scheme = model.scheme_of_quantized(module)
    return {s: scheme.canonical(s) if scheme else s for s in module.parameters}


def _differing(
    expected: Iterator[memoryview], found: Iterator[bytes], advance: Advance
) -> Iterator[int]:
    """The first byte of each differing piece; the two are cut into pieces of different sizes."""
    position, rest = 0, np.empty(0, np.uint8)
    for piece in expected:
        left = np.frombuffer(piece, np.uint8)
        while left.size:
            rest = rest if rest.size else np.frombuffer(next(found), np.uint8)
            size = min(left.size, rest.size)
            unlike = left[:size] != rest[:size]
            if unlike.any():
                yield position + int(unlike.argmax())
            advance(size)
            left, rest, position = left[size:], rest[size:], position + size
