"""config.json to params.json and back, by what transformers makes of both."""

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
from mmfmt.schemas import validate
from tests import builders
from tests.understood import back, layer_windows, loaded

Json = dict[str, Any]

sizes = st.integers(1, 9)
lengths = st.integers(1, 10**6)

# says nothing of weights or arithmetic, is judged apart, or is a class of the same arithmetic
# under another name
SILENT = {
    *("_name_or_path", "transformers_version", "architectures", "mistral_extras", "model_type"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "image_seq_length"),
    *("rope_parameters", "sliding_window", "layer_types", "tie_word_embeddings", "dtype"),
    *("text_config", "vision_config", "audio_config"),
}


def meaning(body: Json) -> Any:
    """A config.json as transformers' classes understand it: sizes, windows, ropes, ties."""
    config = loaded(body)
    found = (getattr(config, part, None) for part in ("vision_config", "audio_config"))
    towers = [tower for tower in found if tower]
    text = config.get_text_config()
    return (
        [known_values(part) for part in (config, text, *towers)],
        bool(getattr(config, "tie_word_embeddings", False)),
        layer_windows(text),
        rotary(text),
        [getattr(tower, "sliding_window", None) for tower in towers],
        [
            tower.rope_parameters["rope_theta"]
            for tower in towers
            if hasattr(tower, "rope_parameters")
        ],
    )


def known_values(config: Any) -> Json:
    """The attributes that the class of a config knows of."""
    return {key: getattr(config, key) for key in type(config)().to_dict() if key not in SILENT}


def rotary(text: Any) -> Any:
    """Rotary frequencies and every factor of attention, as the text model computes them."""
    rope = text.rope_parameters
    beta = rope.get("llama_4_scaling_beta") or 0
    scaling = (beta, rope["original_max_position_embeddings"]) if beta else None
    if rope["rope_type"] == "default":
        return rope["rope_theta"], scaling
    frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](text, torch.device("cpu"))
    logits = yarn_apply_mscale(rope, 1.0) if text.model_type == "mistral4" else 1.0
    return frequencies.tolist(), pytest.approx(factor), pytest.approx(logits), scaling


heads = st.sampled_from([1, 2, 4])
even = st.sampled_from([2, 8, 16])


@st.composite
def ropes(draw: Any, kind: str) -> Json:
    """rope_parameters of a text model as its class may have them."""
    rope = {"rope_type": "default", "rope_theta": draw(st.sampled_from([1e4, 1e6, 123456.0]))}
    scales = kind in ("ministral3", "mistral4")
    if kind == "mistral4" or draw(st.booleans()):
        applied, cancelled = (
            {"mscale": 1.0, "mscale_all_dim": 0.0},
            {"mscale": 1.0, "mscale_all_dim": 1.0},
        )
        if kind == "mistral4":
            applied["attention_factor"] = 1.0
        rope |= {
            "rope_type": "yarn",
            "factor": draw(st.sampled_from([1.0, 2.5, 16.0])),
            "beta_fast": draw(st.sampled_from([4.0, 32.0])),
            "beta_slow": draw(st.sampled_from([0.5, 1.0])),
            **draw(st.sampled_from([applied, cancelled])),
        }
    if scales or rope["rope_type"] == "yarn":
        rope["original_max_position_embeddings"] = draw(st.sampled_from([16, 8192]))
    if scales:
        rope["llama_4_scaling_beta"] = draw(st.sampled_from([0.0, 0.1]))
    return rope


@st.composite
def text_configs(draw: Any, kind: str) -> Json:
    """Arguments of transformers' class of a text model."""
    count = draw(heads)
    body: Json = {
        "hidden_size": 8 * count,
        "num_attention_heads": count,
        "num_key_value_heads": draw(st.sampled_from([1, count])),
        "intermediate_size": draw(sizes),
        "num_hidden_layers": draw(st.sampled_from([2, 4])),
        "vocab_size": draw(st.integers(20, 99)),
        "max_position_embeddings": draw(lengths),
        "rms_norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "rope_parameters": draw(ropes(kind)),
    }
    if kind in ("mistral4", "mixtral"):
        body |= draw(expert_configs(kind))
    if kind != "mistral4":
        body["head_dim"] = draw(even)
    if kind not in ("mistral4", "llama"):
        body["sliding_window"] = draw(st.none() | lengths)
    if kind == "ministral":
        types = st.sampled_from(["full_attention", "sliding_attention"])
        count = body["num_hidden_layers"]
        body["layer_types"] = draw(st.lists(types, min_size=count, max_size=count))
    return body


@st.composite
def expert_configs(draw: Any, kind: str) -> Json:
    """Experts, and the latent attention that comes with shared ones."""
    if kind == "mixtral":
        return {"num_local_experts": draw(sizes), "num_experts_per_tok": draw(sizes)}
    names = (
        *("moe_intermediate_size", "n_routed_experts", "n_shared_experts", "num_experts_per_tok"),
        *("kv_lora_rank", "v_head_dim", "qk_nope_head_dim", "n_group", "topk_group"),
    )
    return {
        **{name: draw(sizes) for name in names},
        "qk_rope_head_dim": draw(even),
        "q_lora_rank": draw(st.none() | sizes),
        "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
        "first_k_dense_replace": draw(st.integers(0, 2)),
    }


@st.composite
def tower_configs(draw: Any, kind: str) -> Json:
    """The keys of a multimodal config beside its text model."""
    count = draw(heads)
    tower = {"num_hidden_layers": draw(sizes), "num_attention_heads": count}
    if kind == "voxtral":
        hidden = 8 * count
        frames = {"max_source_positions": draw(lengths), "vocab_size": draw(lengths)}
        tower |= {"hidden_size": hidden, "intermediate_size": hidden * draw(sizes), **frames}
        return {"audio_config": {**tower, "num_mel_bins": draw(sizes)}, "audio_token_id": 24}
    if kind == "voxtral_realtime":
        rope = {"rope_type": "default", "rope_theta": draw(st.sampled_from([1e4, 1e6]))}
        tower |= {
            "hidden_size": draw(sizes),
            "intermediate_size": draw(sizes),
            "head_dim": draw(even),
        }
        tower |= {"sliding_window": draw(lengths), "rope_parameters": rope, "rms_norm_eps": 1e-6}
        return {"audio_config": tower, "downsample_factor": draw(sizes)}
    tower |= {"hidden_size": count * draw(even), "intermediate_size": draw(sizes)}
    tower |= {"image_size": draw(lengths), "patch_size": draw(sizes), "num_channels": draw(sizes)}
    tower |= {"model_type": "pixtral", "hidden_act": "silu"}
    body = {"vision_config": tower, "multimodal_projector_bias": draw(st.booleans())}
    body["image_token_index"] = draw(st.integers(0, 19))
    if kind == "llava":
        return {**body, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    return {**body, "spatial_merge_size": draw(sizes)}


TEXT_KINDS = ("mistral", "ministral", "ministral3", "mixtral", "mistral4")
WHOLE_KINDS = {
    "mistral3": ("mistral", "ministral3", "mistral4"),
    "llava": ("mistral", "ministral3"),
    "voxtral": ("llama",),
    "voxtral_realtime": ("voxtral_realtime_text",),
}


@st.composite
def hf_configs(draw: Any, kind: str) -> Json:
    """A config.json as transformers' own classes write it."""
    tied = {"tie_word_embeddings": draw(st.booleans())}
    if kind in TEXT_KINDS:
        body = {"model_type": kind, **draw(text_configs(kind)), **tied}
    else:
        text_type = draw(st.sampled_from(WHOLE_KINDS[kind]))
        text = {"model_type": text_type, **draw(text_configs(text_type))}
        body = {"model_type": kind, "text_config": text, **draw(tower_configs(kind)), **tied}
    values: Json = json.loads(
        transformers.AutoConfig.for_model(kind, **_rest(body)).to_json_string()
    )
    return values


def _rest(body: Json) -> Json:
    return {key: value for key, value in body.items() if key != "model_type"}


@pytest.mark.parametrize("kind", [*TEXT_KINDS, *WHOLE_KINDS])
@given(data=st.data())
def test_configs_of_transformers_come_back(kind: str, data: Any) -> None:
    """Every size, rope, window and tie, by what transformers makes of both."""
    body = data.draw(hf_configs(kind))
    params = back(body)
    validate(params, "params", "params.json")
    again = to_config(params)
    assert meaning(again) == meaning(body)
    assert back(again) == params


@pytest.mark.parametrize(
    "name", sorted(path.name for path in builders.PUBLISHED.glob("*.config.json"))
)
def test_published_configs_come_back(name: str) -> None:
    """Likewise; a tie_word_embeddings that the file lacks is told by the tensors."""
    body = builders.read_json(builders.PUBLISHED / name)
    body.pop("quantization_config", None)
    body.setdefault("tie_word_embeddings", False)
    assert meaning(to_config(back(body))) == meaning(body)
