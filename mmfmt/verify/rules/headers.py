"""2xx: safetensors headers."""

from collections.abc import Iterator

from mmfmt.errors import MmfmtError
from mmfmt.header import read_header
from mmfmt.storage import Storage
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Subject


@rule("MMF201")
def bad_header(subject: Subject) -> Iterator[Problem]:
    """Every weight file has a valid safetensors header that accounts for each of its bytes.

    A truncated upload is the usual cause: the header is whole, the data is not (vllm#53537).

    Repair: export or upload the file again.
    """
    for model in subject.models:
        for shard in model.weights.on_disk:
            yield from _header_problem(model.weights.storage, shard)


def _header_problem(storage: Storage, shard: str) -> Iterator[Problem]:
    try:
        read_header(storage, shard)
    except MmfmtError as error:
        location = error.place.removeprefix(shard).removeprefix(": ")
        yield Problem(shard, location, error.problem, error.fix)
