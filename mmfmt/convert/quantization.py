"""The `quantization` section of params.json, made from a HF config and the tensors."""

from collections.abc import Mapping
from typing import Any

from mmfmt.checkpoint import Checkpoint
from mmfmt.errors import MmfmtError
from mmfmt.ignore import IgnoreReader, ignore_list, ignore_reader
from mmfmt.quantization import Quantization, Scheme

# said while calibrating, of no use to a loader; old readers refuse some of them
_CALIBRATION = {"observer", "observer_kwargs"}


def quantization_section(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    """Key and body for a layout's config file, with ignore list and targets in its readers' names.

    Both are made anew from the tensors. Nulls and calibration keys are left out: several
    versions of compressed-tensors refuse them (quantization configs since 0.20 omit them too).
    """
    label = "vllm-native" if layout == "native" else "transformers"
    reader = ignore_reader(label, checkpoint.naming.family)
    body = {key: _without_nulls(value) for key, value in quantization.body.items() if value}
    groups = {
        scheme.group: {**body["config_groups"][scheme.group], "targets": targets}
        for scheme, targets in _targets(quantization, checkpoint, reader)
    }
    section = {
        **body,
        "quant_method": "compressed-tensors",
        "config_groups": groups,
        "ignore": ignore_list(checkpoint, reader),
    }
    return ("quantization" if layout == "native" else "quantization_config"), section


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kept = {k: v for k, v in value.items() if v is not None and k not in _CALIBRATION}
    return {key: _without_nulls(inner) for key, inner in kept.items()}


def _targets(
    quantization: Quantization, checkpoint: Checkpoint, reader: IgnoreReader
) -> list[tuple[Scheme, list[str]]]:
    """Config groups in use: all of Linear for a single one, else their modules by name."""
    used: dict[Scheme, list[str]] = {}
    for module in checkpoint.linears:
        scheme = quantization.scheme_of(module) if module.quantized else None
        if scheme:
            used.setdefault(scheme, []).append(reader.name(module))
    if not used:
        raise MmfmtError(quantization.place, "is there, but no tensor is quantized", "remove it")
    if len(used) == 1:
        return [(scheme, ["Linear"]) for scheme in used]
    return list(used.items())
