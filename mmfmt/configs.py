"""config.json to params.json, by the field table; each step is a pure function of a dict."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isclose, log
from typing import Any

from mmfmt.errors import MmfmtError
from mmfmt.schemas import table, validate

CONFIG, PARAMS = "config.json", "params.json"
MULTIMODAL = {"mistral3", "llava"}
TEXT_TYPES = {"mistral", "ministral3"}

# rope_parameters keys of a yarn model that params.json can say, or that say nothing
_YARN_KEYS = {
    *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"),
    *("llama_4_scaling_beta", "max_position_embeddings"),
}
_PLAIN_ROPE_KEYS = {"rope_type", "type", "rope_theta", "llama_4_scaling_beta"}


@dataclass(frozen=True)
class HfConfig:
    """A checked config.json, read by the paths of the field table (`text.`, `vision.`, top)."""

    body: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.body.get("model_type"))

    @property
    def multimodal(self) -> bool:
        return self.model_type in MULTIMODAL

    @property
    def text_type(self) -> str:
        """model_type of the text model."""
        return str(self.get("text.model_type", "mistral"))

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """Every value and object by table path, nulls left out."""
        found: dict[str, Any] = {}
        for key, value in self.body.items():
            section = {"text_config": "text", "vision_config": "vision"}.get(key)
            if section and isinstance(value, Mapping):
                _collect(found, value, section)
            else:
                _collect(found, {key: value}, "" if self.multimodal else "text")
        return found

    def get(self, path: str, default: Any = None) -> Any:
        return self.values.get(path if self.multimodal else _text_path(path), default)

    def first(self, paths: list[str]) -> Any:
        """The value that the given paths agree on; None where none of them is present."""
        found = {path: self.get(path) for path in paths if self.get(path) is not None}
        if any(value != other for value in found.values() for other in found.values()):
            said = ", ".join(f"{self.place(path)} = {value!r}" for path, value in found.items())
            raise MmfmtError(CONFIG, f"contradicts itself: {said}", "make them equal")
        return next(iter(found.values()), None)

    def place(self, path: str) -> str:
        """A table path as the JSON path that a person finds in the file."""
        section, _, rest = path.partition(".")
        if section not in ("text", "vision"):
            return path
        return f"{section}_config.{rest}" if self.multimodal else rest


def _collect(found: dict[str, Any], body: Mapping[str, Any], prefix: str) -> None:
    for key, value in body.items():
        path = f"{prefix}.{key}" if prefix else key
        if value is not None:
            found[path] = value
        if isinstance(value, Mapping) and key in ("rope_parameters", "rope_scaling"):
            _collect(found, value, path)


def _text_path(path: str) -> str:
    # in a text-only config everything stands at the top level
    return path if path.startswith(("text.", "vision.")) else f"text.{path}"


def open_config(body: Mapping[str, Any]) -> HfConfig:
    """Check a config.json against its schema and refuse model types not supported yet."""
    validate(body, "config", CONFIG)
    config = HfConfig(body)
    if config.model_type not in MULTIMODAL | TEXT_TYPES:
        raise MmfmtError(f"{CONFIG}: model_type", f"{config.model_type!r} is not supported yet")
    if config.text_type not in TEXT_TYPES:
        place = f"{CONFIG}: {config.place('text.model_type')}"
        raise MmfmtError(place, f"{config.text_type!r} is not supported yet")
    return config


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
    return params


def _fields(config: HfConfig) -> Iterator[Mapping[str, Any]]:
    for field in table("fields")["field"]:
        if config.model_type in field.get("when", [config.model_type]):
            yield field


def _field_value(field: Mapping[str, Any], config: HfConfig, has_output: bool) -> Any:
    if "constant" in field:
        return field["constant"]
    if field.get("computed"):
        return _computed(field["native"], config, has_output)
    value = config.first(field["hf"])
    if value is None:
        value = field.get("defaults", {}).get(config.model_type)
    if value is None and not field.get("optional"):
        raise MmfmtError(f"{CONFIG}: {config.place(field['hf'][0])}", "is missing")
    return value


def _computed(native: str, config: HfConfig, has_output: bool) -> Any:
    if native == "head_dim":
        return config.get("text.head_dim") or _quotient(config, "text")
    if native == "tied_embeddings":
        return _tied(config, has_output)
    if native == "sliding_window":
        return _sliding_window(config)
    return _yarn(config) if native == "yarn" else _llama_4_scaling(config)


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


def _tied(config: HfConfig, has_output: bool) -> bool:
    # the top level decides in transformers; the class default changed with its versions
    said = config.get("tie_word_embeddings", config.get("text.tie_word_embeddings"))
    return not has_output if said is None else bool(said)


def _sliding_window(config: HfConfig) -> Any:
    default = 4096 if config.text_type == "mistral" else None
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


def _rope(config: HfConfig) -> Mapping[str, Any]:
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
        if rope[key] is not None and not (key == "partial_rotary_factor" and rope[key] == 1):
            raise MmfmtError(f"{place}.{key}", f"{rope[key]!r} cannot be carried to params.json")
    return dict(rope)


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _yarn(config: HfConfig) -> dict[str, Any] | None:
    rope = _rope(config)
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


def _llama_4_scaling(config: HfConfig) -> dict[str, Any] | None:
    rope = _rope(config)
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


def _check_assumed(config: HfConfig) -> None:
    for rule in table("fields")["assumed"]:
        if config.model_type not in rule.get("when", [config.model_type]):
            continue
        value = config.get(rule["hf"], rule.get("absent"))
        if value not in rule["values"]:
            place = f"{CONFIG}: {config.place(rule['hf'])}"
            wanted = " or ".join(map(repr, rule["values"]))
            problem = f"{value!r} cannot be carried: readers of params.json assume {wanted}"
            raise MmfmtError(place, problem)


def _check_head_dim(config: HfConfig) -> None:
    said = config.get("vision.head_dim")
    if config.multimodal and said is not None and said != _quotient(config, "vision"):
        place = f"{CONFIG}: {config.place('vision.head_dim')}"
        problem = f"{said} cannot be carried: native readers take hidden_size / heads"
        raise MmfmtError(place, f"{problem} = {_quotient(config, 'vision')}")


def _check_unknown(config: HfConfig) -> None:
    known = set(table("fields")["hf_only"]["paths"])
    known |= {path for field in table("fields")["field"] for path in field.get("hf", [])}
    known |= {rule["hf"] for rule in table("fields")["assumed"]}
    if not config.multimodal:
        known = {_text_path(path) for path in known}
    for path in config.values:
        if path not in known and not _says_nothing(path):
            problem = "no field of params.json is known for it"
            fix = "remove it if it says nothing of the model"
            raise MmfmtError(f"{CONFIG}: {config.place(path)}", problem, fix)


def _says_nothing(path: str) -> bool:
    # keys inside rope_parameters are checked with the rope
    in_rope = path.startswith(("text.rope_parameters.", "text.rope_scaling."))
    return in_rope or path.rpartition(".")[2] in table("fields")["hf_only"]["keys"]
