"""3xx: tensor names and shapes against the layout tables."""

import re
from collections.abc import Iterable, Iterator

from mmfmt.checkpoint import Module
from mmfmt.checkpoint import unknown_tensor as unknown
from mmfmt.model import (
    Model,
    family_faults,
    missing_modules,
    size_faults,
    superfluous_modules,
)
from mmfmt.quantization import module_faults
from mmfmt.verify.findings import Problem, rule, some
from mmfmt.verify.misnamed import misnamed, misplaced
from mmfmt.verify.subject import Subject


@rule("MMF301")
def unknown_tensor(subject: Subject) -> Iterator[Problem]:
    """Every tensor has a name that the layout knows.

    vLLM's native loader drops unknown vision and adapter names without a word; transformers
    reports them as unexpected and goes on with random weights in their place (vllm#20035,
    auto-round#1377).

    Repair: rename the tensor, or remove it.
    """
    for model in subject.models:
        said = {*misnamed(model.checkpoint), *model.checkpoint.doubled}
        strange = [name for name in model.checkpoint.unknown if name not in said]
        for names in _alike(strange):
            error = unknown(model.checkpoint, names[0])
            yield Problem(_shard_of(model, names[0]), some(names), error.problem, error.fix)
        for extra in model.checkpoint.extras:
            if extra.action == "refuse":
                yield Problem(_shard_of(model, extra.name), extra.name, extra.reason, "")


@rule("MMF302")
def missing_module(subject: Subject) -> Iterator[Problem]:
    """Every module that the config describes has its tensors, and no others are there.

    vLLM does not check a quantized checkpoint for completeness: what is missing stays
    uninitialised memory.

    Repair: export again, or mend the config (layer count).
    """
    for model in subject.models:
        naming, elsewhere = model.checkpoint.naming, misplaced(model.checkpoint)
        fix = f"export again or mend {model.config_file}"
        # of another family there may be no sizes to speak of
        if strangers := list(family_faults(model)) or list(size_faults(model)):
            yield from (Problem(place, "", fault, fix) for place, fault in strangers)
            continue  # another family's modules are all missing, which says no more
        for row, slots in missing_modules(model):
            # a head may be missing where embeddings are tied, and a module may have another name
            if not row.absent and (row, slots) not in elsewhere:
                message = "is missing from the weight files"
                yield Problem(_files(model), naming.module(row, slots), message, fix)
        for module in superfluous_modules(model):
            message = f"is not part of the model that {model.config_file} describes"
            yield Problem(_files(model), module.name, message, fix)


@rule("MMF303")
def wrong_shape(subject: Subject) -> Iterator[Problem]:
    """Unquantized tensors have the shape that the config gives them, and a float dtype.

    Loaders build the model from the config and copy the tensors into it: one of another shape
    stops them, or fills a part of its place only.

    Repair: mend the config, or export again.
    """
    for model in subject.models:
        for module in _expected(model):
            if not module.quantized:
                for suffix, fault in module_faults(module, None, model.symbols):
                    name = f"{module.name}.{suffix}"
                    yield Problem(_files(model), name, fault, f"compare with {model.config_file}")


@rule("MMF304")
def misnamed_tensor(subject: Subject) -> Iterator[Problem]:
    """All names of a set are of one naming: one generation of HF prefixes, or native.

    Wrapping and saving a model adds prefixes (language_model.language_model..., in
    llm-compressor#2568), and merging parts of exports by different versions of transformers mixes
    generations (vision_tower... beside model.language_model..., llm-compressor#1546). Loaders
    translate one generation and take the other for unknown: the modules keep random weights.

    Repair: rename the tensors as the message says.
    """
    for model in subject.models:
        checkpoint = model.checkpoint
        meanings = misnamed(checkpoint)
        for names in _alike(meanings):
            match = meanings[names[0]]
            right = f"{checkpoint.naming.module(match.row, match.slots)}.{match.suffix}"
            there = right in checkpoint.matches
            message = f"is {right} under another name" + (", which is there too" if there else "")
            fix = "remove it" if there else f"rename it to {right}"
            yield Problem(_shard_of(model, names[0]), some(names), message, fix)


@rule("MMF305")
def duplicate_parameter(subject: Subject) -> Iterator[Problem]:
    """A parameter stands under one name only.

    Some have two that are both read (Voxtral's embeddings, an expert in a stack and by itself):
    which of them a loader keeps depends on their order in the file.

    Repair: remove one of the two.
    """
    for model in subject.models:
        for name, other in model.checkpoint.doubled.items():
            message = f"holds the same parameter as {other}"
            yield Problem(_shard_of(model, name), name, message, "remove one of the two")


@rule("MMF306", level="warning")
def dropped_tensor(subject: Subject) -> Iterator[Problem]:
    """A set holds no tensors that loaders drop.

    Leftovers of quantization-aware training (fake_quantizer scales in Mistral's FP8 releases),
    rotary frequencies, multi-token heads: they cost a download and mean nothing to the model.
    Strict loaders stop at them.

    Repair: remove them, or leave them if they belong to the original release.
    """
    for model in subject.models:
        reasons = {e.name: e.reason for e in model.checkpoint.extras if e.action == "drop"}
        for reason in dict.fromkeys(reasons.values()):
            names = [name for name, why in reasons.items() if why == reason]
            message = f"loaders drop it: {reason}"
            yield Problem(_shard_of(model, names[0]), some(names), message, "remove it")


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names in groups that differ in numbers only: of one module, layer by layer."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return list(groups.values())


def _expected(model: Model) -> list[Module]:
    return [m for key, m in model.checkpoint.modules.items() if key in model.expected]


def _shard_of(model: Model, name: str) -> str:
    shards = model.weights.headers.items()
    return next(shard for shard, header in shards if name in header.tensors)


def _files(model: Model) -> str:
    """The file to name for a fault of the whole set: its index, or its only shard."""
    shards = model.weights.shards
    return shards[0] if len(shards) == 1 else model.weights.index_name
