"""5xx: config.json against params.json."""

from pathlib import Path

import torch

from tests.damage import Damage, both, drop, drop_field, put, set_field
from tests.defects.defect import Defect
from tests.repos import CONFIG, HF, NATIVE, PARAMS

ACTIVATIONS = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
GROUP = "quantization.config_groups.group_0"


def cut_params(repo: Path) -> None:
    """Leave params.json half written."""
    (repo / PARAMS).write_text("{")


TEXT = "language_model.model"
ROPE = "text_config.rope_parameters"
TIE, TEXT_TIE = "tie_word_embeddings", "text_config.tie_word_embeddings"
HEAD = "language_model.lm_head.weight"


def without_head(repo: Path) -> None:
    """Take the head away, and say so in text_config only."""
    drop(HF, HEAD)(repo)
    set_field(CONFIG, TEXT_TIE, True)(repo)
    drop_field(CONFIG, TIE)(repo)


def layer_types(count: int, window: int | None) -> Damage:
    """Give every layer a kind, and all of them a window."""
    kinds = set_field(CONFIG, "text_config.layer_types", ["sliding_attention"] * count)
    return both(kinds, set_field(CONFIG, "text_config.sliding_window", window))


F32_NORM = put(HF, f"{TEXT}.norm.weight", torch.ones(256))

DEFECTS: list[Defect] = [
    Defect("MMF501", "text for number", set_field(PARAMS, "n_layers", "4")),
    Defect("MMF501", "zero", set_field(CONFIG, "text_config.hidden_size", 0)),
    Defect("MMF501", "not JSON", cut_params),
    Defect("MMF501", "missing", drop_field(CONFIG, "text_config.rms_norm_eps")),
    Defect("MMF501", "contradiction", set_field(CONFIG, "text_config.rope_theta", 5.0)),
    Defect("MMF501", "another model", set_field(CONFIG, "model_type", "qwen3")),
    Defect("MMF501", "another text model", set_field(CONFIG, "text_config.model_type", "qwen3")),
    Defect("MMF501", "numeric window", set_field(PARAMS, "sliding_window", "4096")),
    Defect("MMF501", "no model_type", drop_field(CONFIG, "model_type"), repo="hf-w4a16"),
    Defect(
        "MMF501",
        "no head size",
        both(
            drop_field(CONFIG, "text_config.head_dim"),
            set_field(CONFIG, "text_config.num_attention_heads", 7),
        ),
        repo="hf-bf16",
    ),
    Defect("MMF502", "theta", set_field(PARAMS, "rope_theta", 1e6)),
    Defect("MMF502", "vision theta", set_field(PARAMS, "vision_encoder.rope_theta", 2e4)),
    Defect("MMF502", "no merge size", drop_field(PARAMS, "vision_encoder.adapter_bias")),
    Defect("MMF502", "gelu", set_field(CONFIG, "vision_config.hidden_act", "gelu")),
    Defect("MMF503", "activations", set_field(PARAMS, f"{GROUP}.input_activations", ACTIVATIONS)),
    Defect("MMF504", "apply_scale", set_field(PARAMS, "yarn.apply_scale", False)),
    Defect(
        "MMF504",
        "mscale_all_dim",
        set_field(CONFIG, f"{ROPE}.mscale_all_dim", 1.0),
        seen="ollama#15975, Medium-3.5 c4be1980",
    ),
    Defect("MMF505", "no head", without_head, repo="hf-bf16", seen="transformers#43429"),
    Defect("MMF505", "untied without a head", drop(HF, HEAD), repo="hf-bf16"),
    Defect("MMF505", "untied without a head, native", drop(NATIVE, "output.weight")),
    Defect("MMF505", "tied with a head", set_field(PARAMS, "tied_embeddings", True)),
    Defect("MMF505", "tied at the top only", set_field(CONFIG, TIE, True), repo="hf-bf16"),
    Defect(
        "MMF505",
        "tied with a head in HF",
        both(set_field(CONFIG, TIE, True), set_field(CONFIG, TEXT_TIE, True)),
        repo="hf-bf16",
    ),
    Defect("MMF506", "silent", drop_field(CONFIG, TIE), repo="hf-bf16", seen="Small-3.1 lm_head"),
    Defect("MMF506", "two answers", set_field(CONFIG, TEXT_TIE, True), repo="hf-bf16"),
    Defect("MMF507", "native only", set_field(PARAMS, "sliding_window", 64)),
    Defect("MMF507", "HF only", set_field(CONFIG, "text_config.sliding_window", 64)),
    Defect("MMF507", "pattern", set_field(PARAMS, "sliding_window", [64, 64, 64])),
    Defect("MMF507", "kinds of three layers", layer_types(3, 64), repo="hf-bf16"),
    Defect("MMF507", "no size", layer_types(4, None), repo="hf-bf16"),
    Defect(
        "MMF508",
        "no head_dim",
        drop_field(CONFIG, "text_config.head_dim"),
        seen="llm-compressor#1127",
    ),
    Defect("MMF508", "no head_dim, BF16", drop_field(CONFIG, "text_config.head_dim"), "hf-bf16"),
    Defect(
        "MMF509",
        "gelu",
        set_field(CONFIG, "vision_config.hidden_act", "gelu"),
        repo="hf-bf16",
        seen="vllm#15212",
    ),
    Defect(
        "MMF509",
        "no activation",
        drop_field(CONFIG, "vision_config.hidden_act"),
        repo="hf-w4a16",
    ),
    Defect("MMF509", "no window", drop_field(CONFIG, "sliding_window"), repo="mistral"),
    Defect("MMF513", "none", drop_field(CONFIG, "architectures")),
    Defect("MMF513", "a part", set_field(CONFIG, "architectures", ["MistralForCausalLM"])),
    Defect(
        "MMF510",
        "F32 norm",
        both(drop_field(PARAMS, "dtype"), put(NATIVE, "norm.weight", torch.ones(256))),
    ),
    Defect(
        "MMF510",
        "F32 norm in HF",
        both(
            F32_NORM,
            drop_field(CONFIG, "dtype"),
        ),
        repo="hf-bf16",
    ),
    Defect(
        "MMF511",
        "beta alone",
        set_field(CONFIG, f"{ROPE}.llama_4_scaling_beta", 0.1),
        repo="hf-bf16",
        seen="vllm#48621",
    ),
    Defect(
        "MMF512",
        "mlp_bias",
        set_field(CONFIG, "text_config.mlp_bias", False),
        seen="Small-4 mlp_bias",
    ),
]
