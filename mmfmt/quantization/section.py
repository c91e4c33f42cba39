"""The quantization section of a layout's config file, made anew from the tensors."""

from collections.abc import Callable, Mapping, Set
from typing import Any

from mmfmt.checkpoint import Checkpoint, Module
from mmfmt.errors import MmfmtError
from mmfmt.ignore import IgnoreReader, ignore_list, ignore_reader, unquantized_names
from mmfmt.quantization.arguments import REMOVED_ORDERS
from mmfmt.quantization.parse import CT, Quantization
from mmfmt.quantization.scheme import Scheme
from mmfmt.schemas import table

# said while calibrating, of no use to a loader; old readers refuse some of them
_CALIBRATION = {"observer", "observer_kwargs"}
# versions before 0.13 refuse these keys; vLLM, and versions from 0.15 on, infer the same, but for
# MX formats (0.13 and 0.14 want them for NVFP4 where transformers 4 compresses in memory)
_DTYPES = {"scale_dtype", "zp_dtype"}
NATIVE_KEY, HF_KEY = "quantization", "quantization_config"
COMPRESSED = "compressed"


def quantization_section(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    """Key and body for a layout's config file (`hf`: config.json, `native`: params.json).

    Lists of modules are in the names that the layout's readers compare them with. Raises
    MmfmtError for a section that no tensor bears out, and for what the layout cannot say.
    """
    if not any(module.quantized for module in checkpoint.linears):
        raise MmfmtError(quantization.place, "is there, but no tensor is quantized", "remove it")
    return _SECTIONS[quantization.method](quantization, checkpoint, layout)


def _list_reader(checkpoint: Checkpoint, layout: str) -> IgnoreReader:
    label = "vllm-native" if layout == "native" else "transformers"
    return ignore_reader(label, checkpoint.naming.family)


# --- compressed-tensors ---


def _compressed_tensors(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    """Nulls and calibration keys are left out: several versions refuse them (0.20 omits them)."""
    reader = _list_reader(checkpoint, layout)
    body = {key: _kept(value, _DTYPES) for key, value in quantization.body.items() if value}
    groups = {
        scheme.group: _group(quantization, scheme, targets)
        for scheme, targets in _targets(quantization, checkpoint, reader)
    }
    return NATIVE_KEY if layout == "native" else HF_KEY, {
        **body,
        "quant_method": CT,
        "quantization_status": COMPRESSED,  # transformers takes the tensors for weights otherwise
        "config_groups": groups,
        "ignore": ignore_list(checkpoint, reader),
    }


def _kept(value: Any, silent: Set[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    kept = {k: v for k, v in value.items() if v is not None and k not in _CALIBRATION | silent}
    return {key: _kept(inner, silent) for key, inner in kept.items()}


def _group(quantization: Quantization, scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    """A config group without an actorder that the versions before 0.16 refuse."""
    group = quantization.body["config_groups"][scheme.group]
    kept = _kept(group, set() if scheme.format.startswith("mx") else _DTYPES)
    order = kept["weights"].get("actorder")
    if order in REMOVED_ORDERS:
        place = f"{quantization.place}.config_groups.{scheme.group}.weights.actorder"
        problem = "is not supported: compressed-tensors has refused it since 0.19"
        raise MmfmtError(place, f"{order!r} {problem}")
    if scheme.strategy != "group":
        kept["weights"].pop("actorder", None)
    return {**kept, "targets": targets}


def _targets(
    quantization: Quantization, checkpoint: Checkpoint, reader: IgnoreReader
) -> list[tuple[Scheme, list[str]]]:
    """Config groups in use: all of Linear for a single one, else their modules by name."""
    used: dict[Scheme, list[str]] = {}
    for module in checkpoint.linears:
        scheme = quantization.scheme_of(module) if module.quantized else None
        if scheme:
            used.setdefault(scheme, []).append(reader.name(module))
    if len(used) == 1:
        return [(scheme, ["Linear"]) for scheme in used]
    return list(used.items())


# --- FP8 of transformers and of Mistral ---


def _fp8(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    """Scales of whole tensors have a native form; blocks keep transformers' section."""
    (scheme,) = quantization.schemes
    if layout == "native" and not scheme.block:
        _check_all_quantized(quantization, checkpoint)
        activations = "TENSOR" if scheme.static_input else "NO_SCALES"
        return NATIVE_KEY, {"qformat_weight": "fp8_e4m3", "qscheme_act": activations}
    return HF_KEY, {
        "quant_method": "fp8",
        "activation_scheme": "static" if scheme.static_input else "dynamic",
        "weight_block_size": list(scheme.block) if scheme.block else None,
        "modules_to_not_convert": _unquantized(checkpoint, layout),
    }


def _check_all_quantized(quantization: Quantization, checkpoint: Checkpoint) -> None:
    for module in _bare_text(checkpoint):
        problem = f"{module.name} is not quantized, and its method has no list to say so"
        fix = "quantize it too, or all with compressed-tensors"
        raise MmfmtError(quantization.place, problem, fix)


def _bare_text(checkpoint: Checkpoint) -> list[Module]:
    """Unquantized modules that vLLM's native loaders build with a quantization config."""
    asked = ignore_reader("vllm-native", checkpoint.naming.family)
    return [m for m in checkpoint.linears if not m.quantized and asked.asks(m)]


def _unquantized(checkpoint: Checkpoint, layout: str) -> list[str]:
    return unquantized_names(checkpoint, _list_reader(checkpoint, layout))


# --- GPTQ, AWQ, AutoRound: the same method in both layouts ---


def _gptq(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    """Without modules_in_block_to_quantize: every text module must be quantized."""
    _check_all_quantized(quantization, checkpoint)
    body = _without(quantization.body, "modules_in_block_to_quantize", "block_name_to_quantize")
    return HF_KEY, body


def _awq(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    names = _unquantized(checkpoint, layout)
    return HF_KEY, {**quantization.body, "modules_to_not_convert": names}


def _auto_round(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    """What is not quantized stands in extra_config with 16 bits, by name."""
    reader = _list_reader(checkpoint, layout)
    text = next(row for row in checkpoint.naming.family.rows if row.native.startswith("layers."))
    prefix = reader.naming.module(text, tuple((slot, 0) for slot, _ in text.slots))
    body = _without(quantization.body, "extra_config", "modules_in_block_to_quantize")
    body["block_name_to_quantize"] = prefix.partition(".0.")[0]
    extra = {name: {"bits": 16} for name in _unquantized(checkpoint, layout)}
    return HF_KEY, body | ({"extra_config": extra} if extra else {})


def _without(body: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in keys and v is not None}


# --- ModelOpt: becomes compressed-tensors ---


def _modelopt(
    quantization: Quantization, checkpoint: Checkpoint, layout: str
) -> tuple[str, dict[str, Any]]:
    (scheme,) = quantization.schemes
    fp4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "symmetric": True}
    fp8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}
    args = {**fp4, "group_size": scheme.group_size} if scheme.local_input else fp8
    form = table("schemes")[scheme.format]["native_format"]
    group = {
        "targets": ["Linear"],
        "format": form,
        "weights": {**args, "dynamic": False},
        "input_activations": {**args, "dynamic": "local" if scheme.local_input else False},
    }
    return NATIVE_KEY, {
        "quant_method": CT,
        "format": form,
        "quantization_status": COMPRESSED,
        "config_groups": {"group_0": group},
        "ignore": ignore_list(checkpoint, _list_reader(checkpoint, layout)),
    }


_SECTIONS: Mapping[str, Callable[[Quantization, Checkpoint, str], tuple[str, dict[str, Any]]]] = {
    CT: _compressed_tensors,
    "fp8": _fp8,
    "mistral-fp8": _fp8,
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "modelopt": _modelopt,
}
