"""4xx: quantization sections, whatever the tensors are."""

from typing import Any

from tests.damage import Damage, drop_field, edit_json, set_field, write
from tests.defects.defect import Defect
from tests.repos import CONFIG, PARAMS

SECTION = "quantization_config"
GROUP = f"{SECTION}.config_groups.group_0"
WEIGHTS = f"{GROUP}.weights"
NATIVE_WEIGHTS = "quantization.config_groups.group_0.weights"
SLOW = r"re:(.*)(.*)(.*)(.*)(.*)\1\2\3\4[A-Z]"
MODELOPT = "hf_quant_config.json"
AUTOROUND = "quantization_config.json"


def move(name: str, old: str, new: str) -> Damage:
    """Put a section under another key."""
    return edit_json(name, lambda body: body.update({new: body.pop(old)}))


def old_config(body: dict[str, Any]) -> None:
    """A config.json of transformers 4."""
    body["transformers_version"] = "4.57.1"


def invalid(what: str, key: str, value: object, seen: str = "") -> Defect:
    """A value that no reader understands."""
    return Defect("MMF409", what, set_field(CONFIG, key, value), "hf-w4a16", seen=seen)


DEFECTS: list[Defect] = [
    invalid("method", f"{SECTION}.quant_method", "hqq"),
    invalid("bitsandbytes", f"{SECTION}.quant_method", "bitsandbytes", "vllm#20035"),
    Defect("MMF409", "ModelOpt's file is none", write(MODELOPT, "{"), "hf-modelopt"),
    Defect(
        "MMF409", "no method", drop_field(PARAMS, "quantization.quant_method"), seen="vllm#34028"
    ),
    Defect(
        "MMF409", "other FP8", set_field(PARAMS, "quantization.qformat_weight", "fp8_e5m2"), "fp8"
    ),
    invalid("format", f"{GROUP}.format", "marlin-24"),
    invalid("strategy", f"{WEIGHTS}.strategy", "column"),
    invalid("channels in groups", f"{WEIGHTS}.strategy", "channel"),
    invalid("no group size", f"{WEIGHTS}.group_size", None),
    invalid("bits as text", f"{WEIGHTS}.num_bits", "4"),
    invalid("type", f"{WEIGHTS}.type", "uint"),
    invalid("dynamic", f"{WEIGHTS}.dynamic", "global"),
    invalid("dynamic weights", f"{WEIGHTS}.dynamic", True),
    invalid("preset", f"{SECTION}.config_groups", {"W4A16": ["Linear"]}),
    invalid("list for groups", f"{SECTION}.config_groups", ["W4A16"]),
    invalid("expression", f"{SECTION}.ignore", ["re:(vision"]),
    invalid("expression in targets", f"{GROUP}.targets", ["re:*proj"]),
    invalid("slow expression", f"{SECTION}.ignore", [SLOW]),
    invalid("sparsity", f"{SECTION}.sparsity_config", {"format": "sparse-24-bitmask"}),
    Defect(
        "MMF410",
        "underscore",
        set_field(PARAMS, "quantization.quant_method", "compressed_tensors"),
        seen="vllm#34028",
    ),
    Defect(
        "MMF410", "capitals", set_field(CONFIG, f"{SECTION}.quant_method", "Compressed-Tensors")
    ),
    Defect(
        "MMF411",
        "AWQ in params.json",
        move(PARAMS, SECTION, "quantization"),
        "awq",
        seen="vllm#34028",
    ),
    Defect("MMF411", "key of params.json", move(CONFIG, SECTION, "quantization"), "hf-w4a16"),
    Defect("MMF412", "no status", drop_field(CONFIG, f"{SECTION}.quantization_status")),
    Defect("MMF412", "frozen", set_field(CONFIG, f"{SECTION}.quantization_status", "frozen")),
    Defect("MMF413", "format at the top", set_field(CONFIG, f"{SECTION}.format", "int-quantized")),
    Defect("MMF414", "in arguments", set_field(PARAMS, f"{NATIVE_WEIGHTS}.is_mse", False)),
    Defect("MMF414", "in a group", set_field(CONFIG, f"{GROUP}.weight", None)),
    Defect(
        "MMF415",
        "nulls",
        set_field(PARAMS, f"{NATIVE_WEIGHTS}.scale_dtype", None),
        seen="llm-compressor#2057",
    ),
    Defect("MMF415", "nulls of transformers 4", edit_json(CONFIG, old_config), "hf-w4a16"),
    Defect(
        "MMF415",
        "order",
        set_field(PARAMS, f"{NATIVE_WEIGHTS}.actorder", "static"),
        "int8",
        seen="llm-compressor#2805",
    ),
    Defect("MMF416", "group", set_field(CONFIG, f"{WEIGHTS}.actorder", "group"), seen="vllm#48148"),
    Defect("MMF416", "true", set_field(PARAMS, f"{NATIVE_WEIGHTS}.actorder", True)),
    Defect(
        "MMF427",
        "stale",
        set_field(AUTOROUND, "config_groups.group_0.weights.group_size", 64),
        "hf-w4a16",
    ),
    Defect("MMF427", "no JSON", write(AUTOROUND, "{"), "hf-w4a16"),
    Defect("MMF427", "FP8", set_field(MODELOPT, "quantization.quant_algo", "FP8"), "hf-modelopt"),
    Defect(
        "MMF427", "unknown", set_field(MODELOPT, "quantization.quant_algo", "X"), repo="hf-modelopt"
    ),
]
