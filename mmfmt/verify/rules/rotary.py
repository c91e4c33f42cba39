"""7xx: the row order of Q and K, told from the weights themselves."""

from collections.abc import Iterator, Mapping

from mmfmt.convert.steps import Order
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.rotary import Judged
from mmfmt.verify.subject import Subject

_NAMES: Mapping[Order, str] = {"hf": "Hugging Face's", "native": "Mistral's"}


@rule("MMF707", cost="bytes")
def row_order_differs(subject: Subject) -> Iterator[Problem]:
    """The rows of Q and K lie in the order in which the layout's reader takes them.

    Transformers rotates the halves of a head, Mistral's own code pairs of neighbours; vLLM reorders
    only some tensors of a consolidated set. Rows in the wrong order load without a word, and
    answers go from 62 of 64 right to 7. The norms of trained rows follow their rotary
    frequencies, which shows the order; where they do not, the rule says nothing.

    Repair: convert again from the layout that is right; mmfmt convert reorder, if only the
    packed rows of a consolidated set are wrong.
    """
    for judged in subject.row_orders:
        if judged.found.verdict not in ("undetermined", judged.expected):
            first = judged.modules[0]
            message = (
                f"the rows of {len(judged.modules)} such modules lie in {_NAMES[_other(judged)]} "
                f"order, expected {_NAMES[judged.expected]} ({judged.scores})"
            )
            yield Problem(judged.shard, first.name, message, "convert again")


@rule("MMF708", level="note", cost="bytes")
def row_order_undetermined(subject: Subject) -> Iterator[Problem]:
    """The weights themselves show in which order the rows of Q and K lie.

    They do in trained models. Where they do not (random weights, very few heads), a wrong order
    cannot be seen: not here, and not by any other rule if there is no second layout.

    Repair: none is needed; ask the engine that will serve the model a few questions.
    """
    for judged in subject.row_orders:
        if judged.found.verdict == "undetermined":
            first = judged.modules[0]
            message = f"the row order of {len(judged.modules)} such modules is undetermined"
            yield Problem(judged.shard, first.name, f"{message} ({judged.scores})")


def _other(judged: Judged) -> Order:
    return "native" if judged.expected == "hf" else "hf"
