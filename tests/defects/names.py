"""3xx: names and shapes."""

import torch

from tests.damage import Tensors, drop, drop_field, edit_tensors, put, set_field
from tests.defects.defect import Defect
from tests.repos import CONFIG, HF, NATIVE, PARAMS

TEXT, WQ = "language_model.model", "layers.0.attention.wq.weight"


def nest(tensors: Tensors) -> None:
    """Wrap the language model once too often."""
    for name in [name for name in tensors if name.startswith(TEXT)]:
        tensors[f"language_model.{name}"] = tensors.pop(name)


def new_vision(tensors: Tensors) -> None:
    """Give the tower of a legacy set the names of another generation."""
    for name in [name for name in tensors if name.startswith("vision_tower")]:
        tensors[f"model.{name}"] = tensors.pop(name)


def native_norms(tensors: Tensors) -> None:
    """Leave two tensors under the names of the other layout."""
    tensors["norm.weight"] = tensors.pop(f"{TEXT}.norm.weight")
    norm = tensors.pop(f"{TEXT}.layers.0.input_layernorm.weight")
    tensors["layers.0.attention_norm.weight"] = norm


def copied(tensors: Tensors) -> None:
    """Leave a copy under the name of another generation."""
    tensors["model.language_model.norm.weight"] = tensors[f"{TEXT}.norm.weight"].clone()


def two_routers(tensors: Tensors) -> None:
    """Leave a router under the name of transformers' modules beside the one on disk."""
    name = "model.layers.0.block_sparse_moe.gate.weight"
    tensors[name.replace("block_sparse_moe", "mlp")] = tensors[name].clone()


NORM = torch.ones(256, dtype=torch.bfloat16)
SCALE = torch.ones(1, dtype=torch.bfloat16)
VOCABULARY = "text_config.vocab_size"

DEFECTS: list[Defect] = [
    Defect(
        "MMF301",
        "unknown name",
        put(NATIVE, "layers.0.attention.wx.weight", torch.ones(1)),
        seen="vllm#20035",
    ),
    Defect(
        "MMF301",
        "unknown vision name",
        put(HF, "vision_tower.merger.weight", torch.ones(1)),
        seen="auto-round#1377",
    ),
    Defect("MMF301", "adapter left over", put(HF, f"{TEXT}.layers.0.lora_A.weight", NORM)),
    Defect("MMF302", "no norm", drop(NATIVE, "layers.3.ffn_norm.weight")),
    Defect("MMF302", "no vision norm", drop(NATIVE, "vision_encoder.ln_pre.weight")),
    Defect("MMF302", "no vision norm in HF", drop(HF, "vision_tower.ln_pre.weight")),
    Defect("MMF302", "a layer too many", put(NATIVE, "layers.4.ffn_norm.weight", torch.ones(256))),
    Defect("MMF302", "a layer more in params.json", set_field(PARAMS, "n_layers", 5)),
    Defect("MMF302", "no vision encoder", drop_field(PARAMS, "vision_encoder"), repo="native"),
    Defect(
        *("MMF302", "no norm in params.json"),
        drop_field(PARAMS, "vision_encoder.add_pre_mm_projector_layer_norm"),
    ),
    Defect(
        "MMF302",
        "ten million experts",
        set_field(CONFIG, "num_local_experts", 10**7),
        repo="mixtral",
    ),
    Defect(
        "MMF303", "short norm", put(NATIVE, "norm.weight", torch.ones(255, dtype=torch.bfloat16))
    ),
    Defect("MMF303", "F64 norm", put(NATIVE, "norm.weight", torch.ones(256).double())),
    Defect("MMF303", "numbers", put(NATIVE, WQ, torch.ones(512, 256).short()), repo="bf16"),
    Defect("MMF303", "vocabulary in params.json", set_field(PARAMS, "vocab_size", 2049)),
    Defect("MMF303", "vocabulary in config.json", set_field(CONFIG, VOCABULARY, 2047)),
    Defect("MMF303", "merge size in config.json", set_field(CONFIG, "spatial_merge_size", 3)),
    Defect("MMF303", "width in params.json", set_field(PARAMS, "dim", 320), repo="bf16"),
    Defect("MMF303", "bias", put(NATIVE, "vision_language_adapter.w_in.bias", torch.ones(256))),
    Defect("MMF304", "nested", edit_tensors(HF, nest), repo="hf-bf16", seen="llm-compressor#2568"),
    Defect(
        "MMF304",
        "two generations",
        edit_tensors(HF, new_vision),
        repo="hf-bf16",
        seen="llm-compressor#1546",
    ),
    Defect("MMF304", "native names", edit_tensors(HF, native_norms), repo="hf-bf16"),
    Defect("MMF304", "a copy", edit_tensors(HF, copied)),
    Defect(
        "MMF305",
        "two routers",
        edit_tensors(HF, two_routers),
        repo="mixtral",
    ),
    Defect(
        "MMF306",
        "fake quantizer",
        put(NATIVE, "layers.0.attention.kv_fake_quantizer.qscale_act", SCALE),
    ),
    Defect(
        "MMF306", "frequencies", put(HF, f"{TEXT}.layers.0.self_attn.rotary_emb.inv_freq", NORM)
    ),
]
