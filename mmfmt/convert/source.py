"""For which reader the rows of an existing consolidated set were ordered."""

from collections.abc import Iterator

from mmfmt.checkpoint import Parameter
from mmfmt.errors import MmfmtError
from mmfmt.model import Model
from mmfmt.reader import METADATA_KEY, Reader, reader, reader_labels
from mmfmt.schemas import table


def source_reader(model: Model, said: str | None, option: str) -> Reader:
    """The reader recorded in the shards' metadata, or else the one that the user says.

    Where neither is there, any reader does if all agree on the rows of these tensors; else
    MmfmtError asks for `option`: a guess would go unnoticed until the answers are garbage.
    """
    recorded = recorded_reader(model)
    if recorded and said and recorded != said:
        place = f"{next(iter(model.weights.shards))}: {METADATA_KEY}"
        raise MmfmtError(
            place, f"is {recorded!r}, but {option} says {said!r}", f"leave {option} out"
        )
    label = recorded or said
    if not label and (open_question := next(reader_dependent(model), None)):
        problem = f"its row order is not recorded (no {METADATA_KEY} in __metadata__)"
        fix = f"say whose it is with {option} {'|'.join(reader_labels())}"
        raise MmfmtError(f"{open_question.shard}: {open_question.name}", problem, fix)
    return reader(label or reader_labels()[0])


def recorded_reader(model: Model) -> str | None:
    """The reader's label that all shards record; None where none does.

    Raises MmfmtError where shards disagree or name a reader that is not known.
    """
    said = {s: header.metadata.get(METADATA_KEY) for s, header in model.weights.headers.items()}
    if len(set(said.values())) > 1:
        places = ", ".join(f"{shard}: {label}" for shard, label in said.items())
        raise MmfmtError(METADATA_KEY, f"differs over shards ({places})", "convert again")
    label = next(iter(said.values()))
    if label is not None and label not in reader_labels():
        known = " or ".join(reader_labels())
        raise MmfmtError(METADATA_KEY, f"is {label!r}, expected {known}", "convert again")
    return label


def reader_dependent(model: Model) -> Iterator[Parameter]:
    """Parameters whose rows lie differently for different readers."""
    readers = [reader(label) for label in reader_labels()]
    for module in model.checkpoint.modules.values():
        for suffix, parameter in module.parameters.items():
            orders = {r.wants_native_rows(module.row, suffix) for r in readers}
            if len(orders) > 1 and table("suffixes")[suffix]["rows"] != "keep":
                yield parameter
