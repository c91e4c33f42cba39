"""How vLLM's own quantization configs take lists of modules.

Run by the vLLM environment's own python, from the folder above this one:
python -m engine.match CASES
The file maps names of cases to {method, model, entries, names}; prints, for each, the module
names that vLLM leaves unquantized.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsConfig,
)
from vllm.model_executor.layers.quantization.compressed_tensors.utils import should_ignore_layer
from vllm.model_executor.layers.quantization.fp8 import Fp8Config
from vllm.model_executor.layers.quantization.modelopt import ModelOptNvFp4Config
from vllm.model_executor.layers.quantization.utils.quant_utils import is_layer_skipped
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.mistral3 import Mistral3ForConditionalGeneration
from vllm.model_executor.models.pixtral import PixtralForConditionalGeneration

MODELS = {
    "text": MistralForCausalLM,
    "vllm-hf": Mistral3ForConditionalGeneration,
    "vllm-native": PixtralForConditionalGeneration,
}


def left(case: dict[str, Any]) -> list[str]:
    """The names that stay unquantized."""
    method, entries = case["method"], list(case["entries"])
    mapper = getattr(MODELS[case["model"]], "hf_to_vllm_mapper", None)
    config = make(method, entries)
    if mapper is not None:
        config.apply_vllm_mapper(mapper.get_rename_mapper())
    return [name for name in case["names"] if ignored(method, config, name)]


def make(method: str, entries: list[str]) -> Any:
    """vLLM's config object of a method, with a list."""
    if method == "compressed-tensors":
        found = {"config_groups": {}, "format": "pack-quantized"}
        return CompressedTensorsConfig.from_config({**found, "ignore": entries})
    if method == "fp8":
        return Fp8Config(True, "static", entries)
    if method == "awq":
        return AutoAWQConfig(4, 32, True, False, entries)
    scheme = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    return ModelOptNvFp4Config.from_config({**scheme, "ignore": entries})


def ignored(method: str, config: Any, name: str) -> bool:
    """Whether a config leaves a module unquantized."""
    if method == "compressed-tensors":
        return bool(should_ignore_layer(name, config.ignore))
    if method == "fp8":
        return bool(is_layer_skipped(name, config.ignored_layers))
    if method == "awq":
        listed = config.modules_to_not_convert
        return bool(is_layer_skipped(name, listed, match_mode="substring"))
    # get_quant_method leaves out the towers of old exports, whatever the list
    return config.is_layer_excluded(name) or "vision_tower" in name or "vision_model" in name


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({name: left(case) for name, case in cases.items()}))
