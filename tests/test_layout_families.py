"""Every family but the dense ones: transformers' classes, saved files, published inventories."""

import gzip
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mmfmt.checkpoint import Checkpoint, open_checkpoint
from mmfmt.configs import open_config, to_params
from mmfmt.extras import extra
from mmfmt.layout import Row, Slots, families, family, flatten
from mmfmt.naming import Naming, detect_hf, detect_native, native
from mmfmt.repo import WeightSet
from mmfmt.stacks import match_stack, views
from mmfmt.storage import Folder
from tests import builders
from tests.modules import instances, parameters, required

# --- transformers' classes ---

SIZES = {
    "mixtral": builders.Geometry(4096, 32, 8, 128, 14336, 2, 32000),
    "mistral4": builders.Geometry(4096, 32, 32, 128, 12288, 2, 131072),
    "mistral3 with mistral4": builders.Geometry(
        4096, 32, 32, 128, 12288, 2, 131072, vision_hidden=1664, vision_heads=16
    ),
    "voxtral": builders.Geometry(3072, 32, 8, 128, 8192, 2, 131072),
    "voxtral_realtime": builders.Geometry(3072, 32, 8, 128, 9216, 2, 131072),
}
TIED = ("voxtral_realtime",)


def symbols_of(body: dict[str, Any], tied: bool = False) -> dict[str, Any]:
    """Sizes by params.json field, from a config.json."""
    return flatten(to_params(open_config(body), has_output=not tied))


@pytest.mark.parametrize("kind", builders.OTHER_KINDS)
def test_state_dicts_of_transformers(kind: str) -> None:
    """Every parameter in memory is one row's (or a stack's), of the shape the table gives."""
    config = builders.model_config(kind, SIZES[kind])
    with torch.device("meta"):
        state = builders.build_model(config).state_dict()
    symbols = symbols_of(json.loads(config.to_json_string()), kind in TIED)
    naming = detect_hf(state)
    found: dict[tuple[str, Slots, str], tuple[int, ...]] = {}
    for name, tensor in state.items():
        if name != "lm_head.weight" or kind not in TIED:
            found |= dict(_parts(naming, name, tuple(tensor.shape)))
    expected = {
        (row.native, slots, suffix): shape
        for row, slots, _ in required(naming, symbols)
        for suffix, shape in row.parameters(symbols).items()
    }
    assert found == expected


def _parts(
    naming: Naming, name: str, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[str, Slots, str], tuple[int, ...]]]:
    """A tensor as (row, slots, suffix) and shape; a stack as its parts."""
    if match := naming.match(name):
        yield (match.row.native, match.slots, match.suffix), shape
        return
    stack = match_stack(naming, name)
    assert stack, name
    for part, entry in views(builders.entry("BF16", shape), stack):
        yield (part.row.native, part.slots, part.suffix), entry.shape


def opened(folder: Path, stem: str = "model") -> Checkpoint:
    """A weight set on disk, matched."""
    return open_checkpoint(WeightSet(Folder(folder), stem))


def present(checkpoint: Checkpoint) -> dict[tuple[Row, Slots], dict[str, tuple[int, ...]]]:
    """Shapes of a checkpoint's parameters, module by module."""
    return {
        key: {suffix: p.entry.shape for suffix, p in module.parameters.items()}
        for key, module in checkpoint.modules.items()
    }


@pytest.mark.parametrize("kind", (*builders.KINDS, *builders.OTHER_KINDS))
def test_files_saved_by_transformers(tmp_path: Path, kind: str) -> None:
    """All names on disk are known, and they are all that the params ask for."""
    checkpoint = opened(builders.save_model(tmp_path, kind))
    symbols = symbols_of(builders.read_json(tmp_path / "config.json"), kind in TIED)
    assert checkpoint.unknown == []
    assert checkpoint.extras == []
    assert checkpoint.naming.family.fits(symbols)
    assert present(checkpoint) == {
        (row, slots): row.parameters(symbols)
        for row, slots, _ in required(checkpoint.naming, symbols)
    }


# --- Mistral Large 4 ---

# every kind of layer: dense, sparse; with and without keys, indexer, rotary positions
LARGE_4 = {
    **{"model_type": "mistral_large4_text", "vocab_size": 64, "hidden_size": 64},
    **{"intermediate_size": 96, "moe_intermediate_size": 40, "num_hidden_layers": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 3},
    **{"num_experts_per_tok": 2, "kv_lora_rank": 16, "qk_rope_head_dim": 4},
    **{"qk_nope_head_dim": 12, "v_head_dim": 8, "index_n_heads": 2, "index_head_dim": 10},
    **{"index_topk": 4, "first_k_dense_replace": 1, "max_position_embeddings": 512},
    "kv_source_layers": [0, 1, 2, 2, 4, 4, 6, 7],
    "indexer_types": ["full", "full", "full", "shared", "full", "shared", "full", "full"],
}


def large_4_symbols(config: Any) -> dict[str, Any]:
    """The sizes that the tables ask for."""
    text, vision = config.text_config, config.vision_config
    params = {
        **{"dim": text.hidden_size, "hidden_dim": text.intermediate_size},
        **{"n_layers": text.num_hidden_layers, "n_heads": text.num_attention_heads},
        "moe": {
            **{"num_experts": text.n_routed_experts, "num_shared_experts": 1},
            "expert_hidden_dim": text.moe_intermediate_size,
            "first_k_dense_replace": text.first_k_dense_replace,
        },
        "vision_encoder": {
            **{
                **json.loads(vision.to_json_string()),
                "spatial_merge_size": config.spatial_merge_size,
            },
            **{"mm_projector_id": "patch_merge", "add_pre_mm_projector_layer_norm": True},
        },
    }
    return {**json.loads(text.to_json_string()), **flatten(params)}


def test_mistral_large_4(tmp_path: Path) -> None:
    """What transformers saves are the native names, of known shapes."""
    config = transformers.MistralLarge4Config(
        text_config=LARGE_4, vision_config=builders.TINY.vision()
    )
    transformers.MistralLarge4ForConditionalGeneration(config).save_pretrained(tmp_path)
    checkpoint = opened(tmp_path)
    naming, symbols = checkpoint.naming, large_4_symbols(config)
    assert naming.family is family("mistral_large4")
    assert detect_native(checkpoint.weights.tensors) is native(naming.family)
    assert naming.family.fits(symbols)
    assert checkpoint.unknown == []
    found = present(checkpoint)
    assert {(row, slots) for row, slots, _ in required(naming, symbols)} <= found.keys()
    for (row, slots), shapes in found.items():
        assert shapes.keys() == row.parameters(symbols).keys(), (row.native, slots)
        assert not row.shape or shapes == row.parameters(symbols), (row.native, slots)
        assert naming.module(row, slots) == native(naming.family).module(row, slots)
        assert not row.rotary


# --- inventories ---


def published(name: str) -> dict[str, Any]:
    """Sizes of a published params.json."""
    body = builders.read_json(builders.PUBLISHED / f"{name}.params.json")
    return {key: value for key, value in flatten(body).items() if value is not None}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Mistral-7B-Instruct-v0.3", "dense"),
        ("Devstral-2-123B-Instruct-2512", "dense"),
        ("Pixtral-Large-Instruct-2411", "pixtral"),
        ("Mistral-Medium-3.5-128B", "pixtral"),
        ("Mistral-Small-4-119B-2603-NVFP4", "mla_moe_pixtral"),
        ("Voxtral-Mini-4B-Realtime-2602", "voxtral_realtime"),
    ],
)
def test_published_params_fit_one_family(name: str, label: str) -> None:
    """Of all families that are more than drafts; and every size has a value."""
    symbols = published(name)
    fitting = [each for each in families() if each.fits(symbols) and each.generations]
    assert [each.label for each in fitting] == [label]
    assert parameters(native(fitting[0]), symbols)


def test_inventory_of_voxtral_realtime() -> None:
    """All 711 tensors, their names and shapes."""
    name = "Voxtral-Mini-4B-Realtime-2602"
    with gzip.open(builders.PUBLISHED / f"{name}.inventory.json.gz") as file:
        tensors = json.load(file)["tensors"]
    symbols, naming = published(name), native(family("voxtral_realtime"))
    assert detect_native(row[0] for row in tensors) is naming
    assert {row[0]: tuple(row[-2]) for row in tensors} == parameters(naming, symbols)
    assert len(tensors) == 711


def test_inventory_of_small_4() -> None:
    """56,313 tensors of 70,801,959,560 bytes: experts in NVFP4, everything else in BF16."""
    symbols = published("Mistral-Small-4-119B-2603-NVFP4")
    naming = native(family("mla_moe_pixtral"))
    sizes = {
        f"{module}.{suffix}": size
        for row, _, module in required(naming, symbols)
        for suffix, size in _nvfp4(module, row.weight_shape(symbols)).items()
    }
    assert len(sizes) == 36 * 1558 + 3 + 222 == 56_313
    assert sum(sizes.values()) == 70_801_959_560
    assert detect_native(sizes) is naming
    assert all(naming.match(name) for name in sizes)


def _nvfp4(module: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Bytes of a module's parameters, by suffix; input scales of shared experts are BF16."""
    if "experts" not in module:
        return {"weight": 2 * prod(shape)}
    return {
        **{"weight_packed": prod(shape) // 2, "weight_scale": prod(shape) // 16},
        **{"weight_global_scale": 4, "input_global_scale": 2 if "shared" in module else 4},
    }


# --- draft heads ---


@pytest.mark.parametrize("moe", [{}, {"num_experts": 2, "first_k_dense_replace": 1}])
def test_latent_drafts(moe: dict[str, int]) -> None:
    """Layers are dense up to where the experts begin, all of them where there are none."""
    symbols = flatten({"n_layers": 2, "qk_nope_head_dim": 12, "q_lora_rank": 24, "moe": moe})
    draft = family("eagle_mla")
    names = [module for _, _, module in required(native(draft), symbols)]
    assert draft.fits(symbols)
    assert detect_native(f"{name}.weight" for name in names) is native(draft)
    assert "eagle_linear" in names
    assert "tok_embeddings" not in names
    assert ("layers.1.feed_forward.w1" in names) is not bool(moe)
    assert ("layers.1.experts.1.w1" in names) is bool(moe)


# --- tensors beside the modules ---


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("native", "layers.3.attention.kv_fake_quantizer.qscale_act"),
        ("native", "layers.3.attention.q_fake_quantizer.qscale_act"),
        ("native", "vision_encoder.transformer.layers.3.attention.k_fake_quantizer.qscale_act"),
        ("hf", "model.layers.3.self_attn.v_fake_quantizer.qscale_act"),
        ("hf", "model.layers.3.self_attn.rotary_emb.inv_freq"),
        ("hf", "vision_tower.patch_positional_embedding.inv_freq"),
        ("native", "rope.freqs"),
        ("native", "mtp_dspark.layers.0.attention.wq.weight"),
        ("hf", "mtp_dspark.layers.0.attention.wq.weight"),
    ],
)
def test_dropped(layout: str, name: str) -> None:
    """Leftovers and buffers are known for what they are, and no family has them as modules."""
    found = extra(layout, name)
    assert found is not None
    assert found.action == "drop"
    assert not any(native(each).match(name) for each in families())


@pytest.mark.parametrize(
    "name",
    [
        *("self_attn.k_scale", "self_attn.v_scale", "self_attn.q_scale"),  # compressed-tensors
        *("self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"),  # ModelOpt
    ],
)
def test_scales_of_the_kv_cache(name: str) -> None:
    """Parameters of modules that are there anyway."""
    for each in ("dense", "mixtral"):
        naming = detect_hf([f"model.layers.0.{name}", *_text_names(each)])
        match = naming.match(f"model.layers.7.{name}")
        assert match is not None
        assert (match.slots, match.suffix) == ((("layer", 7),), name.rpartition(".")[2])


def _text_names(label: str) -> Iterator[str]:
    naming = detect_hf(["model.layers.0.block_sparse_moe.gate.weight"] * (label == "mixtral"))
    counts = {"n_layers": 1, "moe.num_experts": 1}
    return (f"{module}.weight" for _, _, module in instances(naming, counts))


@pytest.mark.parametrize(
    ("kind", "stem", "old", "new"),
    [
        ("mistral4", "model", "experts.gate_up_proj", "experts.1.up_proj.weight"),
        ("mixtral", "model", "block_sparse_moe.gate.", "mlp.gate."),
    ],
)
def test_one_parameter_twice(tmp_path: Path, kind: str, stem: str, old: str, new: str) -> None:
    """In a stack and by itself, or under two spellings: unknown, not written twice."""
    builders.save_model(tmp_path, kind)
    tensors = builders.load_set(tmp_path)
    name = next(name for name in tensors if old in name)
    builders.edit_tensors(tmp_path, {name.replace(old, new): tensors[name].reshape(-1)[:64]})
    checkpoint = opened(tmp_path)
    ((second, first),) = checkpoint.doubled.items()
    assert {first, second} == {name, name.replace(old, new)}
    assert checkpoint.unknown == [second]
