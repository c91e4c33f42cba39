"""5xx: what the configs say of attention: scaling, windows, head sizes."""

from collections.abc import Iterator
from typing import Any

from mmfmt.configs import CONFIG, PARAMS, attention_factor, known_model, mscales
from mmfmt.configs.fields import json_path
from mmfmt.errors import MmfmtError
from mmfmt.model import Model, head_dim_faults
from mmfmt.verify.findings import REMOVE, Edit, Problem, rule
from mmfmt.verify.subject import Subject

_ROPE = "text.rope_parameters"


@rule("MMF504")
def wrong_attention_factor(subject: Subject) -> Iterator[Problem]:
    """YaRN's attention factor, 0.1 ln(factor) + 1, is on in both configs or off in both, and as
    in the published model where that is known.

    config.json says it in mscale and mscale_all_dim, which cancel each other when equal;
    params.json in yarn.apply_scale. Medium-3.5 was published with mscale_all_dim 1.0, which took
    its factor of 1.41589 away: nonsense from every quantization of it (ollama#15975, its repo's
    commit c4be1980). The Ministral3 converter of transformers writes 1.0 whatever apply_scale
    says. Every engine loads either without a word.

    Repair: mscale_all_dim 0.0 goes with apply_scale true, 1.0 with false; in Small-4 and Large-3
    it is the other way round.
    """
    answers = [(m, _applies(m)) for m in _described(subject) if "yarn.factor" in m.symbols]
    if not answers:
        return
    known = known_model(answers[0][0].symbols)
    published = known.fields.get("yarn.apply_scale") if known else None
    truth, source = answers[0][1], CONFIG
    if known and published is not None:
        truth, source = published, known.name
    for model, answer in answers:
        if answer != truth:
            message = f"attention factor {_factor(model, answer)} ({_said(model)}), "
            message += f"but {_factor(model, truth)} in {source}"
            edits = _scale_edits(model, truth) if published is not None else ()
            place = "yarn.apply_scale" if model.native else model.hf_config.place(_ROPE)
            fix = "write what belongs to the weights"
            yield Problem(model.config_file, place, message, fix, edits)


def _described(subject: Subject) -> list[Model]:
    return [model for model in subject.models if subject.repo.has(model.config_file)]


def _applies(model: Model) -> bool:
    return bool(model.symbols.get("yarn.apply_scale", True))


def _factor(model: Model, applies: bool) -> str:
    return f"{attention_factor({'factor': model.symbols['yarn.factor']}) if applies else 1:.6g}"


def _said(model: Model) -> str:
    if model.native:
        return f"apply_scale {str(_applies(model)).lower()}"
    keys = ("mscale", "mscale_all_dim", "attention_factor")
    found = {key: model.hf_config.get(f"{_ROPE}.{key}") for key in keys}
    said = ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)
    return said or "no mscale"


def _scale_edits(model: Model, applies: bool) -> tuple[Edit, ...]:
    if model.native:
        return (Edit(PARAMS, ("yarn", "apply_scale"), applies),)
    config = model.hf_config
    if not config.states(_ROPE):  # spelled as in transformers 4
        return ()
    wanted: dict[str, Any] = dict(mscales(applies, config.text_type))
    if config.states(f"{_ROPE}.attention_factor"):
        wanted.setdefault("attention_factor", REMOVE)
    return tuple(_edit(model, f"{_ROPE}.{key}", value) for key, value in wanted.items())


def _edit(model: Model, path: str, value: Any) -> Edit:
    return Edit(CONFIG, tuple(json_path(path, model.hf_config.multimodal)), value)


@rule("MMF507")
def wrong_sliding_window(subject: Subject) -> Iterator[Problem]:
    """Both configs give the same layers the same sliding window, and each fits its own layers.

    config.json says it in sliding_window and layer_types, params.json in one number, or in a
    list that is repeated over the layers. A window that only one reader heeds, or a null that is
    missing where MistralConfig takes 4096, shows in texts longer than the window only.

    Repair: write the window that the model was trained with; null where there is none.
    """
    for model in _described(subject):
        yield from _native_fault(model) if model.native else _layer_type_faults(model)
    if not subject.dual:
        return
    try:
        said = subject.hf.params.get("sliding_window")
    except MmfmtError:  # what params.json cannot say is another rule's business
        return
    found = _window(subject.native)
    if said != found:
        message = f"{found!r}, but {CONFIG} says {said!r}"
        yield Problem(PARAMS, "sliding_window", message, "write the model's own")


def _window(model: Model) -> Any:
    hidden = model.body.get("_sliding_window")  # from older readers
    return model.body.get("sliding_window") if hidden is None else hidden


def _native_fault(model: Model) -> Iterator[Problem]:
    window, layers = _window(model), model.symbols["n_layers"]
    if isinstance(window, list) and layers % len(window):
        message = f"{len(window)} windows do not divide {layers} layers"
        yield Problem(PARAMS, "sliding_window", message, "give one period of the pattern")


def _layer_type_faults(model: Model) -> Iterator[Problem]:
    config = model.hf_config
    types, layers = config.get("text.layer_types", []), config.get("text.num_hidden_layers")
    place = config.place("text.layer_types")
    if types and len(types) != layers:
        yield Problem(CONFIG, place, f"{len(types)} entries for {layers} layers", "give one each")
    elif "sliding_attention" in types and config.get("text.sliding_window") is None:
        message = f"asks for sliding_attention, without {config.place('text.sliding_window')}"
        yield Problem(CONFIG, place, message, "write the window")


@rule("MMF508")
def missing_head_dim(subject: Subject) -> Iterator[Problem]:
    """config.json says head_dim where that is not hidden_size / num_attention_heads.

    It is not in Small-24B (5120 / 32 = 160, but 128) and most later models. Readers that guess
    then split Q and K in the wrong places, or stop: "start (0) + length (1280) exceeds dimension
    size (1024)" for a Pixtral in W4A16 (llm-compressor#1127).

    Repair: write head_dim.
    """
    if subject.hf in subject.models and subject.repo.has(CONFIG):
        shown = subject.hf.symbols["head_dim"]
        for place, fault in head_dim_faults(subject.hf):
            edits = (_edit(subject.hf, "text.head_dim", shown),)
            location = place.removeprefix(f"{CONFIG}: ")
            yield Problem(CONFIG, location, fault, f"write {shown}", edits)


@rule("MMF511", level="warning")
def query_scaling_unread(subject: Subject) -> Iterator[Problem]:
    """A llama_4_scaling_beta in rope_parameters comes with llama_4_scaling beside it.

    vLLM's HF path reads the section only, never the beta (vllm#48621): Ministral-3 and
    Devstral-Small-2 lose the scaling of queries past their original context there.

    Repair: add llama_4_scaling with the same two numbers; mmfmt convert writes it.
    """
    model = subject.hf
    if model not in subject.models or not subject.repo.has(CONFIG):
        return
    keys = ("original_max_position_embeddings", "beta")
    scaling = {key: model.symbols.get(f"llama_4_scaling.{key}") for key in keys}
    if scaling["beta"] and not model.hf_config.get("text.llama_4_scaling"):
        place = model.hf_config.place(f"{_ROPE}.llama_4_scaling_beta")
        message = f"{scaling['beta']} is read by transformers, but not by vLLM"
        edits = (_edit(model, "text.llama_4_scaling", scaling),)
        yield Problem(CONFIG, place, message, "add llama_4_scaling", edits)
