"""params.json as vLLM's adapter sees it against config.json as transformers' classes see it."""

import json
from math import isclose
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mmfmt.configs import to_config
from tests import builders

from .conftest import Vllm, convert

pytestmark = pytest.mark.engine

YARN = {
    **{"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0},
    **{"original_max_position_embeddings": 64, "beta_fast": 4.0, "beta_slow": 1.0},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": 128}),
    "tied": ("mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "yarn, scaled": ("ministral3", {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0}}),
    "yarn, not scaled": (
        "ministral3",
        {"rope_parameters": {**YARN, "attention_factor": 1.0, "llama_4_scaling_beta": 0.1}},
    ),
    **{kind: (kind, {}) for kind in ("mistral3", "llava", *builders.OTHER_KINDS)},
}
# the same field under vLLM's and transformers' names
SAME = {"d_model": "hidden_size", "encoder_layers": "num_hidden_layers"}
SAME |= {"encoder_ffn_dim": "intermediate_size", "encoder_attention_heads": "num_attention_heads"}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, vllm: Vllm
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every case as HF folder and as what vLLM makes of its params.json."""
    folders = {}
    for name, (kind, extra) in CASES.items():
        folders[name] = tmp_path_factory.mktemp("model") / "hf"
        builders.save_model(folders[name], kind, **extra)
        native = folders[name].with_name("native")
        convert("hf-to-consolidated", folders[name], native)
    paths = [str(folder.with_name("native") / "params.json") for folder in folders.values()]
    seen = json.loads(vllm("adapt", *paths).splitlines()[-1])
    return dict(zip(folders, zip(folders.values(), seen, strict=True), strict=True))


Models = dict[str, tuple[Path, dict[str, Any]]]


@pytest.mark.parametrize("name", CASES)
def test_same_geometry(models: Models, name: str) -> None:
    """Every field that both name has one value."""
    folder, seen = models[name]
    config = AutoConfig.from_pretrained(folder)
    parts = {
        "text": config.get_text_config(),
        "vision": getattr(config, "vision_config", None),
        "audio": getattr(config, "audio_config", None),
    }
    for part, body in parts.items():
        found = seen.get(part, {})
        assert bool(found) == (body is not None)
        for field, value in found.items():
            if field in ("rope_parameters", "llama_4_scaling", "rope_theta"):
                continue
            theirs = getattr(body, SAME.get(field, field), value)
            # none, null and false say the same
            assert value == theirs or (not value and not theirs), (part, field, value, theirs)


@pytest.mark.parametrize("name", CASES)
def test_same_rope(models: Models, name: str) -> None:
    """The same rotary frequencies and the same scaling of queries."""
    folder, seen = models[name]
    text = AutoConfig.from_pretrained(folder).get_text_config()
    ours = seen["text"].get("rope_parameters") or {"rope_theta": seen["text"]["rope_theta"]}
    theirs = text.rope_parameters
    assert ours.get("rope_theta", seen["text"].get("rope_theta")) == theirs["rope_theta"]
    beta = (seen["text"].get("llama_4_scaling") or {}).get("beta") or 0
    assert beta == (theirs.get("llama_4_scaling_beta") or 0)
    assert (ours.get("rope_type", "default") == "yarn") == (theirs["rope_type"] == "yarn")
    if theirs["rope_type"] == "yarn":
        _, factor = ROPE_INIT_FUNCTIONS["yarn"](text, torch.device("cpu"))
        # vLLM scales queries and keys by 0.1 ln(factor) + 1 unless told otherwise
        full = 0.1 * torch.tensor(theirs["factor"]).log().item() + 1
        if text.model_type != "mistral4":  # whose logits are scaled beside the rope
            assert isclose(ours.get("attention_factor", full), factor, rel_tol=1e-6)
        for field in ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings"):
            assert ours[field] == theirs[field]


@pytest.mark.parametrize("name", CASES)
def test_config_of_those_params(models: Models, name: str) -> None:
    """config.json made from the params is the class that it was made from."""
    folder, _ = models[name]
    params = builders.read_json(folder.with_name("native") / "params.json")
    made, given = to_config(params), builders.read_json(folder / "config.json")
    assert made["model_type"] in (given["model_type"], "mistral")
