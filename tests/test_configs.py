"""mmfmt.configs against published pairs of files and transformers' own config classes."""

import json
import math
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mmfmt.configs import HfConfig, attention_factor, open_config, to_params
from mmfmt.errors import MmfmtError
from tests import builders

Json = dict[str, Any]

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 4096,
}


def published(name: str) -> Json:
    """A published config.json or params.json."""
    return builders.read_json(builders.PUBLISHED / name)


def text_config(kind: str = "mistral", **changes: Any) -> Json:
    """A text-only config.json; an `...` removes a key."""
    body = {
        "model_type": kind,
        **builders.TINY.text(),
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        **changes,
    }
    return {key: value for key, value in body.items() if value is not ...}


def multimodal_config(kind: str = "mistral3", **changes: Any) -> Json:
    """A multimodal config.json of transformers; `text__x` and `vision__x` set inner keys."""
    body: Json = json.loads(builders.model_config(kind).to_json_string())
    for path, value in changes.items():
        section, _, key = path.rpartition("__")
        holder = body[f"{section}_config"] if section else body
        if value is ...:
            holder.pop(key, None)
        else:
            holder[key] = value
    return body


def convert(body: Json, has_output: bool = True) -> Json:
    """params.json of a config.json."""
    return to_params(open_config(body), has_output)


def refusal(body: Json, has_output: bool = True) -> str:
    """The message with which a config.json is refused: one line, of config.json."""
    with pytest.raises(MmfmtError) as error:
        convert(body, has_output)
    assert str(error.value).startswith("config.json: ")
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def in_transformers(body: Json) -> Any:
    """The config object that transformers makes of a config.json."""
    body = json.loads(json.dumps(body))
    return transformers.AutoConfig.for_model(body.pop("model_type"), **body)


# --- published files ---


def test_mistral_7b_v03_field_by_field() -> None:
    """All that Mistral's own params.json says, and besides only what config.json alone has."""
    found = convert(published("Mistral-7B-Instruct-v0.3.config.json"))
    said = published("Mistral-7B-Instruct-v0.3.params.json")
    assert {key: found[key] for key in said} == said
    assert {key: found[key] for key in found.keys() - said.keys()} == {
        "tied_embeddings": False,
        "max_position_embeddings": 32768,
        "dtype": "bfloat16",
    }


def test_devstral_2_field_by_field() -> None:
    """Likewise; its nulls are absences, its FP8 `quantization` is another test's matter."""
    config = HfConfig(published("Devstral-2-123B-Instruct-2512.config.json"))
    found = to_params(config, has_output=True)
    published_params = published("Devstral-2-123B-Instruct-2512.params.json")
    said = {key: value for key, value in published_params.items() if value is not None}
    del said["quantization"]
    assert {key: found[key] for key in said} == said
    assert found.keys() - said.keys() == {"dtype"}
    # published files write whole numbers without a fraction
    assert json.dumps(found["yarn"]) == json.dumps(said["yarn"])


PIXTRAL_OF_24B = {
    "image_token_id": 10,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mm_projector_id": "patch_merge",
    "spatial_merge_size": 2,
    "hidden_size": 1024,
    "num_channels": 3,
    "image_size": 1540,
    "patch_size": 14,
    "rope_theta": 10000.0,
    "add_pre_mm_projector_layer_norm": True,
    "adapter_bias": False,
}
TEXT_OF_24B = {
    "dim": 5120,
    "n_layers": 40,
    "head_dim": 128,
    "hidden_dim": 32768,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 131072,
    "dtype": "bfloat16",
    "vision_encoder": PIXTRAL_OF_24B,
}


def test_devstral_small_2() -> None:
    """Query scaling, a YaRN whose two mscales cancel, and a vision tower."""
    config = HfConfig(published("Devstral-Small-2-24B-Instruct-2512.config.json"))
    assert to_params(config, has_output=True) == {
        **TEXT_OF_24B,
        "rope_theta": 1e8,
        "tied_embeddings": False,
        "max_position_embeddings": 393216,
        "yarn": {
            "original_max_position_embeddings": 8192,
            "factor": 48,
            "apply_scale": False,
            "beta": 32,
            "alpha": 1,
        },
        "llama_4_scaling": {"original_max_position_embeddings": 8192, "beta": 0.1},
    }


@pytest.mark.parametrize("has_output", [True, False])
def test_small_3_does_not_say_whether_it_is_tied(has_output: bool) -> None:
    """No tie_word_embeddings in the file: the tensors decide."""
    body = published("Mistral-Small-3.x-24B-FLUX2-text-encoder.config.json")
    assert convert(body, has_output) == {
        **TEXT_OF_24B,
        "rope_theta": 1e9,
        "tied_embeddings": not has_output,
        "max_position_embeddings": 131072,
    }


@pytest.mark.parametrize("kind", builders.KINDS)
def test_configs_that_transformers_writes(kind: str) -> None:
    """Every size lands where native readers look for it."""
    size = builders.Geometry(hidden=80, heads=5, kv_heads=1, head_dim=24, ff=56, layers=3, vocab=70)
    body: Json = json.loads(builders.model_config(kind, size).to_json_string())
    found = convert(body)
    sizes: Json = {"dim": 80, "n_heads": 5, "n_kv_heads": 1, "head_dim": 24, "hidden_dim": 56}
    sizes |= {"n_layers": 3, "vocab_size": 70, "max_position_embeddings": 512, "norm_eps": 1e-5}
    assert {key: found[key] for key in sizes} == sizes
    tower = found.get("vision_encoder", {})
    assert bool(tower) == (kind in builders.MULTIMODAL)
    assert tower.get("adapter_bias") == {"mistral3": False, "llava": True}.get(kind)
    assert ("mm_projector_id" in tower) == (kind == "mistral3")


# --- rope ---

positive = st.floats(0.01, 4.0, allow_subnormal=False)
maybe = st.none() | st.just(0.0) | positive


@given(
    st.floats(0.5, 200.0) | st.integers(1, 128),
    st.fixed_dictionaries(
        {}, optional={"mscale": maybe, "mscale_all_dim": maybe, "attention_factor": maybe}
    ),
)
def test_attention_factor_as_transformers(factor: float, optional: Json) -> None:
    """Whatever combination of keys the file has."""
    rope = {**YARN, "factor": factor, **optional}
    config = transformers.Ministral3Config(**builders.TINY.text(), rope_parameters=dict(rope))
    _, expected = ROPE_INIT_FUNCTIONS["yarn"](config)
    assert attention_factor(rope) == expected


FULL = 0.1 * math.log(16.0) + 1.0


@pytest.mark.parametrize(
    ("keys", "apply_scale"),
    [
        ({}, True),
        ({"mscale": 1.0, "mscale_all_dim": 0.0}, True),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, False),
        ({"mscale": 0.7, "mscale_all_dim": 0.7}, False),
        ({"mscale": 1.0}, True),
        ({"mscale_all_dim": 1.0}, True),
        ({"attention_factor": 1.0}, False),
        ({"attention_factor": FULL}, True),
        ({"attention_factor": FULL, "mscale": 1.0, "mscale_all_dim": 1.0}, True),
        ({"attention_factor": None, "mscale": None}, True),
    ],
)
def test_apply_scale(keys: Json, apply_scale: bool) -> None:
    """The one bit that params.json has for the attention factor."""
    body = text_config("ministral3", rope_theta=..., rope_parameters={**YARN, **keys})
    assert convert(body)["yarn"]["apply_scale"] is apply_scale


@pytest.mark.parametrize(
    "keys", [{"attention_factor": 1.1}, {"mscale": 1.0, "mscale_all_dim": 0.5}, {"factor": None}]
)
def test_attention_factor_in_between(keys: Json) -> None:
    """Any other factor would silently become one of the two."""
    body = text_config("ministral3", rope_theta=..., rope_parameters={**YARN, **keys})
    assert "text" not in refusal(body)
    assert "rope_parameters" in refusal(body)


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_yarn_fields(key: str) -> None:
    """beta_fast and beta_slow by their names there; transformers' defaults where absent."""
    rope = {**YARN, "beta_fast": 4.0, "beta_slow": 1.5}
    expected = {"original_max_position_embeddings": 4096, "factor": 16, "apply_scale": True}
    body = text_config("ministral3", rope_theta=1e6, **{key: rope})
    assert convert(body)["yarn"] == {**expected, "beta": 4, "alpha": 1.5}
    body = text_config("ministral3", rope_theta=1e6, **{key: dict(YARN)})
    assert convert(body)["yarn"] == {**expected, "beta": 32, "alpha": 1}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
        {"type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
        {**YARN, "truncate": False},
        {**YARN, "partial_rotary_factor": 0.5},
        {"rope_type": "default", "rope_theta": 1e6, "factor": 2.0},
        {**YARN, "original_max_position_embeddings": None},
        {"rope_type": "default", "rope_theta": 1e6, "llama_4_scaling_beta": 0.1},
    ],
)
def test_rope_that_params_cannot_say(rope: Json) -> None:
    """Each is refused by the place it stands at."""
    body = text_config("ministral3", rope_theta=..., rope_parameters=rope)
    assert refusal(body).startswith("config.json: rope_parameters")


ROPES: dict[str, Json] = {
    "both, one plain": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rope_scaling": YARN,
    },
    "both, other factors": {"rope_parameters": YARN, "rope_scaling": {**YARN, "factor": 8.0}},
    "both the same": {"rope_parameters": YARN, "rope_scaling": YARN},
    "theta inside rope_scaling only": {"rope_theta": ..., "rope_scaling": YARN},
    "theta differs in rope_scaling": {"rope_theta": 1e4, "rope_scaling": YARN},
    "theta only at the top": {"rope_theta": 1e6},
    "theta only inside": {
        "rope_theta": ...,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "old yarn": {"rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}},
}


@pytest.mark.parametrize("kind", ["mistral", "ministral3"])
@pytest.mark.parametrize("case", ROPES)
def test_rope_is_that_of_transformers_or_refused(kind: str, case: str) -> None:
    """The rope that transformers computes with, wherever a config.json may have put it."""
    body = text_config(kind, **ROPES[case])
    expected = in_transformers(body).rope_parameters
    try:
        found = convert(body)
    except MmfmtError:
        return
    assert found["rope_theta"] == expected["rope_theta"]
    assert ("yarn" in found) == (expected["rope_type"] == "yarn")
    if "yarn" in found:
        assert found["yarn"]["factor"] == expected["factor"]


@pytest.mark.parametrize("case", ["theta only at the top", "theta only inside", "old yarn"])
def test_usual_ropes_are_not_refused(case: str) -> None:
    """What transformers 4 and 5 write."""
    assert convert(text_config("mistral", **ROPES[case]))["rope_theta"] == 1e6


# --- sliding window ---


def window(body: Json) -> Any:
    """The sliding window of the params.json made of a config, `absent` where it has none."""
    return convert(body).get("sliding_window", "absent")


@pytest.mark.parametrize("kind", ["mistral", "ministral3"])
@pytest.mark.parametrize("said", [..., None, 1, 32768])
def test_sliding_window_as_transformers(kind: str, said: Any) -> None:
    """Absent is not null: MistralConfig has a default of 4096."""
    # a ministral3 config must state its rope
    plain = {"rope_type": "default", "rope_theta": 1e6}
    body = text_config(kind, sliding_window=said, rope_parameters=plain)
    assert window(body) == (in_transformers(body).sliding_window or "absent")


@pytest.mark.parametrize("text_type", [..., "mistral", "ministral3"])
@pytest.mark.parametrize("said", [..., None, 4096])
def test_sliding_window_in_text_config(text_type: Any, said: Any) -> None:
    """Likewise inside a multimodal config; Mistral3Config takes a text half without type."""
    body = multimodal_config(text__sliding_window=said, text__model_type=text_type)
    if text_type != "ministral3":
        body["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    expected = in_transformers(body).text_config.sliding_window or "absent"
    assert window(body) == expected


SLIDING, FULL_ATTENTION = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        # Ministral-8B-2410's own params.json has this pattern
        ([FULL_ATTENTION, *[SLIDING] * 3] * 2, [None, 9, 9, 9]),
        ([SLIDING] * 8, 9),
        ([FULL_ATTENTION] * 8, "absent"),
        ([SLIDING, FULL_ATTENTION] * 4, [9, None]),
        ([SLIDING] * 7 + [FULL_ATTENTION], [9] * 7 + [None]),
    ],
)
def test_layer_types(types: list[str], expected: Any) -> None:
    """One period of the pattern; repeated over the layers it is the pattern again."""
    found = window(text_config(num_hidden_layers=8, sliding_window=9, layer_types=types))
    assert found == expected
    if isinstance(found, list):
        said = [9 if kind == SLIDING else None for kind in types]
        assert [found[layer % len(found)] for layer in range(8)] == said


@pytest.mark.parametrize("whole", ["float32", ...])
def test_dtype_of_the_whole_goes_first(whole: Any) -> None:
    """As transformers has it; AutoRound casts a model and leaves text_config's as it was."""
    body = multimodal_config(dtype=whole, text__dtype="bfloat16")
    config = in_transformers(body)
    said = config.dtype or config.text_config.dtype
    assert convert(body)["dtype"] == str(said).removeprefix("torch.")


def test_unknown_layer_types() -> None:
    """Attention of another kind has no word in params.json."""
    body = text_config(sliding_window=9, layer_types=[SLIDING, "chunked_attention"])
    assert "'chunked_attention' cannot be carried" in refusal(body)


# --- embeddings, heads ---


@pytest.mark.parametrize("has_output", [True, False])
@pytest.mark.parametrize("said", [True, False, None, ...])
def test_tied_embeddings(said: Any, has_output: bool) -> None:
    """What the config says; where it is silent, whether there is an output head."""
    expected = said if isinstance(said, bool) else not has_output
    body = text_config(tie_word_embeddings=said)
    assert convert(body, has_output)["tied_embeddings"] is expected


def test_tied_embeddings_of_the_top_level() -> None:
    """The top level decides in transformers, the text half counts where it is silent."""
    body = multimodal_config(tie_word_embeddings=False, text__tie_word_embeddings=True)
    assert convert(body)["tied_embeddings"] is False
    body = multimodal_config(tie_word_embeddings=..., text__tie_word_embeddings=True)
    assert convert(body)["tied_embeddings"] is True


@pytest.mark.parametrize(("said", "expected"), [(24, 24), (None, 16), (..., 16)])
def test_head_dim(said: Any, expected: int) -> None:
    """hidden_size / heads only where the config has none."""
    assert convert(text_config(head_dim=said))["head_dim"] == expected


def test_head_dim_that_cannot_be_known() -> None:
    """64 columns are no 5 heads."""
    body = text_config(head_dim=..., num_attention_heads=5)
    assert "config.json: head_dim: is missing" in refusal(body)


@pytest.mark.parametrize("key", ["quantization_config", "rope_scaling", "dtype", "layer_types"])
def test_null_is_absent(key: str) -> None:
    """transformers writes null for what a model has not."""
    assert convert({**text_config(), key: None}) == convert(text_config())


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"vision__hidden_act": "gelu"}, "vision_config.hidden_act: 'gelu' cannot be carried"),
        # PixtralVisionConfig's default
        ({"vision__hidden_act": ...}, "vision_config.hidden_act: 'gelu' cannot be carried"),
        ({"vision__model_type": "clip_vision_model"}, "vision_config.model_type"),
        ({"vision__head_dim": 8}, "vision_config.head_dim: 8 cannot be carried"),
        ({"vision__foo": 1}, "vision_config.foo: no field"),
        ({"vision__patch_size": ...}, "vision_config.patch_size: is missing"),
        ({"text__hidden_act": "gelu"}, "text_config.hidden_act"),
        ({"text__attention_bias": True}, "text_config.attention_bias"),
        ({"text__num_local_experts": 8}, "text_config.num_local_experts: no field"),
        ({"text__model_type": "llama"}, "text_config.model_type: 'llama' is not supported"),
        ({"text__hidden_size": 0}, "text_config.hidden_size: 0 is less than"),
        ({"text__hidden_size": "64"}, 'text_config.hidden_size: "64" is not of type'),
        ({"text__num_key_value_heads": ...}, "text_config.num_key_value_heads: is missing"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act"),
        ({"vision_feature_layer": -2}, "vision_feature_layer: -2"),
        ({"image_token_index": ...}, "image_token_index: is missing"),
        ({"image_token_id": 11}, "contradicts itself: image_token_index = 10, image_token_id"),
        ({"vocab_size": 63}, "contradicts itself: text_config.vocab_size = 64, vocab_size = 63"),
        ({"text__rope_theta": 5.0}, "contradicts itself: text_config.rope_theta = 5.0"),
        ({"audio_config": {"hidden_size": 8}}, "audio_config.hidden_size: no field"),
        (
            {"model_type": "mistral_large4"},
            "model_type: 'mistral_large4' stores native tensor names",
        ),
        ({"text_config": None}, "text_config"),
    ],
)
def test_refused_multimodal_configs(changes: Json, place: str) -> None:
    """Each by the JSON path that a person finds in the file."""
    assert refusal(multimodal_config(**changes)).removeprefix("config.json: ").startswith(place)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"num_local_experts": 8}, "num_local_experts: no field"),
        ({"mlp_bias": True}, "mlp_bias: True cannot be carried"),
        ({"model_type": "gemma"}, "model_type: 'gemma' is not supported yet"),
        ({"model_type": ...}, '"model_type" is a required property'),
        ({"rms_norm_eps": 0}, "rms_norm_eps: 0 is less than"),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, "contradicts itself: dtype"),
    ],
)
def test_refused_text_configs(changes: Json, place: str) -> None:
    """Likewise where everything stands at the top level."""
    assert refusal(text_config(**changes)).removeprefix("config.json: ").startswith(place)


def test_llava_without_the_feature_settings() -> None:
    """LlavaConfig's defaults take the last layer but one: no Pixtral does."""
    for key in ("vision_feature_layer", "vision_feature_select_strategy"):
        assert key in refusal(multimodal_config("llava", **{key: ...}))


def test_sizes_agree_under_two_names() -> None:
    """The same value twice is no contradiction, whole number or not."""
    body = text_config(rope_theta=1000000, rope_parameters={"rope_theta": 1e6, "type": "default"})
    assert convert(body)["rope_theta"] == 1e6
    assert convert(multimodal_config(image_token_id=10))["vision_encoder"]["image_token_id"] == 10


keys = st.sampled_from(sorted(text_config())) | st.text(max_size=5)
json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)


@given(
    st.dictionaries(keys, json_values | st.lists(json_values, max_size=2) | st.just({}), max_size=3)
)
def test_any_config_is_converted_or_refused(changes: Json) -> None:
    """Nothing but MmfmtError comes of a config, whatever its values."""
    body = {**text_config(), **changes}
    try:
        params = convert(body)
    except MmfmtError as error:
        assert str(error).startswith("config.json")
        return
    assert params["dim"] == body["hidden_size"]
