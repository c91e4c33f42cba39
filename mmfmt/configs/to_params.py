"""config.json to params.json, by the field table; each step is a pure function of a dict."""

from collections.abc import Callable, Mapping
from typing import Any

from mmfmt.configs.fields import Field, by_kind, rows_of, text_path
from mmfmt.configs.hf import CONFIG, EXTRAS, HfConfig
from mmfmt.configs.rope import llama_4_scaling, yarn
from mmfmt.configs.tied import stated_tie
from mmfmt.configs.window import sliding_window
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.schemas import table


def to_params(config: HfConfig, has_output: bool) -> dict[str, Any]:
    """params.json without `quantization` and without the ids that only a tokenizer knows.

    `has_output` says whether the tensors include an output head: it decides about tied
    embeddings where the config is silent. Raises MmfmtError for a value that params.json
    cannot carry.
    """
    return nest(_with_extras(own_fields(config, has_output), config))


def own_fields(config: HfConfig, has_output: bool) -> dict[str, Any]:
    """The fields of params.json that config.json has a place for, by path; else as `to_params`."""
    _check_assumed(config)
    _check_vision_heads(config)
    _check_unknown(config)
    found = {row["native"]: _value(row, config, has_output) for row in rows_of(config.kinds)}
    return {path: value for path, value in flatten(found).items() if value is not None}


def stated_fields(config: HfConfig, has_output: bool) -> dict[str, Any]:
    """What config.json says, by path in params.json, whether or not params.json could say it all.

    Optional fields that have no image there are left out. Raises MmfmtError for a missing one.
    """
    found = flatten(config.body.get(EXTRAS) or {})
    for row in rows_of(config.kinds):
        try:
            found |= flatten({row["native"]: _value(row, config, has_output)})
        except MmfmtError:
            if not row.get("optional"):
                raise
    return {path: value for path, value in found.items() if value is not None}


def supplied_fields(config: HfConfig) -> dict[str, Any]:
    """What params.json gets, by path, where nothing says otherwise; config.json has no place."""
    return {row["native"]: row["supplied"] for row in rows_of(config.kinds) if "supplied" in row}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path as nested objects: the inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, key = path.split(".")
        holder = nested
        for section in sections:
            holder = holder.setdefault(section, {})
        holder[key] = value
    return nested


def _with_extras(fields: dict[str, Any], config: HfConfig) -> dict[str, Any]:
    """Fields and those that only `mistral_extras` has; it must not contradict the rest."""
    extras = flatten(config.body.get(EXTRAS) or {})
    for path, value in extras.items():
        related = {known: said for known, said in fields.items() if _related(known, path)}
        if related not in ({}, {path: value}):
            place, said = f"{CONFIG}: {EXTRAS}.{path}", next(iter(related.values()))
            raise MmfmtError(place, f"{value!r}, but the rest of the file says {said!r}")
    return {**fields, **supplied_fields(config), **extras}


def _related(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _value(row: Field, config: HfConfig, has_output: bool) -> Any:
    if "hf" not in row:
        return row.get("constant") if row.get("constant") != row.get("native_default") else None
    if row.get("computed") == "tied":
        return _tied(config, has_output)
    value = _stated(row, config)
    if "computed" in row:
        value = _COMPUTED[row["computed"]](config, value)
    if value is None and not row.get("optional"):
        raise MmfmtError(f"{CONFIG}: {config.place(row['hf'][0])}", "is missing")
    return value


def _stated(row: Field, config: HfConfig) -> Any:
    value = config.first(row["hf"])
    if value is None:
        value = config.first(row.get("fallback", []))
    if value is None and not any(map(config.states, row["hf"])):
        value = by_kind(row.get("defaults", {}), config.kinds)
    return value


def _quotient(config: HfConfig, section: str) -> int:
    hidden, heads = (config.get(f"{section}.{k}") for k in ("hidden_size", "num_attention_heads"))
    if not hidden or not heads or hidden % heads:
        place = f"{CONFIG}: {config.place(section + '.head_dim')}"
        raise MmfmtError(place, f"is missing, and {hidden} / {heads} heads is no head size")
    return int(hidden // heads)


def _head_dim(config: HfConfig, said: int | None) -> int:
    if config.text_type == "mistral4":  # whose class takes no other
        parts = ("text.qk_nope_head_dim", "text.qk_rope_head_dim")
        return sum(int(config.get(part, 0)) for part in parts)
    return said or _quotient(config, "text")


def _audio_head_dim(config: HfConfig, said: int | None) -> int:
    if config.model_type == "voxtral":
        return _same(config, "audio.head_dim", said, _quotient(config, "audio"))
    return said or _quotient(config, "audio")


def _audio_kv_heads(config: HfConfig, said: int | None) -> int:
    heads = config.get("audio.num_attention_heads", 0)
    return _same(config, "audio.num_key_value_heads", said, heads)


def _same(config: HfConfig, path: str, said: int | None, value: int) -> int:
    if said not in (None, value):
        place = f"{CONFIG}: {config.place(path)}"
        raise MmfmtError(place, f"{said} cannot be carried: transformers takes {value}")
    return value


def _downsample_factor(config: HfConfig, wide: int | None) -> int:
    # the projector of Voxtral takes rows of intermediate_size, whole frames of hidden_size
    hidden = config.get("audio.hidden_size")
    if not wide or not hidden or wide % hidden:
        place = f"{CONFIG}: {config.place('audio.intermediate_size')}"
        raise MmfmtError(place, f"{wide} is no multiple of hidden_size, {hidden}")
    return int(wide // hidden)


_COMPUTED: Mapping[str, Callable[[HfConfig, Any], Any]] = {
    "head_dim": _head_dim,
    "window": sliding_window,
    "yarn": lambda config, _: yarn(config),
    "llama_4_scaling": llama_4_scaling,
    "audio_head_dim": _audio_head_dim,
    "audio_kv_heads": _audio_kv_heads,
    "downsample_factor": _downsample_factor,
}


def _tied(config: HfConfig, has_output: bool) -> bool:
    said = stated_tie(config)
    return not has_output if said is None else said


def _check_assumed(config: HfConfig) -> None:
    for rule in rows_of(config.kinds, "assumed"):
        value = config.get(rule["hf"], rule.get("absent"))
        if value not in rule["values"]:
            place = f"{CONFIG}: {config.place(rule['hf'])}"
            wanted = " or ".join(map(repr, rule["values"]))
            problem = f"{value!r} cannot be carried: readers of params.json assume {wanted}"
            raise MmfmtError(place, problem)


def _check_vision_heads(config: HfConfig) -> None:
    said = config.get("vision.head_dim")
    if "vision_config" in config.body and said not in (None, _quotient(config, "vision")):
        place = f"{CONFIG}: {config.place('vision.head_dim')}"
        problem = f"{said} cannot be carried: native readers take hidden_size / heads"
        raise MmfmtError(place, f"{problem} = {_quotient(config, 'vision')}")


def _check_unknown(config: HfConfig) -> None:
    known = set(table("fields")["hf_only"]["paths"])
    for row in rows_of(config.kinds):
        known |= {*row.get("hf", ()), *row.get("fallback", ()), *row.get("reads", ())}
    known |= {rule["hf"] for rule in rows_of(config.kinds, "assumed")}
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
