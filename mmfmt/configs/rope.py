"""Rotary embeddings: rope_parameters of config.json, yarn and llama_4_scaling of params.json."""

from collections.abc import Mapping
from math import isclose, log
from typing import Any

from mmfmt.configs.hf import CONFIG, PARAMS, HfConfig
from mmfmt.errors import MmfmtError

# rope_parameters keys of a yarn model that params.json can say, or that say nothing
_YARN_KEYS = {
    *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"),
    *("llama_4_scaling_beta", "max_position_embeddings"),
}
_PLAIN_ROPE_KEYS = {
    *("rope_type", "type", "rope_theta", "llama_4_scaling_beta"),
    *("original_max_position_embeddings", "max_position_embeddings"),
}
YARN_FIELDS = {"original_max_position_embeddings", "factor", "apply_scale", "beta", "alpha"}


def rope_of(config: HfConfig) -> Mapping[str, Any]:
    rope = config.first(["text.rope_parameters", "text.rope_scaling"])
    place = f"{CONFIG}: {config.place('text.rope_parameters')}"
    if rope is None and config.text_type == "ministral3":
        raise MmfmtError(place, "is missing: transformers then takes a yarn of its own")
    rope = rope or {}
    kind = _rope_type(rope)
    if kind not in ("default", "yarn"):
        raise MmfmtError(place, f"rope_type {kind!r} cannot be carried to params.json")
    known = _YARN_KEYS if kind == "yarn" else _PLAIN_ROPE_KEYS
    for key in rope.keys() - known:
        if rope[key] is not None and not _implied(config, key, rope[key]):
            raise MmfmtError(f"{place}.{key}", f"{rope[key]!r} cannot be carried to params.json")
    return dict(rope)


def _implied(config: HfConfig, key: str, value: Any) -> bool:
    """Whether a rope key says only what the head sizes say."""
    if key != "partial_rotary_factor":
        return False
    nope, rope = config.get("text.qk_nope_head_dim"), config.get("text.qk_rope_head_dim")
    return isclose(value, rope / (nope + rope) if nope and rope else 1)


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def yarn(config: HfConfig) -> dict[str, Any] | None:
    rope = rope_of(config)
    if _rope_type(rope) != "yarn":
        return None
    for key in ("factor", "original_max_position_embeddings"):
        if rope.get(key) is None:
            place = f"{CONFIG}: {config.place('text.rope_parameters')}.{key}"
            raise MmfmtError(place, "is missing from a yarn model")
    return {
        "original_max_position_embeddings": rope["original_max_position_embeddings"],
        "factor": _integral(rope["factor"]),
        "apply_scale": _apply_scale(config, rope),
        "beta": _integral(_or(rope.get("beta_fast"), 32)),
        "alpha": _integral(_or(rope.get("beta_slow"), 1)),
    }


def _apply_scale(config: HfConfig, rope: Mapping[str, Any]) -> bool:
    """Whether queries and keys are scaled by 0.1 ln(factor) + 1, or not at all."""
    attention, full = attention_factor(rope), _mscale(rope["factor"], 1.0)
    if isclose(attention, full):
        return True
    if isclose(attention, 1.0):
        return False
    place = f"{CONFIG}: {config.place('text.rope_parameters')}"
    expected = f"params.json can only say 1 or {full:.6g}"
    raise MmfmtError(place, f"attention factor {attention:.6g} cannot be carried: {expected}")


def attention_factor(rope: Mapping[str, Any]) -> float:
    """The effective yarn attention factor, as transformers computes it (modeling_rope_utils)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor, mscale, all_dim = rope["factor"], rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, mscale) / _mscale(factor, all_dim)
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * log(factor) + 1.0 if factor > 1 else 1.0


def llama_4_scaling(config: HfConfig) -> dict[str, Any] | None:
    rope = rope_of(config)
    beta = rope.get("llama_4_scaling_beta")
    if not beta:
        return None
    original = rope.get("original_max_position_embeddings")
    if original is None:
        place = f"{CONFIG}: {config.place('text.rope_parameters')}"
        raise MmfmtError(place, "llama_4_scaling_beta without original_max_position_embeddings")
    return {"original_max_position_embeddings": original, "beta": beta}


def _or(value: Any, default: float) -> float:
    return default if value is None else value


def _integral(value: float) -> float:
    # published params.json files write whole numbers without a fraction
    return int(value) if float(value).is_integer() else value


def rope_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's rope_parameters for transformers 5, from params.json.

    `apply_scale` (true where absent) becomes mscale / mscale_all_dim: 1 and 0 leave the full
    attention factor, 1 and 1 cancel it (transformers' modeling_rope_utils).
    """
    rope = {"rope_theta": params.get("rope_theta", 10000.0), "rope_type": "default"}
    said = params.get("yarn") or {}
    if said:
        rope |= _yarn_parameters(said)
    if scaling := params.get("llama_4_scaling"):
        rope |= _llama_4_parameters(scaling, said)
    if params.get("qk_nope_head_dim"):
        both = params["qk_nope_head_dim"] + params["qk_rope_head_dim"]
        rope["partial_rotary_factor"] = params["qk_rope_head_dim"] / both
    return rope


def _yarn_parameters(said: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := said.keys() - YARN_FIELDS:
        raise MmfmtError(f"{PARAMS}: yarn.{min(unknown)}", "is not known", "remove it")
    return {
        "rope_type": "yarn",
        "type": "yarn",
        "factor": float(said["factor"]),
        "original_max_position_embeddings": said["original_max_position_embeddings"],
        "beta_fast": float(said.get("beta", 32)),
        "beta_slow": float(said.get("alpha", 1)),
        "mscale": 1.0,
        "mscale_all_dim": 0.0 if said.get("apply_scale", True) else 1.0,
    }


def _llama_4_parameters(scaling: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    original = scaling["original_max_position_embeddings"]
    if said and said["original_max_position_embeddings"] != original:
        place = f"{PARAMS}: llama_4_scaling.original_max_position_embeddings"
        expected = said["original_max_position_embeddings"]
        raise MmfmtError(place, f"{original}, but config.json has one for it and yarn: {expected}")
    return {"original_max_position_embeddings": original, "llama_4_scaling_beta": scaling["beta"]}
