"""What the 5xx rules say of readers, held to transformers."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mmfmt.configs import HfConfig, attention_factor, effective_tie, mscales
from mmfmt.schemas import table
from tests import builders
from tests.conftest import Run
from tests.damage import drop_field, set_field
from tests.repos import good_repo

CLASSES = {
    "mistral": transformers.MistralConfig,
    "ministral": transformers.MinistralConfig,
    "ministral3": transformers.Ministral3Config,
    "mixtral": transformers.MixtralConfig,
    "mistral4": transformers.Mistral4Config,
    "mistral3": transformers.Mistral3Config,
    "llava": transformers.LlavaConfig,
    "voxtral": transformers.VoxtralConfig,
    "voxtral_realtime": transformers.VoxtralRealtimeConfig,
}


def of_text(model_type: str) -> Any:
    """The config object that holds the text model's fields."""
    config = CLASSES[model_type]()
    return getattr(config, "text_config", config)


@pytest.mark.parametrize("model_type", CLASSES)
def test_defaults_of_tied_embeddings(model_type: str) -> None:
    said = table("fields")["tied"]["defaults"].get(model_type)
    found = getattr(CLASSES[model_type](), "tie_word_embeddings", False)
    # of Mistral3Config the default was another before
    assert found is (True if model_type == "mistral3" else said)
    assert effective_tie(HfConfig({"model_type": model_type})) is said


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("text", [True, False, None])
@pytest.mark.parametrize("model_type", ["mistral3", "llava"])
def test_which_level_ties(model_type: str, top: bool, text: bool | None) -> None:
    inner = {"model_type": "mistral"} | ({} if text is None else {"tie_word_embeddings": text})
    body = {"model_type": model_type, "tie_word_embeddings": top, "text_config": inner}
    config = CLASSES[model_type](**{k: v for k, v in body.items() if k != "model_type"})
    assert effective_tie(HfConfig(body)) is config.tie_word_embeddings


def test_surprising_defaults() -> None:
    for row in table("fields")["field"]:
        for model_type in row.get("surprising", ()):
            (name,) = row["hf"]
            found = getattr(of_text(model_type), name.removeprefix("text."))
            assert found == row["defaults"][model_type]


def test_defaults_that_no_model_is_made_for() -> None:
    """Values of the classes' own that MMF509 warns of."""
    known = [row for row in table("fields")["assumed"] if "absent" in row]
    rows = {row["hf"]: row for row in known if row["absent"] not in row["values"]}
    llava = transformers.LlavaConfig()
    assert rows.pop("vision.hidden_act")["absent"] == transformers.PixtralVisionConfig().hidden_act
    strategy = rows.pop("vision_feature_select_strategy")
    assert strategy["absent"] == llava.vision_feature_select_strategy
    assert rows.pop("vision_feature_layer")["absent"] == llava.vision_feature_layer
    assert not rows


@pytest.mark.parametrize("row", table("fields")["stale"], ids=lambda row: row["key"])
def test_stale_keys_are_no_fields(row: dict[str, Any]) -> None:
    for model_type in row["when"]:
        assert row["key"] not in {field.name for field in fields(type(of_text(model_type)))}
    # of other classes it is one: Voxtral's text model
    assert row["key"] in {field.name for field in fields(transformers.LlamaConfig)}


@pytest.mark.parametrize("applies", [True, False])
def test_attention_factor_of_medium(applies: bool) -> None:
    """1.41589 where it is on, as transformers computes it, and 1 where it is off."""
    params = builders.read_json(builders.PUBLISHED / "Mistral-Medium-3.5-128B.params.json")
    yarn = params["yarn"]
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": float(yarn["factor"])}
    rope["original_max_position_embeddings"] = yarn["original_max_position_embeddings"]
    rope |= mscales(applies, "ministral3")
    config = transformers.Ministral3Config(**builders.TINY.text(), rope_parameters=rope)
    _, found = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    assert found == pytest.approx(1.41589 if applies else 1, abs=1e-5)
    assert found == pytest.approx(attention_factor(rope))


def test_no_head_dim_is_taken_from_the_heads() -> None:
    """The guess that MMF508 warns of."""
    text = builders.TINY.text()
    del text["head_dim"]
    config = transformers.MistralConfig(**text)
    assert config.head_dim == builders.TINY.hidden // builders.TINY.heads != builders.TINY.head_dim


def test_a_head_size_that_only_the_tensors_show_is_not_converted(
    to_consolidated: Run, tmp_path: Path
) -> None:
    """params.json would get the guess."""
    repo = shutil.copytree(builders.BF16, tmp_path / "repo")
    drop_field("config.json", "text_config.head_dim")(repo)
    error = to_consolidated(repo, tmp_path / "out").error
    assert "text_config.head_dim: is missing" in error and "= 32, but Q and K have 64" in error


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ((), "MMF601"),
        (("--level", "tokenizers"), "MMF601"),
        (("--level", "header"), "MMF502"),
        (("--ignore", "MMF6"), "MMF502"),
        (("--select", "MMF502"), "MMF502"),
    ],
    ids=" ".join,
)
def test_who_says_what_is_wrong_says_it(
    options: tuple[str, ...], rule: str, tmp_path: Path, run: Run
) -> None:
    """A rule that another one makes needless speaks where that one is not run."""
    repo = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    set_field("params.json", "vision_encoder.image_token_id", 11)(repo)
    report = json.loads(run("verify", repo, "--format", "json", *options).out)
    assert {finding["rule"] for finding in report["findings"]} == {rule}
