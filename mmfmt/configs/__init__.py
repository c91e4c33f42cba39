"""config.json and params.json: one model, two files, and the way from each to the other."""

from mmfmt.configs.hf import CONFIG, MULTIMODAL, PARAMS, HfConfig, open_config
from mmfmt.configs.rope import attention_factor
from mmfmt.configs.to_config import to_config
from mmfmt.configs.to_params import stated_fields, to_params

__all__ = [
    "CONFIG",
    "MULTIMODAL",
    "PARAMS",
    "HfConfig",
    "attention_factor",
    "open_config",
    "stated_fields",
    "to_config",
    "to_params",
]
