"""What hostile files are made of: values, texts, numbers and names that break naive code."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from mmfmt.schemas import json_schema, table

INTEGERS = (
    *(0, 1, -1, 2, 3, 5, 7, 16, 255, 256, 376, 10_000, 65_536, 1_000_000_000),
    *(2**31, 2**32, 2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**18, 10**38),
)
NUMBERS = (0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-320, 1e300, -1e300, 0.1, 1e16, 32.0, 2.0)
# regular expressions, in all the places where something takes one
PATTERNS = (
    *("re:", "re:.*", "re:(", "re:[", "re:*", "re:a{99999999999}", "re:(?P<a>", "re:\\", "re:\\8"),
    *("re:(a+)+$", "re:(.*)*x", "re:(.+)+\\d$", "re:([a-z.]+)*!", "re:(?:.|.)*?$^", "re:(.?){64}x"),
    *("re:" + "(" * 500, "re:" + "(" * 90 + ")" * 90, "re:(?:(?:a{0,999}){0,999}){0,999}b"),
    *("re:" + ".*" * 30 + "x", "re:(?<=.*)a", "re:(?i)LINEAR", "re:\\p{L}+", "re:(?R)", "re:(?1)"),
    *("re:" + "|".join("a" * n for n in range(60)), "re:.*self_attn.*", "re:^model", "re:$"),
)
TEXTS = (
    *("", " ", "\t", "\n", "a\nb", "\r", "\0", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x7f"),
    *("\x9b2J", "\u202eevil", "\u2028", "\ufeff", "\u200b", "\U0001f600", "é", "ß" * 50, "١٢", "²"),
    *("../../etc/passwd", "/etc/passwd", "a/b", "a\\b", ".", "..", "~", "con", "file\0.json"),
    *("%s%n%x", "{}", "{0}", "{layer}", "{0.__class__}", "__class__", "$ref", "#", "-", "'\"`"),
    *("0", "-1", "1e9", "1_000", "0x10", "nan", "Infinity", "None", "true", "null", "[]", "<a&b>"),
    *("x" * 300, "x" * 100_000, "layers." * 20_000, ".", "..", "." * 500, ".weight", "weight"),
    *("Linear", "model", "consolidated", "mistral3", "mistral4", "mixtral", "voxtral", "llava"),
    *("compressed-tensors", "fp8", "gptq", "awq", "auto-round", "modelopt", "bitsandbytes"),
    *("yarn", "default", "linear", "llama3", "dynamic", "BF16", "I32", "F8_E4M3", "F4", "BOOL"),
    *("pack-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized", "group"),
    *("::error::x", "##vso[task.x]", "]]>", "<script>", "|---|", "`", "\\", "[a](javascript:x)"),
)
# JSON text that no Python value gives, or that is no JSON
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0", "-0.0", "1E5", "1.0e0"),
    *("1" + "0" * 39, "1" + "0" * 50, "9" * 400, "9" * 5000, "-" + "9" * 5000, "0." + "1" * 5000),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\u001b[2J"'),
    *("[" * 60 + "]" * 60, "[" * 400 + "]" * 400, "[" * 940 + "]" * 940, "[" * 100_000),
    *('{"a":' * 60 + "1" + "}" * 60, '{"a":' * 900 + "1" + "}" * 900, '{"a":' * 100_000),
    *("[" + "0," * 5000 + "0]", "[" + "{}," * 5000 + "{}]", '["' + 'a","' * 5000 + '"]'),
    *("", "tru", "'a'", "01", "+1", ".5", "1.", "0x1", "/**/1", "1,", "{a:1}", "[1,]", "undefined"),
)
CONTAINERS: tuple[Any, ...] = (
    *([], {}, [[]], [{}], {"": None}, [None], [0], [1, 2], [-1], [""], [[1], [2]], {"a": {"b": 1}}),
    *([0] * 3000, ["x"] * 3000, [None] * 3000, {str(n): n for n in range(3000)}, [True, 0, "a"]),
)
CONSTANTS = (None, True, False)

_GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 16}}
_FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor"}
SECTIONS: tuple[dict[str, Any], ...] = (
    {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": [64, 128]},
    {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False, "dynamic": {}},
    {"quant_method": "awq", "bits": 4, "group_size": 16, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "auto-round", "bits": 4, "extra_config": {"lm_head": {"bits": 16}}},
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["a*"]},
    {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head*"]}},
    {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"},
    {
        **{"quant_method": "compressed-tensors", "format": "pack-quantized"},
        **{"config_groups": {"a": _GROUP, "b": _GROUP}, "ignore": ["re:.*lm_head"]},
        "kv_cache_scheme": _FP8,
    },
    {
        **{"quant_method": "compressed-tensors", "format": "float-quantized"},
        "config_groups": {"a": {"targets": ["re:.*q_proj"], "weights": _FP8}},
    },
)
FIELDS = {
    "rope_parameters": {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 64},
    "yarn": {"factor": 8, "original_max_position_embeddings": 64, "apply_scale": True},
    "llama_4_scaling": {"original_max_position_embeddings": 64, "beta": 0.1},
    "moe": {"num_experts": 4, "num_experts_per_tok": 2},
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": [None, 16],
    "mistral_extras": {"dim": 5, "a": {"b": None}},
}


@cache
def known_keys() -> tuple[str, ...]:
    """Every key that a schema or a table of fields knows."""
    folder = files("mmfmt.schemas")
    names = (path.name for path in folder.iterdir() if path.name.endswith(".schema.json"))
    schemas = [json_schema(name.removesuffix(".schema.json")) for name in names]
    paths = [
        path for row in table("fields")["field"] for path in (row["native"], *row.get("hf", ()))
    ]
    keys = {key for schema in schemas for key in _properties(schema)}
    return tuple(sorted(keys | {key for path in paths for key in path.split(".")} | FIELDS.keys()))


def _properties(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {key for inner in schema for key in _properties(inner)}
    if not isinstance(schema, dict):
        return set()
    own = schema.get("properties", {})
    return (set(own) if isinstance(own, dict) else set()) | _properties(list(schema.values()))


def text_of(body: Any) -> str:
    """Compact JSON."""
    return json.dumps(body, separators=(",", ":"))
