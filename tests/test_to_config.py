"""params.json to config.json and back, against transformers' classes."""

import copy
import json
from math import log
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from mmfmt.configs import open_config, to_config, to_params
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from tests import builders
from tests.test_roundtrip import meant, rotary

Json = dict[str, Any]
WHOLE = sorted(
    path.name for path in builders.PUBLISHED.glob("*.params*.json") if "partial" not in path.name
)
CLASSES = {
    "Devstral-2": "Ministral3ForCausalLM",
    "Mistral-7B": "MistralForCausalLM",
    "Mistral-Medium": "Mistral3ForConditionalGeneration",
    "Mistral-Small-4": "Mistral3ForConditionalGeneration",
    "Pixtral-Large": "LlavaForConditionalGeneration",
    "Voxtral-Mini-4B": "VoxtralRealtimeForConditionalGeneration",
}


def fields(params: Json) -> Json:
    """What params say, quantization aside; nulls say nothing."""
    flat = flatten(params).items()
    return {k: v for k, v in flat if v is not None and not k.startswith("quantization")}


def understood(config: Json) -> Any:
    """config.json as an object of its class in transformers."""
    body = copy.deepcopy(config)
    return transformers.AutoConfig.for_model(body.pop("model_type"), **body)


@pytest.mark.parametrize("name", WHOLE)
def test_published_params_lose_nothing(name: str) -> None:
    """Every field comes back with its value, through the class that the content calls for."""
    params = builders.read_json(builders.PUBLISHED / name)
    config = to_config(params)
    expected = next(found for start, found in CLASSES.items() if name.startswith(start))
    assert config["architectures"] == [expected]
    assert type(understood(config)).__name__.startswith(expected.partition("For")[0])
    back = to_params(open_config(config), not params.get("tied_embeddings"))
    assert fields(params).items() <= fields(back).items()


def test_a_partial_params_file_is_refused() -> None:
    """By the first field that is missing."""
    name = "Mistral-Large-3-675B-Instruct-2512.params.partial.json"
    with pytest.raises(MmfmtError, match=r"params\.json.*(is missing|required)"):
        to_config(builders.read_json(builders.PUBLISHED / name))


yarns = st.fixed_dictionaries(
    {
        "rope_type": st.just("yarn"),
        "rope_theta": st.sampled_from([1e4, 1e6]),
        "factor": st.sampled_from([2.0, 16.0, 64.0]),
        "original_max_position_embeddings": st.sampled_from([64, 4096]),
        "beta_fast": st.sampled_from([4.0, 32.0]),
        "beta_slow": st.sampled_from([1.0, 2.0]),
        "mscale": st.just(1.0),
        "mscale_all_dim": st.sampled_from([0.0, 1.0]),
        "llama_4_scaling_beta": st.sampled_from([0, 0.1]),
    }
)
plain = st.fixed_dictionaries(
    {"rope_type": st.just("default"), "rope_theta": st.sampled_from([1e4, 1e6, 1e9])}
)
texts = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([64, 96]),
        "num_attention_heads": st.sampled_from([4, 8]),
        "num_key_value_heads": st.sampled_from([1, 4]),
        "head_dim": st.sampled_from([8, 24]),
        "intermediate_size": st.integers(1, 500),
        "num_hidden_layers": st.integers(1, 4),
        "vocab_size": st.integers(32, 300),
        "max_position_embeddings": st.integers(64, 100_000),
        "rms_norm_eps": st.sampled_from([1e-5, 1e-6]),
        "tie_word_embeddings": st.booleans(),
        "sliding_window": st.sampled_from([None, 128]),
    }
)


@given(st.sampled_from(["mistral", "mixtral"]), texts, plain)
def test_plain_configs(kind: str, text: Json, rope: Json) -> None:
    """Text models without yarn."""
    check_there_and_back(kind, {**text, "rope_parameters": rope})


@given(texts, yarns)
def test_yarn_configs(text: Json, rope: Json) -> None:
    """Text models with yarn, scaled or not, with and without scaled queries."""
    check_there_and_back("ministral3", {**text, "rope_parameters": rope})


@given(st.sampled_from(["mistral3", "llava"]), texts, st.sampled_from([14, 16]))
def test_vision_configs(kind: str, text: Json, patch: int) -> None:
    """The same inside a multimodal config."""
    vision = {**builders.TINY.vision(), "patch_size": patch, "image_size": 28 * patch}
    tied = text["tie_word_embeddings"]
    inner = {"model_type": "mistral", **text}
    more: Json = {"vision_feature_layer": -1, "tie_word_embeddings": tied}
    if kind == "llava":
        more["vision_feature_select_strategy"] = "full"
    sections = {"text_config": inner, "vision_config": vision, "image_token_index": 10}
    check_there_and_back(kind, {**sections, **more})


def check_there_and_back(kind: str, body: Json) -> None:
    """config -> params -> config means the same to transformers; params do not change."""
    given_config = transformers.AutoConfig.for_model(kind, **copy.deepcopy(body))
    config = json.loads(given_config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    tied = config.get("tie_word_embeddings", False)
    params = to_params(open_config(config), has_output=not tied)
    made = to_config(params)
    again = to_params(open_config(made), has_output=not tied)
    assert fields(again) == fields(params)
    ours = understood(made)
    assert meant(ours.to_dict()) == meant(given_config.to_dict())
    assert rotary(ours.get_text_config()) == rotary(given_config.get_text_config())


SEVEN_B = builders.read_json(builders.PUBLISHED / "Mistral-7B-Instruct-v0.3.params.json")
YARN = {"factor": 4, "original_max_position_embeddings": 64, "apply_scale": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": None}, "dim"),
        ({"yarn": {**YARN, "gamma": 1}}, "yarn"),
        ({"qk_nope_head_dim": 64, "qk_rope_head_dim": 64}, "shared experts"),
        (
            {"yarn": YARN, "llama_4_scaling": {"original_max_position_embeddings": 65, "beta": 1}},
            "original_max_position_embeddings: 64 cannot be carried",
        ),
        ({"sliding_window": "4096"}, "sliding_window"),
    ],
)
def test_refused(changes: Json, message: str) -> None:
    """One line that names the place in params.json."""
    params = {key: v for key, v in {**SEVEN_B, **changes}.items() if v is not None}
    with pytest.raises(MmfmtError) as error:
        to_config(params)
    assert str(error.value).startswith("params.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scaled", [True, False])
def test_yarn_scale(scaled: bool) -> None:
    """apply_scale is what transformers computes as the attention factor."""
    config = understood(to_config({**SEVEN_B, "yarn": {**YARN, "apply_scale": scaled}}))
    _, factor, *_ = rotary(config)
    assert factor == pytest.approx(0.1 * log(4) + 1 if scaled else 1.0)
