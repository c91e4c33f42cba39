"""5xx: tied embeddings against the output head that is there, or is not."""

from collections.abc import Iterator

from mmfmt.checkpoint import Module, Parameter
from mmfmt.configs import CONFIG, effective_tie, stated_tie
from mmfmt.configs.fields import SECTIONS
from mmfmt.configs.tied import TEXT, TOP
from mmfmt.layout import Row
from mmfmt.model import Model
from mmfmt.verify.findings import Edit, Problem, explained, rule
from mmfmt.verify.subject import Subject

# bytes of two matrices that are compared to tell a copy
_SAMPLE = 1 << 16


@rule("MMF505")
def wrong_tied_embeddings(subject: Subject) -> Iterator[Problem]:
    """A config says that embeddings are tied if, and only if, there is no output head.

    Without a head, config.json of a multimodal model must say tie_word_embeddings: true at the
    top: Ministral-3-3B said it in text_config only, and transformers made a random head
    (transformers#43429). With a head, a tie makes vLLM and transformers 4 use the embeddings in
    its place, unless it is a copy of them. params.json says tied_embeddings.

    Repair: write true where there is no head, false where there is one of its own.
    """
    for model in _with_head_rows(subject):
        tied, head = _tied(model), _module(model, "head")
        if head is None and not tied:
            said = "is silent" if tied is None else "does not tie it to the embeddings"
            message = f"the output head is missing, and {model.config_file} {said}"
            edits = (Edit(model.config_file, (_key(model),), True),)
            yield Problem(model.config_file, _key(model), message, "write true", edits)
        if head is not None and tied and _stated(model) and not _is_copy(model, head):
            message = f"true, but {head.name} is there: loaders that tie ignore it"
            yield Problem(model.config_file, _key(model), message, "write false")


@rule("MMF506", level="warning")
def unstated_tied_embeddings(subject: Subject) -> Iterator[Problem]:
    """config.json says tie_word_embeddings, once and for all readers.

    Where Mistral3Config is silent, transformers took false before transformers#43429 and takes
    true since; Small-3.1 and 3.2 are silent and have a head, which newer versions keep with a
    warning only. vLLM's older versions read text_config, transformers the top.

    Repair: write the same value at the top and in text_config.
    """
    model = subject.hf
    if model not in _with_head_rows(subject) or explained(subject, [wrong_tied_embeddings]):
        return
    config = model.hf_config
    if _module(model, "head") and effective_tie(config) is None:
        message = "is missing: versions of transformers take it for true, though there is a head"
        edits = (Edit(CONFIG, (TOP,), False),)
        yield Problem(CONFIG, TOP, message, "write false", edits)
    top, text = config.get(TOP), config.get(TEXT)
    if config.multimodal and None not in (top, text) and top != text:
        message = f"{text}, but {top} at the top, where transformers looks"
        edits = (Edit(CONFIG, (SECTIONS["text"], TOP), top),)
        yield Problem(CONFIG, config.place(TEXT), message, "make them equal", edits)


def _with_head_rows(subject: Subject) -> list[Model]:
    """The layouts that have a config, and a head unless they are tied (draft models may not)."""
    models = [model for model in subject.models if subject.repo.has(model.config_file)]
    return [m for m in models if any(map(_is_head, m.checkpoint.naming.family.rows))]


def _is_head(row: Row) -> bool:
    return bool(row.absent) and row.required


def _tied(model: Model) -> bool | None:
    """What readers take; None where that depends on their version."""
    if model.native:
        return bool(model.symbols.get("tied_embeddings", False))
    return effective_tie(model.hf_config)


def _stated(model: Model) -> bool:
    return model.native or stated_tie(model.hf_config) is not None


def _key(model: Model) -> str:
    return "tied_embeddings" if model.native else TOP


def _module(model: Model, kind: str) -> Module | None:
    modules = model.checkpoint.modules.values()
    return next((module for module in modules if module.row.kind == kind), None)


def _is_copy(model: Model, head: Module) -> bool:
    """Whether the head has the embeddings' dtype, shape and first bytes."""
    embeddings = _module(model, "embedding")
    one, other = _weight(head), _weight(embeddings)
    if one is None or other is None:
        return False
    if (one.entry.dtype, one.entry.shape) != (other.entry.dtype, other.entry.shape):
        return False
    return _first_bytes(model, one) == _first_bytes(model, other)


def _weight(module: Module | None) -> Parameter | None:
    return module.parameters.get("weight") if module else None


def _first_bytes(model: Model, parameter: Parameter) -> bytes:
    start = model.weights.headers[parameter.shard].data_start + parameter.entry.start
    stop = start + min(parameter.entry.nbytes, _SAMPLE)
    return model.weights.storage.read(parameter.shard, start, stop)
