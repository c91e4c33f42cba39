"""5xx: config.json against params.json, and both against their schemas."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mmfmt.checkpoint import Module
from mmfmt.configs import CONFIG, PARAMS
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.model import Model
from mmfmt.quantization import Scheme
from mmfmt.schemas import table
from mmfmt.verify.findings import Problem, rule, some
from mmfmt.verify.subject import Subject


@rule("MMF501")
def invalid_config(subject: Subject) -> Iterator[Problem]:
    """config.json and params.json are JSON objects whose known fields have the right types.

    Repair: mend the field named.
    """
    for model in (subject.hf, subject.native):
        if subject.repo.has(model.config_file):
            try:
                _ = model.body
            except MmfmtError as error:
                location = error.place.removeprefix(model.config_file).removeprefix(": ")
                yield Problem(model.config_file, location, error.problem, error.fix)


@rule("MMF502")
def config_differs_from_params(subject: Subject) -> Iterator[Problem]:
    """config.json and params.json of a repo with both layouts describe the same model.

    A wrong yarn apply_scale (Medium-3.5's mscale_all_dim) or a forgotten tied_embeddings
    loads in every engine and costs answers only.

    Repair: write the value that belongs to the weights; mmfmt convert makes params.json.
    """
    if not subject.dual:
        return
    # faults of these are other rules' business; what is left says what params.json cannot
    _ = subject.hf.hf_config, subject.hf.checkpoint.modules
    try:
        said = flatten(subject.hf.params)
    except MmfmtError as error:
        location = error.place.removeprefix(CONFIG).removeprefix(": ")
        yield Problem(CONFIG, location, f"params.json cannot say this: {error.problem}", error.fix)
        return
    found = flatten(subject.native.params)
    for path in _compared(said, found):
        if said.get(path) != found.get(path):
            message = f"{found.get(path)!r}, but {CONFIG} says {said.get(path)!r}"
            yield Problem(PARAMS, path, message, "write the value that belongs to the weights")


def _compared(said: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Paths to compare; silence of params.json is filled with what native readers assume."""
    fields = table("fields")["field"]
    defaults = {f["native"]: f["native_default"] for f in fields if "native_default" in f}
    if not any(path.startswith("vision_encoder.") for path in {*said, *found}):
        defaults = {k: v for k, v in defaults.items() if "." not in k}
    for side in (said, found):
        for path, value in defaults.items():
            side.setdefault(path, value)
    sections = tuple(f"{f['native']}." for f in fields if f.get("computed"))
    known = {f["native"] for f in fields}
    paths = {path for path in {*said, *found} if path in known or path.startswith(sections)}
    return sorted(path for path in paths if _must_agree(path, said, found))


def _must_agree(path: str, said: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    silent_ok = path in ("dtype", "max_position_embeddings")
    return not silent_ok or (path in said and path in found)


@rule("MMF503")
def quantization_differs(subject: Subject) -> Iterator[Problem]:
    """Both layouts of a repo declare the same scheme for each module.

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
    for (said, expected), names in unlike.items():
        message = f"{some(names)}: {said} here, {expected} in {CONFIG}"
        yield Problem(PARAMS, subject.native.quantization_key, message, "convert again")


def _how(model: Model, module: Module) -> Scheme | None:
    """A module's scheme without what may differ between the files: group name and targets."""
    scheme = model.scheme(module) if module.quantized else None
    return replace(scheme, group="", targets=()) if scheme else None
