"""5xx: config.json against params.json, and both against their schemas."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mmfmt.checkpoint import Module
from mmfmt.configs import CONFIG, PARAMS
from mmfmt.configs.fields import has_meaning, native_defaults, rows
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.model import Model, head_dim_faults
from mmfmt.quantization import Scheme
from mmfmt.tokenizer import IMAGE_TOKENS
from mmfmt.verify.findings import Problem, explained, rule, some
from mmfmt.verify.rules.names import missing_module, wrong_shape
from mmfmt.verify.rules.quantization import quantized_parameters
from mmfmt.verify.rules.tokenizer import image_token_ids
from mmfmt.verify.subject import Subject

# compared by rules of their own
_ELSEWHERE = {"yarn.apply_scale", "sliding_window", "tied_embeddings"}
_IDS = {f"vision_encoder.{key}" for key in IMAGE_TOKENS}


@rule("MMF501")
def invalid_config(subject: Subject) -> Iterator[Problem]:
    """config.json and params.json are JSON objects that describe one model of a known family.

    Known fields have the right types, none that is needed is missing, none contradicts another
    (rope_theta at the top and in rope_parameters), sizes are those of a model.

    Repair: mend the field named.
    """
    for model in (subject.hf, subject.native):
        if subject.repo.has(model.config_file) and (error := _config_error(model)):
            place = "" if error.place == "params" else error.place
            location = place.removeprefix(model.config_file).removeprefix(": ")
            yield Problem(model.config_file, location, error.problem, error.fix)


def _config_error(model: Model) -> MmfmtError | None:
    if error := _raised(lambda: model.body if model.native else model.hf_config):
        return error
    if _raised(lambda: model.checkpoint.modules):  # faults of weights are other rules' business
        return None
    return _raised(lambda: list(_shapes(model)))


def _shapes(model: Model) -> Iterator[tuple[int, ...]]:
    """The size that the config gives each kind of module of the tensors' family."""
    symbols, naming = model.symbols, model.checkpoint.naming
    if model.weights.exists and naming.family.fits(symbols):
        for row in naming.family.rows:
            if naming.has(row) and row.expected(symbols):
                next(row.instances(symbols), None)  # how many there are
                yield row.weight_shape(symbols)


def _raised(look: Callable[[], object]) -> MmfmtError | None:
    try:
        look()
    except MmfmtError as error:
        return error
    return None


@rule("MMF502")
def config_differs_from_params(subject: Subject) -> Iterator[Problem]:
    """config.json and params.json of a repo with both layouts describe the same model.

    A wrong rope_theta or norm_eps loads in every engine and costs answers only. Where the tensors
    or the tokenizer show which of the two files is wrong, MMF302, 303, 401 or 601 says it.

    Repair: write the value that belongs to the weights; mmfmt convert makes params.json.
    """
    if not subject.dual or explained(subject, [invalid_config]):
        return
    # faults of these are other rules' business; what is left says what params.json cannot
    _ = subject.hf.symbols, subject.hf.checkpoint.modules
    try:
        said = flatten(subject.hf.params)
    except MmfmtError as error:
        location = error.place.removeprefix(CONFIG).removeprefix(": ")
        yield Problem(CONFIG, location, f"params.json cannot say this: {error.problem}", error.fix)
        return
    found = flatten(subject.native.params)
    unlike = [path for path in _compared(said, found) if said.get(path) != found.get(path)]
    elsewhere = _told_elsewhere(subject) if unlike else set()
    for path in unlike:
        if path not in elsewhere:
            message = f"{found.get(path)!r}, but {CONFIG} says {said.get(path)!r}"
            yield Problem(PARAMS, path, message, "write the value that belongs to the weights")


def _told_elsewhere(subject: Subject) -> set[str]:
    """Fields of params.json of which another rule says what is wrong, and in which file."""
    told = _ELSEWHERE | (_IDS if explained(subject, [image_token_ids]) else set())
    if any(head_dim_faults(subject.hf)):
        told |= {"head_dim"}
    if explained(subject, [missing_module, wrong_shape, quantized_parameters]):
        rows = subject.native.checkpoint.naming.family.rows
        told |= {field for row in rows for field in row.fields}
    return told


def _compared(said: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Paths to compare; silence of params.json is filled with what native readers assume."""
    sections = {path.rpartition(".")[0] for path in {*said, *found}}
    for path, value in native_defaults().items():
        if path.rpartition(".")[0] in sections:
            said.setdefault(path, value)
            found.setdefault(path, value)
    compared = filter(has_meaning, {*said, *found})
    return sorted(path for path in compared if _must_agree(path, said, found))


def _must_agree(path: str, said: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    silence = any(row.get("silence") and row["native"] == path for row in rows())
    return not silence or (path in said and path in found)


@rule("MMF503")
def quantization_differs(subject: Subject) -> Iterator[Problem]:
    """Both layouts of a repo declare the same scheme for each module.

    vLLM takes the one or the other with --config-format, and computes with the scheme that it
    finds there: where the two differ, one of them misreads the packed words.

    Repair: convert again, or copy the config groups.
    """
    if not subject.dual:
        return
    unlike: dict[tuple[str, str], list[str]] = {}
    for key, module in subject.native.checkpoint.modules.items():
        twin = subject.hf.checkpoint.modules.get(key)
        if twin:
            here, there = _how(subject.native, module), _how(subject.hf, twin)
            # a scheme that is missing altogether is another rule's business
            if here and there and here != there:
                unlike.setdefault((here.label, there.label), []).append(module.name)
    if unlike and explained(subject, [quantized_parameters]):
        return  # the tensors show which of the two is wrong
    for (said, expected), names in unlike.items():
        message = f"{some(names)}: {said} here, {expected} in {CONFIG}"
        yield Problem(PARAMS, subject.native.quantization_key, message, "convert again")


def _how(model: Model, module: Module) -> Scheme | None:
    """A module's scheme without what may differ between the files: group name and targets."""
    scheme = model.scheme(module) if module.quantized else None
    return replace(scheme, group="", targets=()) if scheme else None
