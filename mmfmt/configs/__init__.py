"""config.json and params.json: one model, two files, and the way from each to the other."""

from mmfmt.configs.hf import CONFIG, MULTIMODAL, PARAMS, HfConfig, open_config, supported
from mmfmt.configs.known import known_model
from mmfmt.configs.rope import attention_factor, mscales
from mmfmt.configs.tied import effective_tie, stated_tie
from mmfmt.configs.to_config import ARCHITECTURES, to_config
from mmfmt.configs.to_params import stated_fields, to_params

__all__ = [
    "ARCHITECTURES",
    "CONFIG",
    "MULTIMODAL",
    "PARAMS",
    "HfConfig",
    "attention_factor",
    "effective_tie",
    "known_model",
    "mscales",
    "open_config",
    "stated_fields",
    "stated_tie",
    "supported",
    "to_config",
    "to_params",
]
