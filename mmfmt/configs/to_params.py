"""config.json to params.json, by the field table; each step is a pure function of a dict."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmfmt.configs.hf import CONFIG, EXTRAS, VISION, HfConfig, text_path
from mmfmt.configs.rope import llama_4_scaling, yarn
from mmfmt.errors import MmfmtError
from mmfmt.schemas import table

# sliding_window of text classes where config.json is silent
_WINDOWS = {"mistral": 4096, "voxtral_realtime_text": 8192}


def to_params(config: HfConfig, has_output: bool) -> dict[str, Any]:
    """params.json without `quantization` and without the ids that only a tokenizer knows.

    `has_output` says whether the tensors include an output head: it decides about tied
    embeddings where the config is silent. Raises MmfmtError for a value that params.json
    cannot carry.
    """
    _check_assumed(config)
    _check_head_dim(config)
    _check_unknown(config)
    params: dict[str, Any] = {}
    for field in _fields(config):
        value = _field_value(field, config, has_output)
        if value is not None:
            _put(params, field["native"], value)
    return _merged(params, config.body.get(EXTRAS) or {})


def _merged(params: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """Params with the fields that only `mistral_extras` tells; those say more than constants."""
    merged = dict(params)
    for key, value in extras.items():
        inside = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if inside else value
    return merged


def _fields(config: HfConfig) -> Iterator[Mapping[str, Any]]:
    for field in table("fields")["field"]:
        if config.kinds & set(field.get("when", config.kinds)):
            yield field


def _field_value(field: Mapping[str, Any], config: HfConfig, has_output: bool) -> Any:
    if "constant" in field:
        return field["constant"]
    if field.get("computed"):
        return _computed(field["native"], config, has_output)
    value = config.first(field["hf"])
    if value is None:
        defaults = field.get("defaults", {})
        value = next((v for kind, v in defaults.items() if kind in config.kinds), None)
    if value is None and not field.get("optional"):
        raise MmfmtError(f"{CONFIG}: {config.place(field['hf'][0])}", "is missing")
    return value


def _computed(native: str, config: HfConfig, has_output: bool) -> Any:
    if native == "head_dim":
        return _head_dim(config)
    if native.endswith("encoder_args.head_dim"):
        return config.get("audio.head_dim") or _quotient(config, "audio")
    if native.endswith("encoder_args.n_kv_heads"):
        heads = config.get("audio.num_attention_heads")
        return config.get("audio.num_key_value_heads", heads)
    if native == "tied_embeddings":
        return _tied(config, has_output)
    if native == "sliding_window":
        return _sliding_window(config)
    return yarn(config) if native == "yarn" else llama_4_scaling(config)


def _put(params: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        params = params.setdefault(section, {})
    params[key] = value


def _quotient(config: HfConfig, section: str) -> int:
    hidden, heads = (config.get(f"{section}.{k}") for k in ("hidden_size", "num_attention_heads"))
    if not hidden or not heads or hidden % heads:
        place = f"{CONFIG}: {config.place(section + '.head_dim')}"
        raise MmfmtError(place, f"is missing, and {hidden} / {heads} heads is no head size")
    return int(hidden // heads)


def _head_dim(config: HfConfig) -> int:
    if said := config.get("text.head_dim"):
        return int(said)
    if config.get("text.qk_nope_head_dim"):
        return int(config.get("text.qk_nope_head_dim") + config.get("text.qk_rope_head_dim"))
    return _quotient(config, "text")


def _tied(config: HfConfig, has_output: bool) -> bool:
    # the top level decides in transformers; the class default changed with its versions
    said = config.get("tie_word_embeddings", config.get("text.tie_word_embeddings"))
    return not has_output if said is None else bool(said)


def _sliding_window(config: HfConfig) -> Any:
    default = _WINDOWS.get(config.text_type)
    # null and absent differ here
    said = config.body["text_config"] if config.multimodal else config.body
    window = said.get("sliding_window", default)
    types = config.get("text.layer_types")
    return window if window is None or not types else _window_pattern(config, window, types)


def _window_pattern(config: HfConfig, window: int, types: list[str]) -> Any:
    if unknown := set(types) - {"full_attention", "sliding_attention"}:
        place = f"{CONFIG}: {config.place('text.layer_types')}"
        raise MmfmtError(place, f"{unknown.pop()!r} cannot be carried to params.json")
    windows = [window if kind == "sliding_attention" else None for kind in types]
    if set(windows) == {window}:
        return window
    return None if set(windows) == {None} else _shortest_period(windows)


def _shortest_period(windows: list[int | None]) -> list[int | None]:
    # native files give one period of the pattern, repeated over the layers
    count = len(windows)
    periods = (n for n in range(1, count + 1) if count % n == 0)
    return next(windows[:n] for n in periods if windows[:n] * (count // n) == windows)


def _assumed(config: HfConfig) -> Iterator[Mapping[str, Any]]:
    for rule in table("fields")["assumed"]:
        if config.kinds & set(rule.get("when", config.kinds)):
            yield rule


def _check_assumed(config: HfConfig) -> None:
    for rule in _assumed(config):
        value = config.get(rule["hf"], rule.get("absent"))
        if value not in rule["values"]:
            place = f"{CONFIG}: {config.place(rule['hf'])}"
            wanted = " or ".join(map(repr, rule["values"]))
            problem = f"{value!r} cannot be carried: readers of params.json assume {wanted}"
            raise MmfmtError(place, problem)


def _check_head_dim(config: HfConfig) -> None:
    said = config.get("vision.head_dim")
    if config.model_type in VISION and said is not None and said != _quotient(config, "vision"):
        place = f"{CONFIG}: {config.place('vision.head_dim')}"
        problem = f"{said} cannot be carried: native readers take hidden_size / heads"
        raise MmfmtError(place, f"{problem} = {_quotient(config, 'vision')}")


def _check_unknown(config: HfConfig) -> None:
    known = set(table("fields")["hf_only"]["paths"])
    known |= {path for field in _fields(config) for path in field.get("hf", [])}
    known |= {rule["hf"] for rule in _assumed(config)}
    if not config.multimodal:
        known = {text_path(path) for path in known}
    for path in config.values:
        if path not in known and not _says_nothing(path):
            problem = "no field of params.json is known for it"
            fix = "remove it if it says nothing of the model"
            raise MmfmtError(f"{CONFIG}: {config.place(path)}", problem, fix)


def _says_nothing(path: str) -> bool:
    # keys inside rope_parameters are checked with the rope
    in_rope = path.startswith(("text.rope_parameters.", "text.rope_scaling."))
    return in_rope or path.rpartition(".")[2] in table("fields")["hf_only"]["keys"]
