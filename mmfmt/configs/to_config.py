"""params.json to config.json, by the field table; each step is a pure function of a dict."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmfmt.configs.hf import DEFAULT_TEXT, EXTRAS, MULTIMODAL, PARAMS, SECTIONS
from mmfmt.configs.rope import rope_parameters
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.schemas import table

ARCHITECTURES = {
    "mistral": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
    "mistral3": "Mistral3ForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "voxtral": "VoxtralForConditionalGeneration",
    "voxtral_realtime": "VoxtralRealtimeForConditionalGeneration",
}
# what vLLM takes where params.json does not say (its adapt_config_dict)
_POSITIONS = 128_000
# without a version from 5 on, transformers warns of a wrong tokenizer pattern
_VERSION = "5.0.0"
_ENCODERS = {"voxtral": "voxtral_encoder", "voxtral_realtime": "voxtral_realtime_encoder"}
_QUANTIZATION = ("quantization", "quantization_config")


def to_config(
    params: Mapping[str, Any], dtype: str | None = None, ids: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """config.json without `quantization_config`, for transformers 5 and vLLM's HF loader.

    `dtype` is that of the unquantized weights, where params.json does not say; `ids` are those
    of the tokens that begin, end and pad a text (`bos_token_id`, ...). Fields that no
    class has a place for are kept under `mistral_extras`. Raises MmfmtError for a model that
    no class of transformers can be, and for a field that is missing.
    """
    params = _plain(params)
    model_type = model_type_of(params)
    text_type = _text_type(params, model_type)
    kinds = {model_type, text_type}
    values = flatten(params)
    config: dict[str, Any] = {}
    for path, value in _written(values, kinds, model_type):
        _put(config, path, value, model_type)
    for path, value in _made(params, model_type, text_type, dtype):
        _put(config, path, value, model_type)
    for name, value in (ids or {}).items():
        _put(config, f"text.{name}", value, model_type)
    extras = _left_over(params, kinds)
    head = {"architectures": [ARCHITECTURES[model_type]], "model_type": model_type}
    tail = {EXTRAS: extras} if extras else {}
    return {**head, **config, **tail, "transformers_version": _VERSION}


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Params without nulls, quantization, and older spellings of sections."""
    kept = {key: _without_nulls(value) for key, value in params.items() if value is not None}
    vision = kept.get("multimodal", {})
    if "hidden_size" in vision:  # the vision encoder's fields, flat (vLLM takes them from there)
        kept["vision_encoder"] = kept.pop("multimodal")
    return {key: value for key, value in kept.items() if key not in _QUANTIZATION}


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}


def model_type_of(params: Mapping[str, Any]) -> str:
    """The model_type of the class that a model with these params is, by content."""
    if "whisper_model_args" in params.get("multimodal", {}):
        encoder = params["multimodal"]["whisper_model_args"].get("encoder_args", {})
        return "voxtral_realtime" if encoder.get("causal") else "voxtral"
    if "vision_encoder" in params:
        return "mistral3" if params["vision_encoder"].get("mm_projector_id") else "llava"
    return _text_model_type(params)


def _text_model_type(params: Mapping[str, Any]) -> str:
    moe = params.get("moe", {})
    if params.get("qk_nope_head_dim"):
        if moe.get("num_shared_experts"):
            return "mistral4"
        problem = "no class of transformers has latent attention without shared experts"
        raise MmfmtError(f"{PARAMS}: moe.num_shared_experts", problem)
    if moe:
        return "mixtral"
    return "ministral3" if "yarn" in params or "llama_4_scaling" in params else "mistral"


def _text_type(params: Mapping[str, Any], model_type: str) -> str:
    if model_type in ("voxtral", "voxtral_realtime"):
        return DEFAULT_TEXT[model_type]
    return _text_model_type(params)


def _fields(kinds: set[str]) -> Iterator[Mapping[str, Any]]:
    for field in table("fields")["field"]:
        if kinds & set(field.get("when", kinds)):
            yield field


def _written(
    values: Mapping[str, Any], kinds: set[str], model_type: str
) -> Iterator[tuple[str, Any]]:
    """(path in config.json, value) of every field that is written as it stands."""
    for field in _fields(kinds):
        paths = field.get("write", field.get("hf", [])[:1])
        value = values.get(field["native"], _default(field, kinds))
        if value is None and paths and not _may_lack(field):
            raise MmfmtError(f"{PARAMS}: {field['native']}", "is missing")
        yield from ((path, value) for path in paths if value is not None)


def _default(field: Mapping[str, Any], kinds: set[str]) -> Any:
    # where a native reader has a default of its own, silence means that
    if "native_default" in field:
        return field["native_default"]
    return next((v for kind, v in field.get("defaults", {}).items() if kind in kinds), None)


def _may_lack(field: Mapping[str, Any]) -> bool:
    return any(field.get(column) for column in ("optional", "computed", "computed_native"))


def _made(
    params: Mapping[str, Any], model_type: str, text_type: str, dtype: str | None
) -> Iterator[tuple[str, Any]]:
    """(path, value) of what stands otherwise in config.json, or only there."""
    if params.get("dtype", dtype):
        yield "dtype", params.get("dtype", dtype)
    yield "text.rope_parameters", rope_parameters(params)
    yield "text.max_position_embeddings", _positions(params)
    yield "text.hidden_act", "silu"
    yield from _sliding_window(params, text_type)
    if model_type in MULTIMODAL:
        yield "text.model_type", text_type
        yield "projector_hidden_act", "gelu"
    if "vision_encoder" in params:
        yield from _vision(params["vision_encoder"], model_type)
    if model_type in _ENCODERS:
        yield "audio.model_type", _ENCODERS[model_type]
    if model_type == "voxtral":
        yield "audio_token_id", 24  # [AUDIO] in every tekken.json that has it


def _positions(params: Mapping[str, Any]) -> int:
    yarn = params.get("yarn", {})
    reached = yarn["factor"] * yarn["original_max_position_embeddings"] if yarn else _POSITIONS
    said = (
        params.get(key) for key in ("max_position_embeddings", "max_seq_len", "model_max_length")
    )
    return int(next((value for value in said if value), reached))


def _sliding_window(params: Mapping[str, Any], text_type: str) -> Iterator[tuple[str, Any]]:
    """An explicit null where there is none: MistralConfig's default is 4096."""
    said = params.get("sliding_window", params.get("_sliding_window"))
    if not isinstance(said, list):
        yield "text.sliding_window", said
        return
    windows = said * (params["n_layers"] // len(said))
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    yield "text.sliding_window", next((window for window in said if window), None)
    yield "text.layer_types", kinds


def _vision(vision: Mapping[str, Any], model_type: str) -> Iterator[tuple[str, Any]]:
    yield "vision.model_type", "pixtral"
    yield "vision.hidden_act", "silu"  # what native readers compute; the class default is gelu
    yield "vision.rope_parameters.rope_type", "default"
    yield "vision.head_dim", vision["hidden_size"] // vision["num_attention_heads"]
    yield "vision_feature_layer", -1
    if model_type == "llava":
        yield "vision_feature_select_strategy", "full"
        yield "image_seq_length", 1


def _put(config: dict[str, Any], path: str, value: Any, model_type: str) -> None:
    """Set a table path; the text model of a text-only config is the top level."""
    section, _, rest = path.partition(".")
    names = {short: name for name, short in SECTIONS.items()}
    if section == "text" and model_type not in MULTIMODAL:
        keys = rest.split(".")
    else:
        keys = [names[section], *rest.split(".")] if section in names else path.split(".")
    for key in keys[:-1]:
        config = config.setdefault(key, {})
    config[keys[-1]] = value


def _left_over(params: Mapping[str, Any], kinds: set[str]) -> dict[str, Any]:
    """The params that config.json has no place for, nested as they were."""
    known = {field["native"] for field in _fields(kinds) if _carried(field, params)}
    return _without(params, known, "")


def _carried(field: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    return "constant" not in field or flatten(params).get(field["native"]) == field["constant"]


def _without(body: Mapping[str, Any], known: set[str], prefix: str) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for key, value in body.items():
        if prefix + key in known:
            continue
        if isinstance(value, Mapping):
            if inner := _without(value, known, f"{prefix}{key}."):
                left[key] = inner
        else:
            left[key] = value
    return left
