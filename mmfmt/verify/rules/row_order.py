"""4xx: whose row order the tensors of a consolidated set have, and how its scales are called."""

from collections.abc import Iterator
from math import prod

from mmfmt.model import Model
from mmfmt.quantization import reader_suffixes
from mmfmt.reader import METADATA_KEY, reader, reader_labels
from mmfmt.schemas import table
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.modules import quantized_modules
from mmfmt.verify.subject import Subject


@rule("MMF406")
def scale_not_permuted_at_load(subject: Subject) -> Iterator[Problem]:
    """In a consolidated set for vLLM, per-channel scales of FP8 or INT8 wq/wk are qscale_weight,
    and no others.

    vLLM permutes the rows of wq/wk `weight` and `qscale_weight` at load, but not those of
    `weight_scale`: scale and rows part, nothing is said, answers are wrong (vllm#24122). A scale
    of blocks under the name qscale_weight stops it, for it has no rows to permute.

    Repair: convert again with --reader vllm.
    """
    model = subject.native
    if model not in subject.models or _recorded_reader(model) != "vllm":
        return
    wanted = reader("vllm")
    for module in quantized_modules(model):
        for suffix, parameter in module.parameters.items():
            own, shape = reader_suffixes().get(suffix, suffix), parameter.entry.shape
            expected = wanted.suffix(module, own, shape)
            # one value has no rows: either name will do
            if suffix != expected and prod(shape) > 1:
                message = f"vLLM permutes the rows of qscale_weight only: expected {expected}"
                yield Problem(parameter.shard, parameter.name, message, "convert again")


@rule("MMF407")
def recorded_reader_unknown(subject: Subject) -> Iterator[Problem]:
    """The shards of a consolidated set were written for one and the same reader.

    mmfmt records in `__metadata__` whose row order the packed Q and K tensors have; shards of
    two conversions mixed in one set hold rows in two orders.

    Repair: convert again.
    """
    headers = subject.native.weights.headers if subject.native in subject.models else {}
    said = {shard: header.metadata.get(METADATA_KEY) for shard, header in headers.items()}
    for shard, label in said.items():
        if label is not None and label not in reader_labels():
            known = " or ".join(reader_labels())
            yield Problem(shard, METADATA_KEY, f"{label!r}, expected {known}", "convert again")
    if len(set(said.values())) > 1:
        shards = ", ".join(f"{shard}: {label}" for shard, label in said.items())
        yield Problem(
            next(iter(said)), METADATA_KEY, f"differs over shards: {shards}", "convert again"
        )


@rule("MMF408", level="warning")
def row_order_not_for_vllm(subject: Subject) -> Iterator[Problem]:
    """A consolidated set whose rows were ordered for another reader is not served by vLLM.

    vLLM leaves the rows of packed wq/wk as they lie in the file. In Mistral's own order they
    load without a word, and answers go from 62 of 64 right to 7.

    Repair: mmfmt convert reorder REPO --reader vllm --force, unless no vLLM is meant to read it.
    """
    model = subject.native
    if model not in subject.models or _recorded_reader(model) in ("vllm", ""):
        return
    recorded, vllm = reader(_recorded_reader(model)), reader("vllm")
    for module in quantized_modules(model):
        for suffix, parameter in module.parameters.items():
            orders = {r.wants_native_rows(module.row, suffix) for r in (recorded, vllm)}
            if len(orders) > 1 and table("suffixes")[suffix]["rows"] != "keep":
                message = f"its rows are ordered for the reader {recorded.label!r}, not for vLLM"
                yield Problem(
                    parameter.shard, parameter.name, message, "mmfmt convert reorder --reader vllm"
                )
                break


def _recorded_reader(model: Model) -> str:
    # where nothing is recorded, vLLM is what reads consolidated sets
    labels = {h.metadata.get(METADATA_KEY, "vllm") for h in model.weights.headers.values()}
    known = labels <= set(reader_labels())
    return labels.pop() if known and len(labels) == 1 else ""
