"""Conversions of what not every family has: other spellings, stacks, draft heads, extras."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests import builders
from tests.conftest import WEIGHTS_ONLY, Run
from tests.test_roundtrip import bits, succeed
from tests.test_schemes_families import POSITIONS, experts_apart, quantized

# --- other spellings and stacks ---


def rename(folder: Path, names: dict[str, str]) -> None:
    """Other names for parts of a consolidated set's tensors."""
    tensors = builders.load_set(folder, "consolidated")
    for old, new in names.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    builders.save_set(folder, [tensors], "consolidated")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("mixtral", {".feed_forward.experts.": ".experts.", ".feed_forward.gate.": ".gate."}),
        ("voxtral", {"mm_whisper_embeddings.tok_embeddings": "tok_embeddings"}),
    ],
)
def test_other_native_spellings(
    tmp_path: Path, to_consolidated: Run, to_hf: Run, kind: str, names: dict[str, str]
) -> None:
    """Read like the one that is written."""
    builders.save_model(tmp_path / "hf", kind)
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "native"))
    succeed(to_hf(tmp_path / "native", tmp_path / "back"))
    before = bits(tmp_path / "native", "consolidated")
    rename(tmp_path / "native", names)
    assert bits(tmp_path / "native", "consolidated").keys() != before.keys()
    succeed(to_hf(tmp_path / "native", tmp_path / "again"))
    assert bits(tmp_path / "again") == bits(tmp_path / "back")


def fp8_experts(folder: Path) -> Path:
    """A mistral4 model in FP8 as transformers stacks it: one scale for gate and up."""
    builders.save_model(folder, "mistral4")
    tensors: builders.Tensors = {}
    for name, tensor in builders.load_set(folder).items():
        module = name.removesuffix(".weight")
        if ".experts." in name:
            scale = (tensor.abs().amax((1, 2), keepdim=True) / 448).to(torch.bfloat16)
            tensors[f"{name}_scale_inv"] = scale
            tensors[f"{name}_activation_scale"] = scale.flatten() * 2
        elif "_proj" in name:
            scale = (tensor.abs().max() / 448).to(torch.bfloat16)
            tensors[f"{module}.weight_scale_inv"] = scale
            tensors[f"{module}.activation_scale"] = scale * 2
        quantized = ".experts." in name or "_proj" in name
        tensors[name] = (tensor / scale).to(torch.float8_e4m3fn) if quantized else tensor
    builders.save_set(folder, [tensors])
    section = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    builders.edit_config(folder, quantization_config=section)
    return folder


def test_fp8_experts(tmp_path: Path, to_consolidated: Run, to_hf: Run) -> None:
    """Stacks and their scales come apart and together again."""
    source = fp8_experts(tmp_path / "hf")
    succeed(to_consolidated(source, tmp_path / "native"))
    found = builders.load_set(tmp_path / "native", "consolidated")
    stacked = builders.load_set(source)
    scale = stacked["model.layers.1.mlp.experts.gate_up_proj_scale_inv"]
    for expert in range(3):
        for part in ("w1", "w3"):
            ours = found[f"layers.1.experts.{expert}.{part}.qscale_weight"]
            assert torch.equal(ours.flatten(), scale[expert].flatten())
    succeed(to_hf(tmp_path / "native", tmp_path / "back"))
    assert bits(tmp_path / "back") == bits(source)


def test_experts_with_scales_of_their_own(tmp_path: Path, to_consolidated: Run, to_hf: Run) -> None:
    """gate and up with two scales do not fit into one stack: refused, not requantized."""
    succeed(to_consolidated(fp8_experts(tmp_path / "hf"), tmp_path / "native"))
    tensors = builders.load_set(tmp_path / "native", "consolidated")
    tensors["layers.1.experts.1.w3.qscale_weight"] *= 2
    builders.save_set(tmp_path / "native", [tensors], "consolidated")
    error = to_hf(tmp_path / "native", tmp_path / "out").error
    assert "layers.1.experts.1.w3.qscale_weight: differ" in error
    assert not (tmp_path / "out").exists()


def test_mixtral_is_not_read_by_vllm(tmp_path: Path, to_consolidated: Run) -> None:
    """It converts, and says so."""
    builders.save_model(tmp_path / "hf", "mixtral")
    outcome = to_consolidated(tmp_path / "hf", tmp_path / "native")
    assert outcome.code == 0
    assert "warning: vLLM has no map of native Mixtral names" in outcome.err


# --- rows ---

TEXT_ROWS = {r"layers\.\d\.attention\.wq\.weight": 4, r"layers\.\d\.attention\.wk\.weight": 2}
ENCODER = r"mm_streams_embeddings\.embedding_module\.whisper_encoder\.transformer\.layers\.\d"
# consolidated tensors whose rows are pairs side by side, by their number of heads: what
# transformers' weight converters of each model permute. The rest is the same in both layouts.
ROWS = {
    "mixtral": TEXT_ROWS,
    "mistral4": {},
    "mistral3 with mistral4": {r"vision_encoder.*\.attention\.w[qk]\.weight": 2},
    "voxtral": TEXT_ROWS,
    "voxtral_realtime": TEXT_ROWS
    | {ENCODER + r"\.attention\.wq\.(weight|bias)": 2, ENCODER + r"\.attention\.wk\.weight": 2},
}


@pytest.mark.parametrize("kind", builders.OTHER_KINDS)
def test_rows(tmp_path: Path, to_consolidated: Run, kind: str) -> None:
    """Exactly these tensors change, and by exactly this permutation."""
    builders.save_model(tmp_path / "hf", kind)
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "native"))
    source = experts_apart(builders.load_set(tmp_path / "hf"))
    source.pop(POSITIONS, None)
    found = builders.load_set(tmp_path / "native", "consolidated")
    moved = set()
    for name, tensor in found.items():
        for pattern, heads in ROWS[kind].items():
            if re.fullmatch(pattern, name):
                found[name] = builders.to_hf_rows(tensor, heads)
                moved.add(pattern)
    assert moved == ROWS[kind].keys()
    before, after = (Counter(map(builders.bits_of, t.values())) for t in (source, found))
    assert after == before


def test_quantized_latent_hf_layout_is_not_read_by_vllm(
    tmp_path: Path, to_consolidated: Run, to_hf: Run
) -> None:
    """With vision, that is: it converts, and says so; unquantized there is nothing to say."""
    said = "warning: vLLM's HF loader heeds no ignore list inside Mistral4"
    for scheme, expected in ((None, False), ("W4", True)):
        source = tmp_path / str(scheme)
        if scheme:
            quantized(source, "mistral3 with mistral4", scheme)
        else:
            builders.save_model(source, "mistral3 with mistral4")
        succeed(to_consolidated(source, native := source / "native"))
        outcome = to_hf(native, source / "back")
        succeed(outcome)
        assert (said in outcome.err) is expected


# --- draft heads ---


@pytest.fixture(params=["ministral3", "mistral4"])
def draft(request: pytest.FixtureRequest, tmp_path: Path, to_consolidated: Run) -> Path:
    """An EAGLE draft head, dense or latent: layers, a projection, no embeddings of its own."""
    builders.save_model(tmp_path / "hf", request.param)
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "eagle"))
    tensors = builders.load_set(tmp_path / "eagle", "consolidated")
    tensors["eagle_linear.weight"] = torch.randn(64, 128).to(torch.bfloat16)
    del tensors["tok_embeddings.weight"], tensors["output.weight"]
    builders.save_set(tmp_path / "eagle", [tensors], "consolidated")
    return tmp_path / "eagle"


def test_draft_heads_have_no_hf_layout(tmp_path: Path, draft: Path, run: Run) -> None:
    """Good as they are, and refused by name."""
    outcome = run("verify", draft, *WEIGHTS_ONLY)
    assert outcome.code == 0, outcome.out
    error = run("convert", "consolidated-to-hf", draft, tmp_path / "out").error
    assert "no Hugging Face layout is known for models of the eagle" in error


def test_draft_heads_are_reordered(tmp_path: Path, draft: Path, run: Run) -> None:
    """Unquantized, a draft head has the same rows for every reader."""
    succeed(run("convert", "reorder", draft, tmp_path / "out", "--reader", "native"))
    assert bits(tmp_path / "out", "consolidated") == bits(draft, "consolidated")
    assert run("verify", tmp_path / "out", *WEIGHTS_ONLY).code == 0


# --- extra tensors ---


def test_left_behind(tmp_path: Path, to_consolidated: Run) -> None:
    """Buffers and leftovers are dropped, and counted by their reasons."""
    builders.save_model(tmp_path / "hf", "mistral", tie_word_embeddings=True)
    plain = tmp_path / "plain"
    succeed(to_consolidated(tmp_path / "hf", plain))
    extra = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) + n for n in (0, 1)}
    extra["model.layers.0.self_attn.k_fake_quantizer.qscale_act"] = torch.ones(1)
    extra["lm_head.weight"] = torch.ones(64, 64)
    builders.edit_tensors(tmp_path / "hf", extra)
    outcome = to_consolidated(tmp_path / "hf", tmp_path / "out")
    assert outcome.code == 0
    assert "inv_freq and 1 more: rotary frequencies are computed from the config" in outcome.err
    assert "k_fake_quantizer.qscale_act: a leftover of quantization-aware" in outcome.err
    assert "dropped lm_head.weight: the config ties it to the embeddings" in outcome.err
    assert bits(tmp_path / "out", "consolidated") == bits(plain, "consolidated")


def test_first_mixtral_release(tmp_path: Path, to_consolidated: Run, to_hf: Run) -> None:
    """Stacked experts of consolidated.NN.pt, put into safetensors: refused with a way out."""
    builders.save_model(tmp_path / "hf", "mixtral")
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "native"))
    tensors = builders.load_set(tmp_path / "native", "consolidated")
    tensors["layers.0.block_sparse_moe.w1"] = torch.zeros(288, 64)
    builders.save_set(tmp_path / "native", [tensors], "consolidated")
    error = to_hf(tmp_path / "native", tmp_path / "out").error
    assert "block_sparse_moe.w1: cannot be converted: experts stacked as in the first" in error
