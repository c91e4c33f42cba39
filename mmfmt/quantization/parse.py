"""Quantization configs as found in config.json and params.json."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmfmt.checkpoint import LINEAR_KINDS, Module
from mmfmt.entries import REGEX, pattern_fault
from mmfmt.errors import MmfmtError
from mmfmt.layout import Family
from mmfmt.naming import hf_namings, naming
from mmfmt.quantization.scheme import Scheme
from mmfmt.quantization.targets import Targets
from mmfmt.schemas import table, validate

CT = "compressed-tensors"


@dataclass(frozen=True)
class Quantization:
    """What a config file says of quantization.

    `place` names it in messages (`config.json: ...`); `schemes` are the config groups, or the
    one scheme of a method without groups.
    """

    method: str
    body: Mapping[str, Any]
    place: str
    family: Family
    schemes: tuple[Scheme, ...]

    def scheme_of(self, module: Module) -> Scheme | None:
        """The scheme that targets a linear module, under whatever name a config may mean it."""
        if module.row.kind not in LINEAR_KINDS:
            return None
        if self._targets.all_alike:
            return self.schemes[0]
        return self._targets.scheme(*self.known_names(module))

    @cached_property
    def _targets(self) -> Targets:
        return Targets(self.schemes)

    def known_names(self, module: Module) -> list[str]:
        """Every name under which a config may mean the module, whatever its prefix generation."""
        namings = [*hf_namings(self.family), naming(self.family, "vllm", self.family.vllm)]
        return [n.module(module.row, module.slots) for n in namings if n.has(module.row)]


def parse_quantization(
    body: Mapping[str, Any] | None, place: str, family: Family
) -> Quantization | None:
    """A quantization section as found in a file; None where there is none.

    Raises MmfmtError for methods and compressions whose rows cannot be carried, and for those
    that are not known.
    """
    if not body:
        return None
    file, _, key = place.partition(": ")
    validate({key: body}, "quantization", file)
    method = method_of(body)
    if method not in _PARSERS:
        problem = _REFUSED.get(method, f"{method or 'none'!r} is not supported")
        raise MmfmtError(f"{place}.quant_method", problem)
    _check_patterns(body.get("ignore"), f"{place}.ignore")
    # transformers takes every entry of this list for an expression
    parts = [f"{REGEX}{entry}" for entry in body.get("modules_to_not_convert") or ()]
    _check_patterns(parts, f"{place}.modules_to_not_convert")
    schemes = tuple(_PARSERS[method](body, place))
    return Quantization(method, body, place, family, schemes)


def _check_patterns(entries: Iterable[str] | None, place: str) -> None:
    for entry in entries or ():
        if fault := pattern_fault(entry):
            raise MmfmtError(place, fault)


_REFUSED = {
    "bitsandbytes": "'bitsandbytes' cannot be converted: no reader loads it consolidated",
    "marlin": "'marlin' cannot be converted: its rows are tiled",
    "gptq-marlin-24": "'gptq-marlin-24' cannot be converted: its rows are tiled",
}


def method_of(body: Mapping[str, Any]) -> str:
    """The method of a section, spelled as its readers spell it; empty where it says none."""
    if "qformat_weight" in body:
        return "mistral-fp8"
    if "quant_algo" in body or "quantization" in body:
        return "modelopt"
    return str(body.get("quant_method", "")).lower().replace("_", "-")


# --- compressed-tensors ---


def _compressed_tensors(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    sparsity = body.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        raise MmfmtError(f"{place}.sparsity_config", f"{sparsity['format']} cannot be converted")
    if body.get("transform_config"):
        raise MmfmtError(f"{place}.transform_config", "transforms are not supported")
    for name, group in (body.get("config_groups") or {}).items():
        yield _group_scheme(name, group, body.get("format") or "", place)


def _group_scheme(name: str, group: Mapping[str, Any], form: str, place: str) -> Scheme:
    place = f"{place}.config_groups.{name}"
    weights = group.get("weights") or {}
    inputs = group.get("input_activations") or {}
    if weights.get("dynamic"):
        raise MmfmtError(f"{place}.weights.dynamic", "true, but weights are quantized once")
    scheme = Scheme(
        group=name,
        format=_plain_format(group.get("format") or form, weights),
        bits=weights.get("num_bits", 0),
        type=weights.get("type", ""),
        strategy=weights.get("strategy") or _default_strategy(weights),
        group_size=_positive(weights.get("group_size")),
        block=_block(weights.get("block_structure"), place),
        symmetric=weights.get("symmetric", True),
        activations=_activations(inputs),
        static_input=bool(inputs) and not inputs.get("dynamic", False),
        local_input=inputs.get("dynamic") == "local",
        symmetric_input=inputs.get("symmetric", True),
        targets=tuple(group.get("targets") or ()),
    )
    for fault in _unsupported(scheme, weights):
        raise MmfmtError(place, f"{fault} is not supported")
    _check_patterns(scheme.targets, f"{place}.targets")
    return scheme


def _plain_format(form: str, weights: Mapping[str, Any]) -> str:
    # naive-quantized holds what int- or float-quantized do
    if form == "naive-quantized":
        return f"{weights.get('type')}-quantized"
    return form


def _activations(inputs: Mapping[str, Any]) -> str:
    if not inputs:
        return ""
    dynamic = inputs.get("dynamic")
    when = dynamic if isinstance(dynamic, str) else "dynamic" if dynamic else "static"
    return f"{when} {inputs.get('type')}{inputs.get('num_bits')} {inputs.get('strategy')}"


def _default_strategy(weights: Mapping[str, Any]) -> str:
    # compressed-tensors infers it from group_size: none = tensor, -1 = channel
    size = weights.get("group_size")
    return "tensor" if size is None else "channel" if size == -1 else "group"


def _positive(size: int | None) -> int | None:
    return size if size is not None and size > 0 else None


def _block(said: Any, place: str) -> tuple[int, int] | None:
    """Block size (rows, columns); compressed-tensors <= 0.10 wrote "128x128"."""
    if said is None:
        return None
    sizes = said.split("x") if isinstance(said, str) else said
    try:
        rows, columns = (int(size) for size in sizes)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise MmfmtError(place, f"block {said!r} is not two sizes", "expected such as [128, 128]")
    return rows, columns


def _unsupported(scheme: Scheme, weights: Mapping[str, Any]) -> Iterator[str]:
    known = table("schemes").get(scheme.format) if scheme.format != "strategies" else None
    if known is None or "native_format" in known:
        yield f"format {scheme.format!r}"
        return
    if scheme.type != known["type"] or scheme.bits not in known["bits"]:
        yield f"{scheme.type} of {scheme.bits} bits in {scheme.format}"
    if scheme.strategy not in known["strategies"]:
        yield f"strategy {scheme.strategy!r} in {scheme.format}"
    if scheme.strategy in ("group", "tensor_group") and not scheme.group_size:
        yield f"group_size {weights.get('group_size')!r}"
    if scheme.strategy == "block" and not scheme.block:
        yield "strategy 'block' without block_structure"
    if scheme.strategy not in ("group", "tensor_group") and scheme.group_size:
        yield f"group_size {scheme.group_size} with strategy {scheme.strategy!r}"
    if scheme.strategy != "block" and scheme.block:
        yield f"block_structure with strategy {scheme.strategy!r}"


# --- FP8 of transformers and of Mistral ---


def _fp8(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    block = _block(body.get("weight_block_size"), f"{place}.weight_block_size")
    activations = body.get("activation_scheme", "dynamic")
    if activations not in ("static", "dynamic"):
        raise MmfmtError(f"{place}.activation_scheme", f"{activations!r} is not supported")
    yield _fp8_scheme(activations, block)


def _mistral_fp8(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    if body["qformat_weight"] != "fp8_e4m3":
        problem = f"{body['qformat_weight']!r} is not supported, expected 'fp8_e4m3'"
        raise MmfmtError(f"{place}.qformat_weight", problem)
    said = body.get("qscheme_act")
    if said not in ("TENSOR", "NO_SCALES", None):
        expected = "expected 'TENSOR', 'NO_SCALES' or null"
        raise MmfmtError(f"{place}.qscheme_act", f"{said!r} is not supported, {expected}")
    yield _fp8_scheme("dynamic" if said == "NO_SCALES" else "static", None)


def _fp8_scheme(activations: str, block: tuple[int, int] | None) -> Scheme:
    return Scheme(
        group="fp8",
        format="fp8",
        bits=8,
        type="float",
        strategy="block" if block else "tensor",
        block=block,
        activations=f"{activations} float8 tensor",
        static_input=activations == "static",
    )


# --- GPTQ, AWQ, AutoRound ---


def _gptq(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    form = str(body.get("checkpoint_format") or "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise MmfmtError(f"{place}.checkpoint_format", f"{form!r} cannot be converted")
    if body.get("dynamic"):
        raise MmfmtError(f"{place}.dynamic", "schemes that differ by module are not supported")
    yield _grouped_scheme("gptq", body.get("bits"), body, place)


def _awq(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    version = str(body.get("version") or "gemm").lower()
    if version != "gemm":
        raise MmfmtError(f"{place}.version", f"{version!r} cannot be converted, only 'gemm'")
    yield _grouped_scheme("awq", body.get("bits", body.get("w_bit")), body, place)


def _auto_round(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    packing = str(body.get("packing_format") or "auto_round:auto_gptq")
    form = {"auto_gptq": "gptq", "auto_awq": "awq"}.get(packing.removeprefix("auto_round:"))
    if form is None:
        raise MmfmtError(f"{place}.packing_format", f"{packing!r} is not supported")
    for name, extra in (body.get("extra_config") or {}).items():
        if extra.get("bits", body.get("bits")) not in (body.get("bits"), 16, 32):
            problem = "schemes that differ by module are not supported"
            raise MmfmtError(f"{place}.extra_config.{name}", problem)
    yield _grouped_scheme(form, body.get("bits"), body, place)


def _grouped_scheme(form: str, bits: Any, body: Mapping[str, Any], place: str) -> Scheme:
    size = _positive(body.get("group_size", body.get("q_group_size")))
    if bits not in table("schemes")[form]["bits"]:
        raise MmfmtError(f"{place}.bits", f"{bits!r} is not supported in {form}")
    return Scheme(
        group=form,
        format=form,
        bits=bits,
        type="int",
        strategy="group" if size else "channel",
        group_size=size,
        symmetric=bool(body.get("sym", not body.get("zero_point", False))),
    )


# --- ModelOpt ---


def _modelopt(body: Mapping[str, Any], place: str) -> Iterator[Scheme]:
    said = body.get("quantization", body)
    algorithm = str(said.get("quant_algo") or "")
    if algorithm not in ("NVFP4", "FP8"):
        raise MmfmtError(f"{place}.quant_algo", f"{algorithm!r} is not supported")
    nvfp4 = algorithm == "NVFP4"
    yield Scheme(
        group=algorithm,
        format=f"modelopt-{algorithm.lower()}",
        bits=4 if nvfp4 else 8,
        type="float",
        strategy="tensor_group" if nvfp4 else "tensor",
        group_size=(said.get("group_size") or 16) if nvfp4 else None,
        activations="local float4 tensor_group" if nvfp4 else "static float8 tensor",
        static_input=not nvfp4,
        local_input=nvfp4,
    )


_PARSERS: Mapping[str, Callable[[Mapping[str, Any], str], Iterator[Scheme]]] = {
    CT: _compressed_tensors,
    "fp8": _fp8,
    "mistral-fp8": _mistral_fp8,
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "modelopt": _modelopt,
}

METHODS = tuple(_PARSERS)
"""Methods whose sections are understood."""
