"""Quantization sections as the compressed-tensors at hand reads them.

Imports it in functions only: a process chooses its version first.
"""

import sys
from typing import Any

Json = dict[str, Any]

ARGS = ("weights", "input_activations", "output_activations")
MEANT = ("num_bits", "type", "strategy", "group_size", "symmetric", "dynamic", "block_structure")


def read_all(folder: str, sections: dict[str, Json]) -> tuple[str, dict[str, Json]]:
    """Version of the compressed-tensors in a folder, and what it makes of each section."""
    sys.path.insert(0, folder)
    import compressed_tensors

    return compressed_tensors.__version__, {n: read(body) for n, body in sections.items()}


def read(body: Json) -> Json:
    """What a section means, or the error that it raises."""
    try:
        return meaning(body)
    except (KeyError, ValueError, NotImplementedError) as error:
        return {"error": str(error)}


def meaning(body: Json) -> Json:
    """What a section says of modules, as transformers and vLLM have it parsed."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(body)
    for group in config.config_groups.values():
        # old versions take any string for a format, and look for its compressor while loading
        BaseCompressor.get_value_from_registry(_plain(group.format or config.format))
    return {
        "status": _plain(config.quantization_status),
        "ignore": config.ignore,
        "kv_cache": _args(config.kv_cache_scheme),
        "groups": {name: _group(group) for name, group in config.config_groups.items()},
    }


def _group(group: Any) -> Json:
    args = {key: _args(getattr(group, key)) for key in ARGS}
    return {**args, "targets": group.targets, "format": _plain(group.format)}


def _args(args: Any) -> Json | None:
    return args and {key: _plain(getattr(args, key)) for key in MEANT}


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
