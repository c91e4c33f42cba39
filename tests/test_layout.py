"""Dense and Pixtral models: published inventories, transformers' classes, near misses."""

import gzip
import json
from typing import Any

import pytest
import torch

from mmfmt.configs import open_config, to_params
from mmfmt.errors import MmfmtError
from mmfmt.layout import evaluate, family, flatten
from mmfmt.naming import detect_hf, naming, native
from tests import builders
from tests.modules import parameters, required

GENERATIONS = ("text", "legacy", "new")
TEXT_NAMES_OF_TOWERS = {(kind, "text") for kind in builders.MULTIMODAL}
DENSE, PIXTRAL = family("dense"), family("pixtral")
NATIVE = native(PIXTRAL)
NAMINGS = {
    "native": NATIVE,
    "text": naming(DENSE, "hf", "text"),
    "legacy": naming(PIXTRAL, "hf", "legacy"),
    "new": naming(PIXTRAL, "hf", "new"),
}

# params.json of the models whose tensor inventories are known; no params.json of the last
# two is at hand: their sizes as their config.json has them
INVENTORIES = {
    "Mistral-Medium-3.5-128B": "Mistral-Medium-3.5-128B.params.json",
    "Devstral-Small-2-24B-Instruct-2512": "Devstral-Small-2-24B-Instruct-2512.config.json",
    "Mistral-Small-3.x-24B-BF16": "Mistral-Small-3.x-24B-FLUX2-text-encoder.config.json",
}


def symbols_of(name: str) -> dict[str, Any]:
    """Sizes of a published model, by params.json field."""
    body = builders.read_json(builders.PUBLISHED / INVENTORIES[name])
    if "model_type" in body:
        body = to_params(open_config(body), has_output=True)
    return flatten(body)


@pytest.mark.parametrize(
    "name",
    [
        *("", "weight", "layers", "layers.0.attention.wq", "layers.0.attention.wq.", "norm"),
        *("layers.0.attention.wq.weights", "xlayers.0.attention.wq.weight", "layers.0.attention"),
        *("layers.0.attention.wq.weight.", ".layers.0.attention.wq.weight", "norm.weight\n"),
        *("layers.{layer}.attention.wq.weight", "layers.0.feed_forward.w4.weight"),
        # other families must not be taken for dense layers
        *("layers.0.attention.wq_a.weight", "layers.0.experts.0.w1.weight", "layers.0.gate.weight"),
        "vision_encoder.layers.0.attention.wq.weight",
    ],
)
def test_unknown_native_names(name: str) -> None:
    """Near misses are no matches."""
    assert NATIVE.match(name) is None


def test_old_pixtral_converter_key() -> None:
    """The wrong vision key of the old Pixtral converter is unknown, and its like is named."""
    hf = NAMINGS["legacy"]
    wrong = "vision_tower.transformer.layers.3.input_layernorm.weight"
    assert hf.match(wrong) is None
    assert hf.nearest(wrong).startswith("vision_tower.transformer.layers.")


@pytest.mark.parametrize(
    ("label", "name", "nearest"),
    [
        ("native", "layers.0.atention.wq.weight", "layers.{layer}.attention.wq.weight"),
        ("native", "layers.0.attention.wq.weight_pack", "layers.0.attention.wq.weight_packed"),
        ("text", "model.layers.7.mlp.gate.weight", "model.layers.{layer}.mlp.gate_proj.weight"),
        ("new", "model.visiontower.ln_pre.weight", "model.vision_tower.ln_pre.weight"),
        ("legacy", "lm_head.weight", "language_model.lm_head.weight"),
    ],
)
def test_nearest(label: str, name: str, nearest: str) -> None:
    """Typing errors lead to what was meant."""
    assert NAMINGS[label].nearest(name) == nearest


@pytest.mark.parametrize("model", INVENTORIES)
def test_published_inventories(model: str) -> None:
    """Every tensor maps both ways, and has the shape that params.json gives it."""
    with gzip.open(builders.PUBLISHED / f"{model}.inventory.json.gz") as file:
        inventory = json.load(file)
    assert inventory["columns"] == ["native", "hf", "shape", "dtype"]
    tensors, symbols = inventory["tensors"], symbols_of(model)
    hf = detect_hf(hf_name for _, hf_name, _, _ in tensors)
    assert hf is NAMINGS["new"]
    for native_name, hf_name, shape, _ in tensors:
        ours, theirs = NATIVE.match(native_name), hf.match(hf_name)
        assert ours is not None, native_name
        assert theirs is not None, hf_name
        assert (ours.row, ours.slots) == (theirs.row, theirs.slots)
        assert NATIVE.module(theirs.row, theirs.slots) == native_name.rpartition(".")[0]
        assert hf.module(ours.row, ours.slots) == hf_name.rpartition(".")[0]
        if ours.suffix == "weight":
            assert ours.row.weight_shape(symbols) == tuple(shape)
    # and nothing that the tables expect is absent from the inventory
    modules = {name.rpartition(".")[0] for name, _, _, _ in tensors}
    assert modules == {module for _, _, module in required(NATIVE, symbols)}


@pytest.mark.parametrize(
    ("kind", "generation"),
    # a text-only checkpoint has no names for a tower
    [(k, g) for k in builders.KINDS for g in GENERATIONS if (k, g) not in TEXT_NAMES_OF_TOWERS],
)
def test_detects_the_generation(kind: str, generation: str) -> None:
    """From the names that transformers saves, and from the same in other generations."""
    saved = "legacy" if kind in builders.MULTIMODAL else "text"
    names = [builders.renamed(name, saved, generation) for name in _saved_names(kind)]
    models = PIXTRAL if kind in builders.MULTIMODAL else DENSE
    assert detect_hf(names) is naming(models, "hf", generation)
    assert detect_hf(reversed(names)) is naming(models, "hf", generation)


def test_generation_of_equally_good_names() -> None:
    """The first in the tables, as documented; `lm_head.weight` is a name of two of them."""
    assert detect_hf(["lm_head.weight"]) is NAMINGS["text"]


def _meta_state(kind: str, geometry: builders.Geometry) -> tuple[Any, dict[str, torch.Tensor]]:
    """A config and the state dict of transformers' own class, without any memory."""
    config = builders.model_config(kind, geometry)
    with torch.device("meta"):
        return config, dict(builders.build_model(config).state_dict())


def _saved_names(kind: str) -> list[str]:
    """The names under which transformers saves a model of this kind (see builders)."""
    _, state = _meta_state(kind, builders.TINY)
    old = "new" if kind in builders.MULTIMODAL else "text"
    new = "legacy" if kind in builders.MULTIMODAL else "text"
    return [builders.renamed(name, old, new) for name in state]


GEOMETRIES = {
    "tiny": builders.TINY,
    "heads wider than hidden": builders.Geometry(hidden=64, heads=3, kv_heads=1, head_dim=88),
    "as Small-24B": builders.Geometry(
        5120, 32, 8, 128, 32768, 2, 131072, vision_hidden=1024, vision_heads=16
    ),
    "as Medium 3.5": builders.Geometry(
        12288, 96, 8, 128, 28672, 2, 131072, vision_hidden=1664, vision_heads=16, vision_layers=2
    ),
}


@pytest.mark.parametrize("kind", builders.KINDS)
@pytest.mark.parametrize("size", GEOMETRIES)
def test_state_dicts_of_transformers(kind: str, size: str) -> None:
    """Every parameter of the class matches one row, with the shape that the table computes."""
    config, state = _meta_state(kind, GEOMETRIES[size])
    hf = detect_hf(state)
    symbols = flatten(to_params(open_config(_json(config)), has_output=True))
    assert {n: tuple(tensor.shape) for n, tensor in state.items()} == parameters(hf, symbols)


def _json(config: Any) -> dict[str, Any]:
    """A config object as transformers writes it to config.json."""
    body: dict[str, Any] = json.loads(config.to_json_string())
    return body


def test_evaluate() -> None:
    """Products, one division rounded up, and an error for a size that nobody gave."""
    symbols = {"out": 33, "bits": 4, "x.y": 5}
    assert evaluate("out*bits/32", symbols) == 5
    assert evaluate("out*2", symbols) == 66
    assert evaluate("x.y/2/2", symbols) == 2
    with pytest.raises(MmfmtError, match="gone has no value"):
        evaluate("out*gone", symbols)
