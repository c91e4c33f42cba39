"""params.json of tiny models, one of each family that Mistral publishes."""

from typing import Any

Json = dict[str, Any]

TEXT: Json = {
    "dim": 64,
    "n_layers": 4,
    "head_dim": 8,
    "hidden_dim": 96,
    "n_heads": 4,
    "n_kv_heads": 2,
    "rope_theta": 1000000.0,
    "norm_eps": 1e-05,
    "vocab_size": 128,
    "tied_embeddings": False,
    "max_position_embeddings": 512,
}
YARN: Json = {
    "original_max_position_embeddings": 64,
    "factor": 8,
    "apply_scale": True,
    "beta": 4,
    "alpha": 1,
}
QUERY_SCALING: Json = {"original_max_position_embeddings": 64, "beta": 0.1}
LATENT: Json = {
    "n_kv_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "head_dim": 12,
    "moe": {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "expert_hidden_dim": 40,
        "first_k_dense_replace": 1,
        "num_shared_experts": 2,
        "routed_scale": 1.5,
        "num_expert_groups": 1,
        "num_expert_groups_per_tok": 1,
        "route_every_n": 1,
    },
}
PIXTRAL: Json = {
    "image_token_id": 10,
    "image_break_token_id": 12,
    "image_end_token_id": 13,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 32,
    "num_channels": 3,
    "image_size": 56,
    "max_image_size": 56,
    "patch_size": 14,
    "rope_theta": 10000.0,
    "adapter_bias": True,
}
MERGER: Json = {
    "mm_projector_id": "patch_merge",
    "spatial_merge_size": 2,
    "add_pre_mm_projector_layer_norm": True,
    "adapter_bias": False,
}
FRAMES: Json = {"sampling_rate": 16000, "num_mel_bins": 16, "hop_length": 160, "window_size": 400}
WHISPER: Json = {
    "encoder_args": {
        "audio_encoding_args": FRAMES,
        "dim": 32,
        "n_layers": 2,
        "head_dim": 8,
        "hidden_dim": 128,
        "n_heads": 4,
        "vocab_size": 51866,
        "max_source_positions": 20,
    },
    "downsample_args": {"downsample_factor": 4},
}
STREAMED: Json = {
    "encoder_args": {
        "audio_encoding_args": {
            **FRAMES,
            "frame_rate": 12.5,
            "global_log_mel_max": 1.5,
            "transcription_format": "streaming",
        },
        "dim": 32,
        "n_layers": 2,
        "head_dim": 16,
        "hidden_dim": 80,
        "n_heads": 4,
        "n_kv_heads": 4,
        "vocab_size": 128,
        "use_biases": True,
        "rope_theta": 100000.0,
        "causal": True,
        "norm_eps": 1e-06,
        "pos_embed": "rope",
        "ffn_type": "swiglu",
        "norm_type": "rms_norm",
        "sliding_window": 12,
    },
    "downsample_args": {"downsample_factor": 2},
}

MERGED: Json = {**PIXTRAL, **MERGER}
LATENT_TEXT: Json = {**TEXT, **LATENT, "yarn": YARN, "llama_4_scaling": QUERY_SCALING}
FAMILIES: dict[str, Json] = {
    "mistral": TEXT,
    "mistral, sliding": {**TEXT, "sliding_window": 16},
    "mistral, sliding layers": {**TEXT, "sliding_window": [None, 16]},
    "mistral, tied": {**TEXT, "tied_embeddings": True},
    "ministral3": {**TEXT, "yarn": YARN},
    "ministral3, scaled": {**TEXT, "yarn": YARN, "llama_4_scaling": QUERY_SCALING},
    "ministral3, no yarn": {**TEXT, "llama_4_scaling": QUERY_SCALING},
    "mixtral": {**TEXT, "moe": {"num_experts": 4, "num_experts_per_tok": 2}},
    "mistral4": LATENT_TEXT,
    "mistral4, unscaled": {**LATENT_TEXT, "yarn": {**YARN, "apply_scale": False}},
    "llava": {**TEXT, "vision_encoder": PIXTRAL},
    "mistral3": {**TEXT, "vision_encoder": MERGED},
    "mistral3, tied": {**TEXT, "yarn": YARN, "tied_embeddings": True, "vision_encoder": MERGED},
    "mistral3, latent": {**LATENT_TEXT, "vision_encoder": MERGED},
    "voxtral": {**TEXT, "multimodal": {"whisper_model_args": WHISPER}},
    "voxtral_realtime": {
        **TEXT,
        "sliding_window": 24,
        "causal": True,
        "ada_rms_norm_t_cond": True,
        "ada_rms_norm_t_cond_dim": 32,
        "multimodal": {"whisper_model_args": STREAMED},
    },
}
