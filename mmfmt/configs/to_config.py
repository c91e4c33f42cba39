"""params.json to config.json, by the field table; each step is a pure function of a dict."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmfmt.configs.fields import Field, has_meaning, json_path, native_defaults, rows_of
from mmfmt.configs.hf import DEFAULT_TEXT, EXTRAS, MULTIMODAL, PARAMS, HfConfig
from mmfmt.configs.rope import rope_keys, scaling_keys
from mmfmt.configs.to_params import nest, own_fields, supplied_fields
from mmfmt.configs.window import window_keys
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.schemas import validate

Params = Mapping[str, Any]
Entries = Iterator[tuple[str, Any]]
"""(table path, value) of what config.json says"""

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
_QUANTIZATION = ("quantization", "quantization_config")
# of every tekken.json
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11}
# the inverse of what `computed` names, given params.json and the model_type of the text model
_WRITERS: Mapping[str, Callable[[Params, str], Entries]] = {
    "yarn": rope_keys,
    "llama_4_scaling": scaling_keys,
    "window": window_keys,
}


def to_config(
    params: Params, dtype: str | None = None, ids: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """config.json without `quantization_config`, for transformers 5 and vLLM's HF loader.

    `dtype` is that of the unquantized weights, where params.json does not say; `ids` are those
    of the tokens that begin, end and pad a text (`bos_token_id`, ...; 1, 2 and 11 if None).
    Where params.json is silent on max_position_embeddings (in tokens), the length its yarn
    reaches stands in, else 128000, as in vLLM. Fields that no class has a place for are kept
    under `mistral_extras`. Raises MmfmtError for a model that no class of transformers can be,
    and for a field that is missing or that config.json cannot say.
    """
    said = _plain(params)
    validate(said, "params", PARAMS)
    model_type = model_type_of(said)
    text_type = DEFAULT_TEXT[model_type] if _hears(said) else _text_model_type(said)
    given = {"dtype": dtype, "max_position_embeddings": _positions(said), **said}
    config = {"architectures": [ARCHITECTURES[model_type]], "model_type": model_type}
    for path, value in _entries(given, model_type, text_type, _IDS if ids is None else ids):
        _put(config, json_path(path, model_type in MULTIMODAL), value)
    extras = _extras(flatten(said), HfConfig(config))
    tail = {EXTRAS: extras} if extras else {}
    return {**config, **tail, "transformers_version": _VERSION}


def _plain(params: Params) -> dict[str, Any]:
    """Params without nulls, quantization, and older spellings of sections."""
    kept = _without_nulls(params)
    section = kept.get("multimodal")
    if isinstance(section, Mapping) and "hidden_size" in section:  # where vLLM too takes it from
        kept["vision_encoder"] = kept.pop("multimodal")
    if "_sliding_window" in kept:  # hidden from older readers (mistral-inference)
        kept["sliding_window"] = kept.pop("_sliding_window")
    return {key: value for key, value in kept.items() if key not in _QUANTIZATION}


def _without_nulls(value: Params) -> dict[str, Any]:
    kept = {key: inner for key, inner in value.items() if inner is not None}
    return {k: _without_nulls(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def _hears(params: Params) -> bool:
    return "whisper_model_args" in params.get("multimodal", {})


def model_type_of(params: Params) -> str:
    """The model_type of the class that a model with these params is, by content."""
    sees, hears = "vision_encoder" in params, _hears(params)
    if sees and hears:
        raise MmfmtError(f"{PARAMS}: vision_encoder", "no class both sees and hears")
    if hears:
        encoder = params["multimodal"]["whisper_model_args"]["encoder_args"]
        return "voxtral_realtime" if encoder.get("causal") else "voxtral"
    if sees:
        return "mistral3" if params["vision_encoder"].get("mm_projector_id") else "llava"
    return _text_model_type(params)


def _text_model_type(params: Params) -> str:
    if "qk_nope_head_dim" in params:
        if params.get("moe", {}).get("num_shared_experts"):
            return "mistral4"
        problem = "no class of transformers has latent attention without shared experts"
        raise MmfmtError(f"{PARAMS}: moe.num_shared_experts", problem)
    if "moe" in params:
        return "mixtral"
    # Ministral3 heeds no pattern of windows; what becomes of a mistral with one does yarn too
    yarn = "yarn" in params and not isinstance(params.get("sliding_window"), list)
    return "ministral3" if yarn or "llama_4_scaling" in params else "mistral"


def _positions(params: Params) -> int:
    yarn = params.get("yarn")
    reached = yarn["factor"] * yarn["original_max_position_embeddings"] if yarn else _POSITIONS
    # other names of native files for the same length
    return int(params.get("max_seq_len", params.get("model_max_length", reached)))


def _entries(params: Params, model_type: str, text_type: str, ids: Mapping[str, int]) -> Entries:
    """All that config.json says, in its order."""
    kinds = {model_type, text_type}
    if model_type in MULTIMODAL:
        yield "text.model_type", text_type
    if model_type in MULTIMODAL and text_type in ARCHITECTURES:
        # vLLM looks the class up by model_type else, and does not know all of them
        yield "text.architectures", [ARCHITECTURES[text_type]]
    yield from ((f"text.{name}", number) for name, number in ids.items())
    for row in rows_of(kinds):
        yield from _entries_of(row, flatten(params))
        if writer := _WRITERS.get(row.get("computed", "")):
            yield from writer(params, text_type)
    yield from ((r["hf"], r["values"][0]) for r in rows_of(kinds, "assumed") if r.get("write"))
    if vision := params.get("vision_encoder"):
        yield "vision.head_dim", vision["hidden_size"] // vision["num_attention_heads"]


def _entries_of(row: Field, values: Params) -> Entries:
    """A field that is written as it stands."""
    paths = row.get("write", row.get("hf", [])[:1])
    value = values.get(row["native"], row.get("native_default"))
    if value is None and "hf" in row and not row.get("optional"):
        raise MmfmtError(f"{PARAMS}: {row['native']}", "is missing")
    if value is not None or row.get("null"):
        yield from ((path, value) for path in paths)


def _put(config: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        config = config.setdefault(key, {})
    config[keys[-1]] = value


def _extras(said: Params, config: HfConfig) -> dict[str, Any]:
    """The params that the way back would not give; those it would change cannot be carried."""
    back = _way_back(config)
    for path, value in said.items():
        known = back.get(path, native_defaults().get(path))
        if known != value and has_meaning(path):
            problem = f"{value!r} cannot be carried: {config.model_type} of transformers"
            raise MmfmtError(f"{PARAMS}: {path}", f"{problem} has {known!r} or no place for it")
    back |= supplied_fields(config)
    return nest({path: value for path, value in said.items() if back.get(path) != value})


def _way_back(config: HfConfig) -> dict[str, Any]:
    try:
        return own_fields(config, has_output=True)
    except MmfmtError as error:
        raise MmfmtError(PARAMS, f"cannot be carried: it would make a {error}") from error
