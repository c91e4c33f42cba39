"""Every model family: names and shapes against transformers' classes and known inventories."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfmt.configs import open_config, to_params
from mmfmt.layout import Family, Row, Slots, families, family, flatten
from mmfmt.naming import Naming, detect_hf, detect_native, hf_namings, native
from mmfmt.schemas import table
from mmfmt.stacks import match_stack, views
from tests import builders
from tests.conftest import Run
from tests.test_roundtrip import bits, succeed

ENCODER = "multimodal.whisper_model_args.encoder_args"
# two of everything that is counted, so that every slot takes part
COUNTS = {
    **{"n_layers": 2, "vision_encoder.num_hidden_layers": 2, f"{ENCODER}.n_layers": 2},
    **{"moe.num_experts": 2, "moe.first_k_dense_replace": 1},
}
NAMINGS = [
    pytest.param(naming, id=naming.label)
    for each in families()
    for naming in (native(each), *hf_namings(each))
]


def instances(naming: Naming, symbols: dict[str, Any]) -> Iterator[tuple[Row, Slots, str]]:
    """Every module that a naming has a name for."""
    for row in naming.family.rows:
        if naming.has(row):
            yield from ((r, s, naming.module(r, s)) for r, s in _slots(row, symbols))


def _slots(row: Row, symbols: dict[str, Any]) -> Iterator[tuple[Row, Slots]]:
    return ((row, slots) for slots in row.instances(symbols))


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_are_bijective(naming: Naming) -> None:
    """Each name leads back to one row, its slots and suffix; no two modules share one."""
    seen: set[str] = set()
    for row, slots, module in instances(naming, COUNTS):
        assert module not in seen
        seen.add(module)
        for suffix in table("suffixes"):
            match = naming.match(f"{module}.{suffix}")
            assert match is not None
            assert (match.row, match.slots, match.suffix) == (row, slots, suffix)
    assert len(seen) >= 17


@pytest.mark.parametrize("each", families(), ids=lambda each: each.label)
def test_detected_by_its_own_names(each: Family) -> None:
    """Of all families, the one that the names were made from."""
    names = [f"{module}.weight" for _, _, module in instances(native(each), COUNTS)]
    assert detect_native(names) is native(each)
    for naming in hf_namings(each):
        names = [f"{module}.weight" for _, _, module in instances(naming, COUNTS)]
        assert detect_hf(names).family is each


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


@pytest.mark.parametrize("kind", builders.OTHER_KINDS)
def test_state_dicts_of_transformers(kind: str) -> None:
    """Every parameter in memory is one row's (or a stack's), of the shape the table gives."""
    config = builders.model_config(kind, SIZES[kind])
    with torch.device("meta"):
        state = builders.build_model(config).state_dict()
    body = json.loads(config.to_json_string())
    tied = kind == "voxtral_realtime"
    symbols = flatten(to_params(open_config(body), has_output=not tied))
    naming = detect_hf(state)
    found: dict[tuple[str, Slots, str], tuple[int, ...]] = {}
    for name, tensor in state.items():
        if name != "lm_head.weight" or not tied:
            found |= dict(_parts(naming, name, tuple(tensor.shape)))
    expected = {
        (row.native, slots, suffix): shape
        for row, slots, _ in instances(naming, symbols)
        if row.required and row.expected(symbols)
        for suffix, shape in _parameters(row, symbols)
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


def _parameters(row: Row, symbols: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    shape = row.weight_shape(symbols)
    yield "weight", shape
    if row.has_bias(symbols):
        yield "bias", shape[:1]


# --- inventories ---


def published(name: str) -> dict[str, Any]:
    """Sizes of a published params.json."""
    body = builders.read_json(builders.PUBLISHED / f"{name}.params.json")
    return {key: value for key, value in flatten(body).items() if value is not None}


def test_inventory_of_voxtral_realtime() -> None:
    """All 711 tensors, their names and shapes."""
    name = "Voxtral-Mini-4B-Realtime-2602"
    with gzip.open(builders.PUBLISHED / f"{name}.inventory.json.gz") as file:
        tensors = json.load(file)["tensors"]
    symbols, naming = published(name), native(family("voxtral_realtime"))
    assert detect_native(row[0] for row in tensors) is naming
    expected = {
        f"{module}.{suffix}": list(shape)
        for row, slots, module in instances(naming, symbols)
        if row.required and row.expected(symbols)
        for suffix, shape in _parameters(row, symbols)
    }
    assert {row[0]: row[-2] for row in tensors} == expected
    assert len(tensors) == 711


def test_inventory_of_small_4() -> None:
    """56,313 tensors: experts quantized to NVFP4, everything else as it was."""
    symbols, naming = (
        published("Mistral-Small-4-119B-2603-NVFP4"),
        native(family("mla_moe_pixtral")),
    )
    quantized = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")
    names = [
        f"{module}.{suffix}"
        for row, _, module in instances(naming, symbols)
        if row.required and row.expected(symbols)
        for suffix in (quantized if "experts" in module else ("weight",))
    ]
    assert len(set(names)) == len(names) == 36 * 1558 + 3 + 222
    assert detect_native(names) is naming
    assert all(naming.match(name) for name in names)


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


# --- draft heads ---


@pytest.fixture
def draft(tmp_path: Path, to_consolidated: Run) -> Path:
    """A dense EAGLE draft head: two layers, a projection, no embeddings of its own."""
    builders.save_model(tmp_path / "hf", "ministral3")
    succeed(to_consolidated(tmp_path / "hf", tmp_path / "eagle"))
    tensors = builders.load_set(tmp_path / "eagle", "consolidated")
    tensors["eagle_linear.weight"] = torch.randn(64, 128).to(torch.bfloat16)
    del tensors["tok_embeddings.weight"], tensors["output.weight"]
    builders.save_set(tmp_path / "eagle", [tensors], "consolidated")
    return tmp_path / "eagle"


def test_draft_heads_have_no_hf_layout(tmp_path: Path, draft: Path, run: Run) -> None:
    """Good as they are, and refused by name."""
    assert run("verify", draft).code == 0, run("verify", draft).out
    error = run("convert", "consolidated-to-hf", draft, tmp_path / "out").error
    assert "no Hugging Face layout is known for models of the eagle family" in error


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
