"""Quantization sections as they stand in the config files, understood or not."""

from collections.abc import Mapping
from typing import Any

from mmfmt.checkpoint import Module
from mmfmt.entries import by_name, by_part
from mmfmt.errors import MmfmtError
from mmfmt.model import MODELOPT, Model
from mmfmt.quantization import CT, METHODS, Quantization, method_of
from mmfmt.quantization.section import HF_KEY, NATIVE_KEY
from mmfmt.verify.findings import REMOVE, Edit

# what vLLM looks for under params.json's own key
_NATIVE_METHODS = (CT, "mistral-fp8")


def misplaced_section(model: Model) -> str:
    """The key of a section that readers of the file look for under the other key; or empty."""
    body = model.body.get(NATIVE_KEY)
    if not isinstance(body, Mapping) or method_of(body) not in METHODS:
        return ""
    misplaced = not model.native or method_of(body) not in _NATIVE_METHODS
    return NATIVE_KEY if misplaced else ""


def moved(model: Model) -> tuple[Edit, ...]:
    """The repair of a misplaced section."""
    section = model.body[NATIVE_KEY]
    return (
        Edit(model.config_file, (HF_KEY,), section),
        Edit(model.config_file, (NATIVE_KEY,), REMOVE),
    )


def place_in_section(model: Model, key: str) -> tuple[str, tuple[str, ...]]:
    """File and keys of a value, by its dotted place in the section that holds for a model."""
    file = model.quantization.place.partition(": ")[0] if model.quantization else ""
    top = () if file == MODELOPT else (model.quantization_key,)
    return file, (*top, *filter(None, key.split(".")))


def unreadable_section(model: Model) -> MmfmtError | None:
    """Why a section cannot be understood, where the rest of its file can."""
    _ = model.body, model.checkpoint.naming
    try:
        if not model.native and model.repo.has(MODELOPT):
            _ = model.repo.json(MODELOPT)
        if model.quantization:
            _try_expressions(model.quantization, model.checkpoint.linears)
    except MmfmtError as error:
        return error
    return None


def _try_expressions(quantization: Quantization, modules: list[Module]) -> None:
    """MmfmtError for expressions that take too long on the names of modules."""
    body = quantization.body
    targets = [target for scheme in quantization.schemes for target in scheme.targets]
    parts = by_part(body.get("modules_to_not_convert") or ())
    tests = (by_name(body.get("ignore") or ()), by_name(targets), parts)
    for name in {name for module in modules for name in quantization.known_names(module)}:
        for test in tests:
            test(name)


def compressed_section(model: Model) -> Mapping[str, Any]:
    """The section of compressed-tensors in a config file; empty where there is none."""
    if model.quantization and model.quantization.method == CT:
        return model.quantization.body
    return {}
