"""7xx: whether the two layouts hold the same values, and whether these can be right."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np

from mmfmt.checkpoint import Parameter
from mmfmt.ignore import fused_groups
from mmfmt.model import Model
from mmfmt.schemas import table
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.pair import Pair, one_sided
from mmfmt.verify.parallel import parallel
from mmfmt.verify.subject import Subject
from mmfmt.verify.values import FLOAT_BITS, constant_word, count_signs, count_special

T = TypeVar("T")

_AGAIN = "convert again from the layout that is right"


@rule("MMF701")
def one_sided_tensor(subject: Subject) -> Iterator[Problem]:
    """A tensor of one layout has its twin in the other.

    Readers of the layout that lacks it compute without it, and say nothing: vLLM does not look
    for tensors that are missing.

    Repair: mmfmt convert makes the other layout anew.
    """
    if not subject.dual:
        return
    for model, other in ((subject.hf, subject.native), (subject.native, subject.hf)):
        for parameter in one_sided(model, other):
            message = f"has no twin in the layout of {other.config_file}"
            yield Problem(parameter.shard, parameter.name, message, _AGAIN)


@rule("MMF702", cost="bytes")
def layouts_differ(subject: Subject) -> Iterator[Problem]:
    """Every tensor of one layout is, bit for bit, the image of its twin in the other.

    The two layouts are one model, served by different engines: where they differ, one of them
    answers worse, and nothing says which. Rows of Q and K in the order of another reader are
    named as such.

    Repair: mmfmt convert makes the other layout anew from the one that is right.
    """
    if not subject.dual:
        return
    pair = Pair(subject.hf, subject.native)
    compare = partial(pair.difference, advance=subject.advance)
    for (hf, native), said in parallel(compare, pair.twins()):
        if said:
            yield Problem(native.shard, native.name, f"{said} ({hf.name})", _AGAIN)


@rule("MMF703", cost="bytes")
def not_finite(subject: Subject) -> Iterator[Problem]:
    """No weight, bias or scale is NaN or infinite.

    One such value makes every answer NaN, or, in a scale of the kv cache, garbage.

    Repair: quantize or train again; a file whose bytes were damaged is fetched again.
    """
    for parameter, special in _counted(subject, {"finite", "scale", "positive"}, count_special):
        if special:
            message = f"{special} values are NaN or infinite"
            yield Problem(parameter.shard, parameter.name, message, "export it again")


@rule("MMF704", cost="bytes")
def impossible_scale(subject: Subject) -> Iterator[Problem]:
    """No scale is zero, and scales of activations, of the kv cache and of whole tensors are
    above zero.

    A zero wipes out its group. Scales of weight groups may be negative: AutoRound's symmetric
    quantization picks the sign with the smaller error. FP8 scales of NVFP4 round to zero for
    groups of tiny weights, which is no fault.

    Repair: quantize again.
    """
    for parameter, (zeros, negatives) in _counted(subject, {"scale", "positive"}, count_signs):
        wrong = {} if parameter.entry.dtype.startswith("F8") else {"zero": zeros}
        if _values(parameter) == "positive":
            wrong["below zero"] = negatives
        said = " and ".join(f"{count} are {kind}" for kind, count in wrong.items() if count)
        if said:
            yield Problem(
                parameter.shard, parameter.name, f"of its scales {said}", "quantize again"
            )


@rule("MMF705", cost="bytes")
def constant_codes(subject: Subject) -> Iterator[Problem]:
    """The codes of a quantized matrix differ from one another.

    Words that are all alike (0, or 0x88888888 for 4 bits) were never written: the module
    answers the same for every input.

    Repair: export again.
    """
    for parameter, word in _codes(subject):
        if word is not None:
            message = f"every word is 0x{word:08x}"
            yield Problem(parameter.shard, parameter.name, message, "export it again")


@rule("MMF706", cost="bytes")
def weight_shape_value(subject: Subject) -> Iterator[Problem]:
    """weight_shape holds the rows and columns of the unquantized weight.

    compressed-tensors unpacks to what it says; vLLM does not look.

    Repair: export again.
    """
    model = _first(subject)
    for module in model.checkpoint.modules.values():
        if said := module.parameters.get("weight_shape"):
            data = model.weights.read(said.shard, said.entry)
            found = np.frombuffer(data, "<i8" if said.entry.dtype == "I64" else "<i4").tolist()
            expected = list(module.row.weight_shape(model.symbols))
            if found != expected:
                message = f"says {found}, expected {expected}"
                yield Problem(said.shard, said.name, message, "export it again")


@rule("MMF709", level="warning", cost="bytes")
def fused_scales_differ(subject: Subject) -> Iterator[Problem]:
    """Modules that loaders fuse (q, k, v; gate, up) share the global scales of NVFP4.

    vLLM makes one layer of them and takes the largest: the others lose precision.

    Repair: quantize again with the fused modules calibrated together.
    """
    model = _first(subject)
    for group in fused_groups(model.checkpoint).values():
        for suffix in (s for s in group[0].parameters if table("suffixes")[s].get("fused")):
            scales = [m.parameters[suffix] for m in group if suffix in m.parameters]
            if len({model.weights.read(p.shard, p.entry) for p in scales}) > 1:
                names = ", ".join(p.name.split(".")[-2] for p in scales)
                message = f"differs between modules that loaders fuse: {names}"
                yield Problem(scales[0].shard, scales[0].name, message, "quantize them together")


def _first(subject: Subject) -> Model:
    """The layout whose values are looked at: of two, the other holds the same (MMF702)."""
    return subject.models[0]


def _parameters(subject: Subject, values: set[str]) -> Iterator[Parameter]:
    """Parameters whose suffix has one of these entries in the column `values`."""
    checkpoint = _first(subject).checkpoint
    for shard in checkpoint.weights.shards:
        yield from (p for p in checkpoint.shard(shard) if _values(p) in values)


def _values(parameter: Parameter) -> str:
    return str(table("suffixes")[parameter.suffix].get("values", ""))


def _codes(subject: Subject) -> Iterator[tuple[Parameter, int | None]]:
    """Packed tensors, each with the one word that it consists of."""
    packed = _parameters(subject, {"words"})
    return parallel(lambda p: constant_word(_pieces(subject, p)), packed)


def _counted(
    subject: Subject, values: set[str], count: Callable[[str, Iterable[bytes]], T]
) -> Iterator[tuple[Parameter, T]]:
    """What is counted over each float tensor."""
    floats = (p for p in _parameters(subject, values) if p.entry.dtype in FLOAT_BITS)
    return parallel(lambda p: count(p.entry.dtype, _pieces(subject, p)), floats)


def _pieces(subject: Subject, parameter: Parameter) -> Iterator[bytes]:
    for piece in _first(subject).weights.stream(parameter.shard, parameter.entry):
        subject.advance(len(piece))
        yield piece
