"""3xx: tensor names and shapes against the layout tables."""

from collections.abc import Iterator

from mmfmt.checkpoint import Module, expected_modules
from mmfmt.quantization import module_faults
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Side, Subject


@rule("MMF301")
def unknown_tensor(subject: Subject) -> Iterator[Problem]:
    """Every tensor has a name that the layout knows.

    vLLM's native loader drops unknown vision and adapter names without a word; transformers
    reports them as unexpected and goes on with random weights in their place.

    Repair: rename the tensor, or remove it.
    """
    for side in subject.sides:
        for shard, header in side.weights.headers.items():
            for name in header.tensors:
                if side.checkpoint.matches[name] is None:
                    nearest = side.checkpoint.naming.nearest(name)
                    message = f"no {side.checkpoint.naming.label} tensor has this name"
                    yield Problem(shard, name, message, f"nearest known: {nearest}")


@rule("MMF302")
def missing_module(subject: Subject) -> Iterator[Problem]:
    """Every module that the config describes has its tensors, and no others are there.

    vLLM does not check a quantized checkpoint for completeness: what is missing stays
    uninitialised memory.

    Repair: export again, or mend the config (layer count, tied embeddings).
    """
    for side in subject.sides:
        naming, found = side.checkpoint.naming, side.checkpoint.modules
        expected = set(expected_modules(naming, side.symbols))
        for row, slots in sorted(expected - found.keys(), key=repr):
            fix = f"export again or mend {side.config_file}"
            yield Problem(_files(side), naming.module(row, slots), "is missing", fix)
        for module in (module for key, module in found.items() if key not in expected):
            message = f"is not part of the model that {side.config_file} describes"
            yield Problem(_files(side), module.name, message, f"mend {side.config_file}")


@rule("MMF303")
def wrong_shape(subject: Subject) -> Iterator[Problem]:
    """Unquantized tensors have the shape that the config gives them, and a float dtype.

    Repair: mend the config (head_dim is not hidden_size / heads in most Mistral models), or
    export again.
    """
    for side in subject.sides:
        for module in _expected(side):
            if not module.quantized:
                for suffix, fault in module_faults(module, None, side.symbols):
                    name = f"{module.name}.{suffix}"
                    yield Problem(_files(side), name, fault, f"compare with {side.config_file}")


def _expected(side: Side) -> list[Module]:
    expected = set(expected_modules(side.checkpoint.naming, side.symbols))
    return [module for key, module in side.checkpoint.modules.items() if key in expected]


def _files(side: Side) -> str:
    """The file to name for a fault of the whole set: its index, or its only shard."""
    shards = side.weights.shards
    return shards[0] if len(shards) == 1 else side.weights.index_path.name
