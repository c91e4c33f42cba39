"""params.json to config.json, of every family, by what transformers makes of it."""

import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.mistral4.modeling_mistral4 import yarn_apply_mscale

from mmfmt.configs import to_config
from mmfmt.configs.to_params import nest
from mmfmt.errors import MmfmtError
from mmfmt.layout import flatten
from mmfmt.schemas import validate
from tests import builders
from tests.tiny_params import FAMILIES, MERGED, PIXTRAL, QUERY_SCALING, TEXT, WHISPER, YARN
from tests.understood import back, layer_windows, loaded

Json = dict[str, Any]

CLASSES = {
    "mistral": "MistralForCausalLM",
    "mistral, sliding layers": "MinistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
    "llava": "LlavaForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "voxtral": "VoxtralForConditionalGeneration",
    "voxtral_realtime": "VoxtralRealtimeForConditionalGeneration",
}
PUBLISHED = sorted(
    path.name for path in builders.PUBLISHED.glob("*.params.json") if ".partial." not in path.name
)


def said(params: Json) -> Json:
    """The fields of a params.json by path, nulls and quantization left out."""
    fields = {k: v for k, v in flatten(params).items() if v is not None}
    return {k: v for k, v in fields.items() if not k.startswith("quantization")}


def model_of(body: Json, device: str = "meta") -> Any:
    """The model of a config.json, by the class that it names."""
    config = loaded(body)
    # AutoConfig takes a text-only mistral with layer_types for a ministral
    name = "MinistralForCausalLM" if config.model_type == "ministral" else body["architectures"][0]
    torch.manual_seed(0)
    with torch.device(device):
        return getattr(transformers, name)(config)


def refusal(params: Json) -> str:
    """The message with which a params.json is refused: one line, of params.json."""
    with pytest.raises(MmfmtError) as error:
        to_config(params)
    assert str(error.value).startswith("params.json: ")
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).removeprefix("params.json: ")


# --- params -> config -> params ---


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_params_come_back(name: str) -> None:
    """No field lost or changed; only what config.json must say is added."""
    params = builders.read_json(builders.PUBLISHED / name)
    config = to_config(params)
    validate(config, "config", "config.json")
    found, expected = said(back(config)), said(params)
    assert {path: found.get(path) for path in expected} == expected
    assert found.keys() - expected.keys() <= {"tied_embeddings", "max_position_embeddings"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_params_make_models(name: str) -> None:
    """transformers builds them all; sizes as in params.json, stated at random places."""
    params = builders.read_json(builders.PUBLISHED / name)
    state = model_of(to_config(params)).state_dict()
    shapes = {key.removeprefix("model."): tuple(t.shape) for key, t in state.items()}
    text = (
        ""
        if (params.get("multimodal") or params.get("vision_encoder")) is None
        else ("language_model.")
    )
    assert shapes[f"{text}embed_tokens.weight"] == (params["vocab_size"], params["dim"])
    last = f"{text}layers.{params['n_layers'] - 1}."
    assert f"{last}input_layernorm.weight" in shapes
    assert f"{text}layers.{params['n_layers']}.input_layernorm.weight" not in shapes


@pytest.mark.parametrize("name", FAMILIES)
def test_tiny_params_come_back(name: str) -> None:
    """Likewise, every family."""
    params = FAMILIES[name]
    config = to_config(params, "bfloat16")
    validate(config, "config", "config.json")
    found, expected = said(back(config)), said(params)
    assert {path: found.get(path) for path in expected} == expected
    assert {path.rpartition(".")[2] for path in found.keys() - expected.keys()} <= {
        "dtype",
        "n_kv_heads",
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_extras_are_what_classes_lack(name: str) -> None:
    """Everything else has its place in the config."""
    extras = flatten(to_config(FAMILIES[name]).get("mistral_extras", {}))
    images = {"max_image_size", "image_break_token_id", "image_end_token_id"}
    assert {path.rpartition(".")[2] for path in extras} <= {*images, "route_every_n", "causal"}


sizes = st.integers(1, 9)
lengths = st.integers(1, 10**6)
positive = st.floats(1e-6, 1e9)
yarns = st.fixed_dictionaries(
    {
        "factor": st.integers(2, 128) | st.floats(1.5, 200),
        "original_max_position_embeddings": lengths,
    },
    optional={
        "apply_scale": st.booleans(),
        "beta": st.integers(1, 64) | st.floats(0.25, 64),
        "alpha": st.integers(1, 8) | st.floats(0.25, 8),
    },
)
towers = st.sampled_from([PIXTRAL, MERGED]).flatmap(
    lambda tower: st.fixed_dictionaries(
        {"num_hidden_layers": sizes, "image_size": lengths, "adapter_bias": st.booleans()},
        optional={"max_image_size": lengths, "image_break_token_id": st.integers(-1, 20)},
    ).map(lambda changes: {**tower, **changes})
)
texts = st.fixed_dictionaries(
    {
        "dim": sizes,
        "n_layers": st.sampled_from([2, 4, 6]),
        "n_kv_heads": sizes,
        "rope_theta": positive,
        "norm_eps": st.floats(1e-9, 1),
    },
    optional={
        "tied_embeddings": st.booleans(),
        "yarn": yarns,
        "max_position_embeddings": lengths,
        "max_seq_len": lengths,
        "vision_encoder": towers,
        "dtype": st.sampled_from(["bfloat16", "float16"]),
        "moe": st.fixed_dictionaries({"num_experts": sizes, "num_experts_per_tok": sizes}),
        "use_biases": st.just(False),
        "model_parallel": sizes,
        "something_new": st.none()
        | st.lists(sizes)
        | st.dictionaries(st.sampled_from("ab"), sizes),
        "sliding_window": st.none() | lengths,
    },
)


@given(texts)
def test_any_params_come_back(changes: Json) -> None:
    """Whatever a native file says comes back, by what native readers take of silence."""
    params = {**TEXT, **changes}
    found, expected = said(back(to_config(params))), said(params)
    assert {path: found.get(path) for path in expected} == expected


@pytest.mark.parametrize("windows", [[None, 8], [8, 8, 8, None], [None, None, 8, 8]])
def test_window_patterns_come_back(windows: list[int | None]) -> None:
    """Per layer, in the class of transformers that heeds them."""
    config = to_config({**TEXT, "sliding_window": windows})
    assert back(config)["sliding_window"] == windows
    meant = [windows[layer % len(windows)] for layer in range(TEXT["n_layers"])]
    assert layer_windows(loaded(config)) == meant


def test_the_older_name_of_the_window() -> None:
    """`_sliding_window` of Ministral-8B is the window for mistral-inference."""
    params = {**TEXT, "_sliding_window": [None, 8]}
    assert to_config(params) == to_config({**TEXT, "sliding_window": [None, 8]})


def test_flat_vision_fields() -> None:
    """`multimodal` may be the vision encoder itself, for vLLM."""
    assert to_config({**TEXT, "multimodal": MERGED}) == to_config(
        {**TEXT, "vision_encoder": MERGED}
    )


# --- what transformers makes of it ---


@pytest.mark.parametrize("name", CLASSES)
def test_class(name: str) -> None:
    """Class by content."""
    assert type(model_of(to_config(FAMILIES[name]))).__name__ == CLASSES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_geometry(name: str) -> None:
    """Shapes of the modules, [out, in], from the sizes of params.json."""
    params = FAMILIES[name]
    state = model_of(to_config(params)).state_dict()
    shapes = {key.split("language_model.")[-1]: tuple(t.shape) for key, t in state.items()}
    shapes |= {key.removeprefix("model."): shape for key, shape in shapes.items()}
    for module, shape in expected_shapes(params):
        assert shapes[f"{module}.weight"] == shape


def expected_shapes(params: Json) -> Any:
    """(module, shape) of some module of each kind."""
    dim, hidden, layer = params["dim"], params["hidden_dim"], "layers.0"
    yield "embed_tokens", (params["vocab_size"], dim)
    if "moe" not in params:
        yield f"{layer}.mlp.gate_proj", (hidden, dim)
    yield from latent(params) if "kv_lora_rank" in params else grouped(params)
    if "vision_encoder" in params:
        yield from seen(params["vision_encoder"], dim)
    if "multimodal" in params:
        yield from heard(params["multimodal"]["whisper_model_args"], params)


def grouped(params: Json) -> Any:
    """Attention of the text model."""
    dim, size, attention = params["dim"], params["head_dim"], "layers.3.self_attn"
    yield f"{attention}.q_proj", (params["n_heads"] * size, dim)
    yield f"{attention}.k_proj", (params["n_kv_heads"] * size, dim)
    yield f"{attention}.v_proj", (params["n_kv_heads"] * size, dim)
    yield f"{attention}.o_proj", (dim, params["n_heads"] * size)
    if "moe" in params:
        yield "layers.3.mlp.gate", (params["moe"]["num_experts"], dim)


def latent(params: Json) -> Any:
    """Latent attention, routed and shared experts; the first layers are dense."""
    dim, heads, moe = params["dim"], params["n_heads"], params["moe"]
    nope, rope, value = (params[f"{k}_head_dim"] for k in ("qk_nope", "qk_rope", "v"))
    attention, q_rank, kv_rank = "layers.3.self_attn", params["q_lora_rank"], params["kv_lora_rank"]
    yield f"{attention}.q_a_proj", (q_rank, dim)
    yield f"{attention}.q_b_proj", (heads * (nope + rope), q_rank)
    yield f"{attention}.kv_a_proj_with_mqa", (kv_rank + rope, dim)
    yield f"{attention}.kv_b_proj", (heads * (nope + value), kv_rank)
    yield f"{attention}.o_proj", (dim, heads * value)
    yield "layers.0.mlp.gate_proj", (params["hidden_dim"], dim)
    yield "layers.1.mlp.gate", (moe["num_experts"], dim)
    shared = moe["num_shared_experts"] * moe["expert_hidden_dim"]
    yield "layers.1.mlp.shared_experts.gate_proj", (shared, dim)


def seen(vision: Json, dim: int) -> Any:
    """Vision tower and projector."""
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    yield "vision_tower.patch_conv", (hidden, vision["num_channels"], patch, patch)
    feed_forward = "vision_tower.transformer.layers.1.feed_forward"
    yield f"{feed_forward}.gate_proj", (vision["intermediate_size"], hidden)
    yield "multi_modal_projector.linear_1", (dim, hidden)
    if merged := vision.get("spatial_merge_size"):
        merger = "multi_modal_projector.patch_merger.merging_layer"
        yield merger, (hidden, hidden * merged**2)


def heard(whisper: Json, params: Json) -> Any:
    """Audio tower and projector."""
    encoder, factor = whisper["encoder_args"], whisper["downsample_args"]["downsample_factor"]
    dim, inner = encoder["dim"], encoder["n_heads"] * encoder["head_dim"]
    yield "audio_tower.layers.1.self_attn.q_proj", (inner, dim)
    name = "mlp.gate_proj" if encoder.get("causal") else "fc1"
    yield f"audio_tower.layers.1.{name}", (encoder["hidden_dim"], dim)
    yield "multi_modal_projector.linear_1", (params["dim"], factor * dim)


@pytest.mark.parametrize("name", FAMILIES)
def test_models_run(name: str) -> None:
    """No key that a forward pass needs is missing (llama_4_scaling_beta must not be null)."""
    model = model_of(to_config(FAMILIES[name], "float32"), "cpu")
    inputs: Json = {"input_ids": torch.tensor([[1, 20, 30, 40]])}
    if name == "voxtral_realtime":
        frames = (
            4
            * 2
            * FAMILIES[name]["multimodal"]["whisper_model_args"]["downsample_args"][
                "downsample_factor"
            ]
        )
        inputs |= {"input_features": torch.zeros(1, 16, frames), "num_delay_tokens": 6}
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_latent_attention_scale() -> None:
    """As vLLM's native reader: apply_scale scales the logits, and no cosine or sine."""
    for apply_scale, name in ((True, "mistral4"), (False, "mistral4, unscaled")):
        rope = loaded(to_config(FAMILIES[name])).rope_parameters
        scale = (0.1 * torch.log(torch.tensor(8.0)).item() + 1) ** 2 if apply_scale else 1.0
        assert yarn_apply_mscale(rope, 1.0) == pytest.approx(scale)
        _, factor = ROPE_INIT_FUNCTIONS["yarn"](loaded(to_config(FAMILIES[name])), None)
        assert factor == 1.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_position_embeddings": 7}, 7),
        ({}, 128_000),
        ({"yarn": YARN}, 8 * 64),
        ({"model_max_length": 9}, 9),
        ({"yarn": YARN, "max_seq_len": 10}, 10),
    ],
)
def test_positions(changes: Json, expected: int) -> None:
    """What stands in for a max_position_embeddings that is not there."""
    text = {key: value for key, value in TEXT.items() if key != "max_position_embeddings"}
    assert to_config({**text, **changes})["max_position_embeddings"] == expected


def test_ids() -> None:
    """Those of the tokenizer, or of every tekken.json."""
    text = to_config(FAMILIES["mistral3"])["text_config"]
    assert [text[f"{k}_token_id"] for k in ("bos", "eos", "pad")] == [1, 2, 11]
    config = to_config(TEXT, ids={"bos_token_id": 5})
    assert config["bos_token_id"] == 5
    assert "pad_token_id" not in config


def test_explicit_where_silence_means_otherwise() -> None:
    """Defaults of the classes: a window of 4096, tied embeddings, gelu, a q_lora_rank of 1024."""
    config = to_config(FAMILIES["mistral3"])
    assert config["text_config"]["sliding_window"] is None
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    assert config["vision_config"]["hidden_act"] == config["text_config"]["hidden_act"] == "silu"
    latent = {k: v for k, v in FAMILIES["mistral4"].items() if k != "q_lora_rank"}
    assert to_config(latent)["q_lora_rank"] is None
    assert "q_lora_rank" not in back(to_config(latent))


# --- refusals ---


LATENT = {"kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        (
            {
                "yarn": YARN,
                "llama_4_scaling": {**QUERY_SCALING, "original_max_position_embeddings": 9},
            },
            "yarn.original_max_position_embeddings: 64 cannot be carried",
        ),
        ({"rope_theta": None}, "rope_theta: is missing"),
        ({"activation": "gelu"}, "activation: 'gelu' cannot be carried"),
        ({"use_biases": True}, "use_biases: True cannot be carried"),
        ({"model_type": "mamba"}, "model_type: 'mamba' cannot be carried"),
        ({"v_head_dim": 4}, "v_head_dim: 4 cannot be carried"),
        ({"sliding_window": [4, 8]}, "sliding_window: [4, 8] has several sizes"),
        ({"sliding_window": [None, 8, 8]}, "sliding_window: [None, 8, 8] does not divide"),
        (
            {"sliding_window": [None, 8], "llama_4_scaling": QUERY_SCALING},
            "sliding_window: [None, 8] is",
        ),
        ({"sliding_window": [None, 8], "vision_encoder": MERGED}, "sliding_window: [None, 8] is"),
        ({"yarn": {**YARN, "foo": 1}}, "yarn: Additional properties"),
        (
            {"vision_encoder": MERGED, "multimodal": {"whisper_model_args": WHISPER}},
            "vision_encoder",
        ),
        (
            {"vision_encoder": {**MERGED, "add_pre_mm_projector_layer_norm": False}},
            "vision_encoder.add_pre_mm_projector_layer_norm: False cannot be carried",
        ),
        (
            {"vision_encoder": {**PIXTRAL, "spatial_merge_size": 2}},
            "vision_encoder.spatial_merge_size: 2 cannot be carried: llava",
        ),
        (LATENT, "moe.num_shared_experts: no class of transformers"),
        (
            {"moe": {"num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1}},
            "moe.num_shared_experts: 1 cannot be carried: mixtral",
        ),
        ({"moe": {"num_experts": 4}}, 'moe: "num_experts_per_tok" is a required property'),
    ],
)
def test_params_that_config_cannot_say(changes: Json, place: str) -> None:
    """Each by its path in params.json."""
    assert refusal({**TEXT, **changes}).startswith(place)


@pytest.mark.parametrize(
    ("name", "section", "changes"),
    [
        ("mistral4", "", {"head_dim": 16}),
        ("mistral4", "", {"sliding_window": 8}),
        ("mistral4", "", {"yarn": None}),
        ("mixtral", "", {"llama_4_scaling": QUERY_SCALING}),
        ("mixtral", "moe", {"route_every_n": 2}),
        ("voxtral", "", {"sliding_window": 8}),
        ("voxtral", "multimodal.whisper_model_args.encoder_args", {"head_dim": 4}),
        ("voxtral", "multimodal.whisper_model_args.encoder_args", {"n_kv_heads": 2}),
        ("voxtral", "multimodal.whisper_model_args.downsample_args", {"downsample_factor": 2}),
        ("voxtral_realtime", "", {"ada_rms_norm_t_cond_dim": 64}),
        ("voxtral_realtime", "multimodal.whisper_model_args.encoder_args", {"n_kv_heads": 2}),
        ("voxtral_realtime", "multimodal.whisper_model_args.encoder_args", {"ffn_type": "gelu"}),
    ],
)
def test_params_that_a_class_cannot_say(name: str, section: str, changes: Json) -> None:
    """What the class takes otherwise, or has no place for."""
    params = json.loads(json.dumps(FAMILIES[name]))
    holder = params
    for key in section.split(".") if section else ():
        holder = holder[key]
    holder |= changes
    assert refusal(params).startswith(".".join(filter(None, (section, next(iter(changes))))))


@pytest.mark.parametrize(
    "extras",
    [{"dim": 65}, {"dim": {"x": 1}}, {"vision_encoder": 3}, {"vision_encoder": {"rope_theta": 1}}],
)
def test_extras_must_not_contradict(extras: Json) -> None:
    """They add to the config, and change nothing of it."""
    config = {**to_config(FAMILIES["mistral3"]), "mistral_extras": extras}
    with pytest.raises(MmfmtError, match=r"^config.json: mistral_extras\.\S+: .* rest of the file"):
        back(config)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)


@given(st.sampled_from(sorted(FAMILIES)), st.data())
def test_any_params_are_converted_or_refused(name: str, data: Any) -> None:
    """Nothing but MmfmtError comes of a params.json, whatever its values."""
    flat = flatten(FAMILIES[name])
    path = data.draw(st.sampled_from(sorted(flat)))
    section = path.partition(".")[0]
    changed = data.draw(values | st.lists(values, max_size=2) | st.just({}))
    for params in ({**FAMILIES[name], section: changed}, nest({**flat, path: changed})):
        try:
            back(to_config(params))
        except MmfmtError as error:
            assert str(error).startswith("params.json")


@pytest.mark.parametrize("field", ["kv_lora_rank", "qk_rope_head_dim", "v_head_dim"])
def test_latent_attention_needs_all_its_sizes(field: str) -> None:
    """One that is missing, or null, is named."""
    latent = FAMILIES["mistral3, latent"]
    for params in ({k: v for k, v in latent.items() if k != field}, {**latent, field: None}):
        assert f'"{field}" is a required property' in refusal(params)


def test_a_partial_params_file_is_refused() -> None:
    """By the first field that is missing."""
    name = "Mistral-Large-3-675B-Instruct-2512.params.partial.json"
    assert "is a required property" in refusal(builders.read_json(builders.PUBLISHED / name))
