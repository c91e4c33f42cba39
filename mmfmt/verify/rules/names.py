"""3xx: tensor names and shapes against the layout tables."""

from collections.abc import Iterator

from mmfmt.checkpoint import Module, expected_modules
from mmfmt.checkpoint import unknown_tensor as unknown
from mmfmt.model import Model, family_faults, presence_faults
from mmfmt.quantization import module_faults
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Subject


@rule("MMF301")
def unknown_tensor(subject: Subject) -> Iterator[Problem]:
    """Every tensor has a name that the layout knows.

    vLLM's native loader drops unknown vision and adapter names without a word; transformers
    reports them as unexpected and goes on with random weights in their place.

    Repair: rename the tensor, or remove it.
    """
    for model in subject.models:
        for name in model.checkpoint.unknown:
            error = unknown(model.checkpoint, name)
            yield Problem(_shard_of(model, name), name, error.problem, error.fix)


@rule("MMF302")
def missing_module(subject: Subject) -> Iterator[Problem]:
    """Every module that the config describes has its tensors, and no others are there.

    vLLM does not check a quantized checkpoint for completeness: what is missing stays
    uninitialised memory.

    Repair: export again, or mend the config (layer count, tied embeddings).
    """
    for model in subject.models:
        fix = f"export again or mend {model.config_file}"
        for place, fault in presence_faults(model):
            yield Problem(_files(model), place, fault, fix)
        for place, fault in family_faults(model):
            yield Problem(place, "", fault, fix)


@rule("MMF303")
def wrong_shape(subject: Subject) -> Iterator[Problem]:
    """Unquantized tensors have the shape that the config gives them, and a float dtype.

    Repair: mend the config (head_dim is not hidden_size / heads in most Mistral models), or
    export again.
    """
    for model in subject.models:
        for module in _expected(model):
            if not module.quantized:
                for suffix, fault in module_faults(module, None, model.symbols):
                    name = f"{module.name}.{suffix}"
                    yield Problem(_files(model), name, fault, f"compare with {model.config_file}")


def _expected(model: Model) -> list[Module]:
    expected = set(expected_modules(model.checkpoint.naming, model.symbols))
    return [module for key, module in model.checkpoint.modules.items() if key in expected]


def _shard_of(model: Model, name: str) -> str:
    shards = model.weights.headers.items()
    return next(shard for shard, header in shards if name in header.tensors)


def _files(model: Model) -> str:
    """The file to name for a fault of the whole set: its index, or its only shard."""
    shards = model.weights.shards
    return shards[0] if len(shards) == 1 else model.weights.index_name
