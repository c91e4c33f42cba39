"""2xx: safetensors headers."""

from collections.abc import Iterator

from mmfmt.errors import MmfmtError
from mmfmt.repo import WeightSet
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Subject

# what transformers asks for: any other `format` is refused
_FORMATS = ("pt", "tf", "flax", "mlx")


@rule("MMF201")
def bad_header(subject: Subject) -> Iterator[Problem]:
    """Every weight file has a valid safetensors header that accounts for each of its bytes.

    A truncated upload is the usual cause: the header is whole, the data is not (vllm#53537).
    vLLM stops at an empty file with "unpack requires a buffer of 8 bytes".

    Repair: export or upload the file again.
    """
    for model in subject.models:
        for shard in weight_files(model.weights):
            yield from _header_problem(model.weights, shard)


def weight_files(weights: WeightSet) -> list[str]:
    """Every file of a set that is there: by its name, or because a readable index names it."""
    try:
        named = {name for name in weights.shards if name in weights.storage.sizes}
    except MmfmtError:  # the index is another rule's business
        named = set()
    return sorted({*weights.on_disk, *named})


def _header_problem(weights: WeightSet, shard: str) -> Iterator[Problem]:
    try:
        _ = weights.header(shard)
    except MmfmtError as error:
        location = error.place.removeprefix(shard).removeprefix(": ")
        yield Problem(shard, location, error.problem, error.fix)


@rule("MMF202", level="warning")
def unknown_format(subject: Subject) -> Iterator[Problem]:
    """`__metadata__` of a shard in the HF set says `format: pt`, if it is there at all.

    transformers 4 stops at metadata without a format that it knows: "does not contain the valid
    metadata" (mlx#743). No metadata at all, as AutoRound writes, only stops versions up to 4.46,
    which are older than most of these models. transformers 5 does not look, and nobody does in a
    consolidated set.

    Repair: save the shard again with metadata={"format": "pt"}.
    """
    if not subject.repo.hf.exists:
        return
    for shard, header in subject.repo.hf.headers.items():
        said = header.metadata.get("format")
        if header.metadata and said not in _FORMATS:
            message = "is missing" if said is None else f"{said!r} is none that transformers knows"
            yield Problem(shard, "__metadata__.format", message, 'save it with {"format": "pt"}')


@rule("MMF203", level="warning")
def empty_shard(subject: Subject) -> Iterator[Problem]:
    """A weight file holds at least one tensor.

    An empty one is what a failed export leaves behind. It is harmless to load, but loaders that
    decide by file names take it for a whole set.

    Repair: remove the file, or export again.
    """
    for model in subject.models:
        for shard, header in model.weights.headers.items():
            if not header.tensors:
                yield Problem(shard, "", "holds no tensor", "remove it, or export again")
