"""Let vLLM's own adapter read params.json files; write down the model that it sees.

Run by the vLLM environment's own python, from the folder above this one:
python -m engine.adapt PARAMS.json ... > models.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from vllm.transformers_utils.configs.mistral import adapt_config_dict

TEXT = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "vocab_size", "rms_norm_eps", "max_position_embeddings"),
    *("tie_word_embeddings", "sliding_window", "q_lora_rank", "kv_lora_rank"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts"),
    *("num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "rope_theta"),
    *("first_k_dense_replace", "rope_parameters", "llama_4_scaling"),
)
VISION = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("image_size", "patch_size", "spatial_merge_size", "image_token_id", "adapter_bias"),
)
AUDIO = ("d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "num_mel_bins")


def seen(path: str) -> dict[str, Any]:
    """The config that the engine builds from one file."""
    config = adapt_config_dict(json.loads(Path(path).read_text()), defaults={})
    text = getattr(config, "text_config", config)
    parts: dict[str, tuple[Any, tuple[str, ...]]] = {"text": (text, TEXT)}
    for name, fields in (("vision_config", VISION), ("audio_config", AUDIO)):
        if hasattr(config, name):
            parts[name.partition("_")[0]] = (getattr(config, name), fields)
    found = {
        part: {field: getattr(body, field) for field in fields if hasattr(body, field)}
        for part, (body, fields) in parts.items()
    }
    return {"architectures": config.architectures, **found}


if __name__ == "__main__":
    print(json.dumps([seen(path) for path in sys.argv[1:]], default=str))
