"""Rotary embeddings: rope_parameters of config.json, yarn and llama_4_scaling of params.json.

`yarn` and `llama_4_scaling` read a config; `rope_keys` and `scaling_keys` write one.
"""

from collections.abc import Iterator, Mapping
from math import isclose, log
from typing import Any

from mmfmt.configs.hf import CONFIG, PARAMS, HfConfig
from mmfmt.errors import MmfmtError

# text models whose attention in transformers scales queries, by a beta they cannot do without
SCALING_QUERIES = {"ministral3", "mistral4"}

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


def _rope_of(config: HfConfig) -> Mapping[str, Any]:
    rope = config.first(["text.rope_parameters", "text.rope_scaling"])
    place = _place(config)
    if rope is None and config.text_type in SCALING_QUERIES:
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


def _place(config: HfConfig) -> str:
    return f"{CONFIG}: {config.place('text.rope_parameters')}"


def _implied(config: HfConfig, key: str, value: Any) -> bool:
    """Whether a rope key says only what the head sizes say."""
    if key != "partial_rotary_factor":
        return False
    nope, rope = config.get("text.qk_nope_head_dim"), config.get("text.qk_rope_head_dim")
    return isclose(value, rope / (nope + rope) if nope and rope else 1)


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def yarn(config: HfConfig) -> dict[str, Any] | None:
    """`yarn` of params.json; None for a model without. Lengths are in tokens."""
    rope = _rope_of(config)
    if _rope_type(rope) != "yarn":
        return None
    for key in ("factor", "original_max_position_embeddings"):
        if rope.get(key) is None:
            raise MmfmtError(f"{_place(config)}.{key}", "is missing from a yarn model")
    return {
        "original_max_position_embeddings": rope["original_max_position_embeddings"],
        "factor": _integral(rope["factor"]),
        "apply_scale": _apply_scale(config, rope),
        # transformers takes its default for 0 too
        "beta": _integral(rope.get("beta_fast") or 32),
        "alpha": _integral(rope.get("beta_slow") or 1),
    }


def _apply_scale(config: HfConfig, rope: Mapping[str, Any]) -> bool:
    """Whether attention logits are scaled by (0.1 ln(factor) + 1) squared, or not at all."""
    full = _mscale(rope["factor"], 1.0)
    found = _scales(config.text_type, rope)
    for answer, scales in ((True, _scales_of(config.text_type, full)), (False, (1.0, 1.0))):
        if all(map(isclose, found, scales)):
            return answer
    expected = f"params.json can only say one of 1, or one of {full:.6g}"
    raise MmfmtError(_place(config), f"this attention factor cannot be carried: {expected}")


def _scales_of(text_type: str, factor: float) -> tuple[float, float]:
    # latent attention scales whole logits, not the rotated part of queries and keys
    return (1.0, factor**2) if text_type == "mistral4" else (factor, 1.0)


def _scales(text_type: str, rope: Mapping[str, Any]) -> tuple[float, float]:
    """Factor of cosines and sines, and factor of the logits beside it (modeling_mistral4)."""
    all_dim = rope.get("mscale_all_dim") if text_type == "mistral4" else None
    return attention_factor(rope), _mscale(rope["factor"], all_dim or 0.0) ** 2


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


def llama_4_scaling(config: HfConfig, said: Any) -> dict[str, Any] | None:
    """`llama_4_scaling` of params.json (length in tokens); None for a model without.

    `said` is the section of the same name that config.json may have for vLLM.
    """
    rope = _rope_of(config)
    beta = rope.get("llama_4_scaling_beta")
    # vLLM's latent attention wants it said even where it is 0 (its adapt_config_dict)
    if beta == 0 and config.text_type != "mistral4":
        beta = None
    found = None if beta is None else _scaling(config, rope, beta)
    if said is not None and said != found:
        place = f"{CONFIG}: {config.place('text.llama_4_scaling')}"
        raise MmfmtError(place, f"{said}, but rope_parameters say {found}", "make them equal")
    return found


def _scaling(config: HfConfig, rope: Mapping[str, Any], beta: float) -> dict[str, Any]:
    original = rope.get("original_max_position_embeddings")
    if original is None:
        problem = "llama_4_scaling_beta without original_max_position_embeddings"
        raise MmfmtError(_place(config), problem)
    return {"original_max_position_embeddings": original, "beta": beta}


def _integral(value: float) -> float:
    # published params.json files write whole numbers without a fraction
    return int(value) if float(value).is_integer() else value


def rope_keys(params: Mapping[str, Any], text_type: str) -> Iterator[tuple[str, Any]]:
    """(table path, value) of the text model's rope for transformers 5, the inverse of `yarn`.

    Raises MmfmtError for a latent attention without yarn, which transformers cannot run.
    """
    said = params.get("yarn", {})
    rope = {"rope_theta": params["rope_theta"], "rope_type": "default"}
    if said:
        rope |= _yarn_parameters(said, text_type)
    elif text_type == "mistral4":
        raise MmfmtError(f"{PARAMS}: yarn", "is missing: transformers' Mistral4 has no other rope")
    if text_type in SCALING_QUERIES:
        rope |= _query_scaling(params.get("llama_4_scaling", {}))
    if text_type == "mistral4":
        both = params["qk_nope_head_dim"] + params["qk_rope_head_dim"]
        rope["partial_rotary_factor"] = params["qk_rope_head_dim"] / both
    yield "text.rope_parameters", rope


def scaling_keys(params: Mapping[str, Any], _: str) -> Iterator[tuple[str, Any]]:
    """(table path, value) of llama_4_scaling for vLLM, beside what `rope_keys` says of it.

    vLLM does not read rope_parameters.llama_4_scaling_beta (its issue 48621).
    """
    if scaling := params.get("llama_4_scaling"):
        yield "text.llama_4_scaling", scaling


def _yarn_parameters(said: Mapping[str, Any], text_type: str) -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "type": "yarn",
        "factor": float(said["factor"]),
        "original_max_position_embeddings": said["original_max_position_embeddings"],
        "beta_fast": float(said.get("beta", 32)),
        "beta_slow": float(said.get("alpha", 1)),
        **mscales(said.get("apply_scale", True), text_type),
    }


def mscales(apply_scale: bool, text_type: str) -> dict[str, float]:
    """rope_parameters that say `apply_scale`: in all but latent attention 1 and 1 cancel out."""
    if text_type != "mistral4":
        return {"mscale": 1.0, "mscale_all_dim": 0.0 if apply_scale else 1.0}
    if apply_scale:
        return {"mscale": 1.0, "mscale_all_dim": 1.0}
    return {"mscale": 1.0, "mscale_all_dim": 0.0, "attention_factor": 1.0}


def _query_scaling(scaling: Mapping[str, Any]) -> dict[str, Any]:
    if not scaling:
        return {"llama_4_scaling_beta": 0.0}
    return {
        "original_max_position_embeddings": scaling["original_max_position_embeddings"],
        "llama_4_scaling_beta": scaling["beta"],
    }
