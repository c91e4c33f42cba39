"""4xx: ignore lists and targets, against the tensors and reader by reader."""

from collections.abc import Callable
from typing import Any

import torch

from tests.damage import Damage, Tensors, both, drop_field, edit_json, edit_tensors, set_field
from tests.defects.defect import Defect
from tests.repos import CONFIG, NATIVE, PARAMS

SECTIONS = {CONFIG: "quantization_config", PARAMS: "quantization"}
GROUPS = "quantization_config.config_groups"
BLOCKS = "quantization_config.block_name_to_quantize"
WV_NEW = "model.language_model.layers.0.self_attn.v_proj"
Q_VLLM = "language_model.model.layers.0.self_attn.q_proj"
QKV = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj"}
LEGACY = ["vision_tower", "multi_modal_projector"]


def unquantize(name: str, module: str) -> Damage:
    """Make a module unquantized."""

    def edit(tensors: Tensors) -> None:
        shape = tensors[f"{module}.weight_shape"].tolist()
        for suffix in ("weight_packed", "weight_scale", "weight_shape"):
            del tensors[f"{module}.{suffix}"]
        tensors[f"{module}.weight"] = torch.ones(shape, dtype=torch.bfloat16)

    return edit_tensors(name, edit)


def ignore_too(name: str, *entries: str) -> Damage:
    """Append to an ignore list."""
    return edit_json(name, lambda body: body[SECTIONS[name]]["ignore"].extend(entries))


def respelled(name: str, spell: Callable[[str], str]) -> Damage:
    """Write the entries of an ignore list in another way."""

    def edit(body: dict[str, Any]) -> None:
        section = body[SECTIONS[name]]
        section["ignore"] = list(dict.fromkeys(map(spell, section["ignore"])))

    return edit_json(name, edit)


def listed(*entries: str) -> Damage:
    """Another ignore list in config.json."""
    return set_field(CONFIG, "quantization_config.ignore", list(entries))


def unquantized_attention(entries: list[str]) -> Damage:
    """q, k and v of a layer unquantized, and said so in params.json by these entries."""
    damages = [unquantize(NATIVE, f"layers.0.attention.{w}") for w in QKV]
    return both(*damages, ignore_too(PARAMS, *entries))


def second_group(body: dict[str, Any]) -> None:
    """Another group with the target of the first."""
    groups = body["quantization_config"]["config_groups"]
    groups["group_1"] = groups["group_0"]


def targets(*names: str) -> Damage:
    """Other targets for the one group."""
    return set_field(CONFIG, f"{GROUPS}.group_0.targets", list(names))


DEFECTS: list[Defect] = [
    Defect(
        "MMF404",
        "legacy names",
        respelled(CONFIG, lambda e: e.removeprefix("model.")),
        seen="llm-compressor#3159, llm-compressor#1546",
    ),
    Defect("MMF404", "quantized but ignored", ignore_too(PARAMS, Q_VLLM), seen="vllm#31623"),
    Defect("MMF404", "too short", listed("lm_head"), seen="vllm#51910"),
    Defect(
        "MMF404",
        "prefixes",
        listed("model.vision_tower", "model.multi_modal_projector"),
        seen="vllm#54547",
    ),
    Defect(
        "MMF404",
        "another model's",
        listed("re:.*visual.*", "re:.*lm_head"),
        seen="llm-compressor#2641",
    ),
    Defect(
        "MMF404",
        "a suffix too many",
        respelled(CONFIG, lambda e: f"{e}.linear"),
        seen="sglang#33988",
    ),
    Defect(
        "MMF404",
        "anchored, for transformers",
        listed("re:model.vision_tower.*", "re:model.multi_modal_projector.*", "lm_head"),
    ),
    Defect(
        "MMF404",
        "anchored, for vLLM",
        listed("re:vision_tower.*", "re:multi_modal_projector.*", "re:.*lm_head"),
    ),
    Defect("MMF404", "class", ignore_too(CONFIG, "Linear")),
    Defect(
        "MMF404",
        "native names",
        unquantized_attention([f"layers.0.attention.{w}" for w in QKV]),
        "native",
        seen="vllm#24122",
    ),
    Defect(
        "MMF404",
        "names of text models",
        unquantized_attention([f"model.layers.0.self_attn.{w}" for w in QKV.values()]),
        "native",
    ),
    Defect(
        "MMF404",
        "names of FP8",
        set_field(CONFIG, "quantization_config.modules_to_not_convert", ["lm_head"]),
        "fp8",
    ),
    Defect(
        "MMF404",
        "names of AWQ",
        set_field(CONFIG, "quantization_config.modules_to_not_convert", ["lm_head", *LEGACY]),
        "awq",
    ),
    Defect(
        "MMF404",
        "patterns of ModelOpt",
        set_field(CONFIG, "quantization_config.ignore", ["lm_head"]),
        "hf-modelopt",
    ),
    Defect("MMF417", "two groups of all", edit_json(CONFIG, second_group), seen="auto-round#2174"),
    Defect("MMF418", "anchored", targets("re:model.*layers.*_proj"), "hf-w4a16"),
    Defect("MMF418", "legacy names", targets(r"re:language_model\..*_proj"), "hf-w4a16"),
    Defect(
        "MMF419",
        "experts",
        set_field(CONFIG, f"{GROUPS}.group_0.targets", ["re:.*self_attn.*", "re:.*experts.*"]),
        "two groups",
    ),
    Defect("MMF420", "prefix", ignore_too(CONFIG, "model.vision_tower")),
    Defect("MMF420", "class", ignore_too(CONFIG, "PixtralVisionModel")),
    Defect("MMF420", "native name", ignore_too(PARAMS, "layers.0.attention.wq")),
    Defect("MMF420", "twice", ignore_too(CONFIG, "lm_head"), seen="Ministral-3 duplicates"),
    Defect(
        "MMF420",
        "vision in a text model",
        ignore_too(CONFIG, "re:.*vision_tower.*"),
        "hf-text",
        seen="Devstral-2 vision",
    ),
    Defect(
        "MMF420",
        "another model's in FP8",
        edit_json(
            CONFIG,
            lambda b: b["quantization_config"]["modules_to_not_convert"].append("model.visual"),
        ),
        "fp8",
    ),
    Defect("MMF428", "no blocks", drop_field(CONFIG, BLOCKS), "auto-round"),
    Defect("MMF428", "native names", set_field(PARAMS, BLOCKS, ["layers"]), "auto-round"),
    Defect(
        "MMF428",
        "a module too many",
        set_field(CONFIG, f"{SECTIONS[CONFIG]}.extra_config", {WV_NEW: {"bits": 16}}),
        "auto-round",
    ),
]
