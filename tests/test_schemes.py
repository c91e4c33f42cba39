"""Every quantization format: there and back bit for bit, and decompressed by others' code."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.entrypoints.convert.converters.modelopt_nvfp4 import (
    ModelOptNvfp4Converter,
)
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams

from tests import builders
from tests.conftest import WEIGHTS_ONLY, Run
from tests.test_roundtrip import bits, succeed

READERS = ("vllm", "native")
GEOMETRY = builders.Geometry(hidden=128, heads=4, kv_heads=2, head_dim=32, ff=192, layers=1)
HEADS = {"q_proj": 4, "k_proj": 2, "wq": 4, "wk": 2}
NATIVE = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
Tensors = builders.Tensors


def args(bits: int, kind: str, strategy: str, **more: Any) -> Any:
    """Arguments of compressed-tensors for symmetric weights or activations."""
    return QuantizationArgs(num_bits=bits, type=kind, strategy=strategy, **more)


FP4 = {"group_size": 16, "scale_dtype": torch.float8_e4m3fn}
MX = {"group_size": 32, "scale_dtype": torch.uint8}
WEIGHTS: dict[str, tuple[str, Any, Any]] = {
    "NVFP4": (
        "nvfp4-pack-quantized",
        args(4, "float", "tensor_group", **FP4),
        args(4, "float", "tensor_group", dynamic="local", **FP4),
    ),
    "NVFP4A16": ("nvfp4-pack-quantized", args(4, "float", "tensor_group", **FP4), None),
    "MXFP4": ("mxfp4-pack-quantized", args(4, "float", "group", **MX), None),
    "MXFP6": ("mxfp6-pack-quantized", args(6, "float", "group", **MX), None),
    "MXFP8": ("mxfp8-quantized", args(8, "float", "group", **MX), None),
    "FP8 block": (
        "float-quantized",
        args(8, "float", "block", block_structure=[64, 32]),
        args(8, "float", "group", group_size=32, dynamic=True),
    ),
    "naive FP8": ("naive-quantized", args(8, "float", "channel"), None),
    "naive INT8": ("naive-quantized", args(8, "int", "channel"), None),
    **{
        f"W{b}": (
            "pack-quantized",
            args(b, "int", "group", group_size=32, symmetric=b % 2 == 0),
            None,
        )
        for b in range(2, 9)
    },
}


def scheme(name: str) -> Any:
    """compressed-tensors' scheme of one of the names above."""
    form, weights, inputs = WEIGHTS[name]
    return QuantizationScheme(
        targets=["Linear"], weights=weights, input_activations=inputs, format=form
    )


def compressed(weight: torch.Tensor, scheme: Any, largest: float | None = None) -> Tensors:
    """The parameters that compressed-tensors writes for one weight.

    `largest` is what NVFP4's global scale is made for, the weight's own where not said.
    """
    weights, more = scheme.weights, {}
    state = {"weight": weight}
    if weights.strategy == "tensor_group":
        more["global_scale"] = torch.tensor([448 * 6 / (largest or weight.abs().max().item())])
        state["weight_global_scale"] = more["global_scale"]
    if weights.strategy == "block":
        rows, columns = weights.block_structure
        groups = weight.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
        low, high = groups.amin((1, 3)), groups.amax((1, 3))
    else:
        groups = weight.unflatten(1, (-1, weights.group_size or weight.shape[1]))
        low, high = groups.amin(-1), groups.amax(-1)
    scale, zero_point = calculate_qparams(low, high, weights, **more)
    state |= {"weight_scale": scale, "weight_zero_point": zero_point}
    found = dict(builders.compressor(scheme).compress(state, scheme))
    if scheme.input_activations and scheme.input_activations.dynamic == "local":
        found["input_global_scale"] = torch.tensor([123.5])
    return {suffix: tensor.contiguous() for suffix, tensor in found.items()}


def decompressed(parameters: Tensors, scheme: Any) -> torch.Tensor:
    """The weight that compressed-tensors computes with."""
    found = dict(parameters)
    found.pop("input_global_scale", None)
    return builders.compressor(scheme).decompress(found, scheme)["weight"].contiguous()


def quantized_repo(
    folder: Path, quantize: Callable[[torch.Tensor], Tensors], section: dict[str, Any]
) -> Path:
    """A tiny text model whose linear modules are quantized."""
    builders.save_model(folder, "mistral", GEOMETRY)
    tensors: Tensors = {}
    for name, tensor in builders.load_set(folder).items():
        if not builders.is_text_linear(name):
            tensors[name] = tensor
            continue
        found = quantize(tensor)
        tensors |= {f"{name.removesuffix('.weight')}.{s}": t for s, t in found.items()}
    builders.save_set(folder, [tensors])
    builders.edit_config(folder, quantization_config=section)
    return folder


def section_of(scheme: Any) -> dict[str, Any]:
    """The config section that compressed-tensors writes for a scheme."""
    return builders.quantization_config({"": scheme}, ["lm_head"])


def modules(folder: Path, stem: str) -> dict[str, Tensors]:
    """The quantized modules of a set, by the end of their names (`q_proj`, `wq`)."""
    found: dict[str, Tensors] = {}
    for name, tensor in builders.load_set(folder, stem).items():
        module, _, suffix = name.rpartition(".")
        if ".0." in module and "norm" not in module:
            found.setdefault(module.partition(".0.")[2], {})[suffix] = tensor
    return found


def to_hf_rows(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from native to HF order, of any dtype."""
    raw = tensor.contiguous().view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor
    return builders.to_hf_rows(raw, heads).contiguous().view(tensor.dtype)


def as_computed(found: Tensors, heads: int, reader: str, scheme: Any) -> torch.Tensor:
    """The weight in HF order that a reader of a consolidated module computes with."""
    if reader == "native":
        weight = decompressed(found, scheme)
        return to_hf_rows(weight, heads) if heads else weight
    loaded = dict(found)
    for suffix in {"weight", "qscale_weight"} & found.keys():  # what vLLM permutes at load
        loaded[suffix] = to_hf_rows(found[suffix], heads) if heads else found[suffix]
    if "qscale_weight" in loaded:
        loaded["weight_scale"] = loaded.pop("qscale_weight")
    return decompressed(loaded, scheme)


def there_and_back(
    run: Run, source: Path, reader: str, *options: str, exact: bool = True
) -> tuple[Path, Path]:
    """Convert to consolidated and back; the tensors must come back bit for bit."""
    native, back = source.with_name(f"native-{reader}"), source.with_name(f"back-{reader}")
    succeed(run("convert", "hf-to-consolidated", source, native, "--reader", reader, *options))
    succeed(run("convert", "consolidated-to-hf", native, back))
    if exact:
        assert bits(back) == bits(source)
    for folder in (source, native, back):
        outcome = run("verify", folder, *WEIGHTS_ONLY)
        assert outcome.code == 0, outcome.out
    return native, back


def said(found: Any, name: str) -> dict[str, Any]:
    """Arguments without dtypes that compressed-tensors infers (and once refused to be told)."""
    inferred = set() if name.startswith("MX") else {"scale_dtype", "zp_dtype"}
    return found.model_dump(exclude=inferred) if found else {}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_compressed_tensors(tmp_path: Path, run: Run, name: str, reader: str) -> None:
    """Every format: what each reader computes with is what the HF layout holds."""
    how = scheme(name)
    source = quantized_repo(tmp_path / "hf", lambda w: compressed(w, how), section_of(how))
    native, back = there_and_back(run, source, reader)
    before, after = modules(source, "model"), modules(native, "consolidated")
    for hf_name, native_name in NATIVE.items():
        heads = HEADS.get(native_name.rpartition(".")[2], 0)
        found = as_computed(after[native_name], heads, reader, how)
        expected = decompressed(before[hf_name], how)
        assert builders.bits_of(found) == builders.bits_of(expected), native_name
    params = builders.read_json(native / "params.json")["quantization"]
    config = builders.read_json(back / "config.json")["quantization_config"]
    for body in (params, config):
        (group,) = QuantizationConfig.model_validate(body).config_groups.values()
        for found, expected in (
            (group.weights, how.weights),
            (group.input_activations, how.input_activations),
        ):
            assert said(found, name) == said(expected, name)


@pytest.mark.parametrize("reader", READERS)
def test_block_across_heads(tmp_path: Path, run: Run, reader: str) -> None:
    """Blocks that do not hold whole heads have no exact image: refused, by name."""
    how = scheme("FP8 block")
    how.weights = args(8, "float", "block", block_structure=[16, 32])
    source = quantized_repo(tmp_path / "hf", lambda w: compressed(w, how), section_of(how))
    options = ("--reader", reader)
    error = run("convert", "hf-to-consolidated", source, tmp_path / "out", *options).error
    assert "_proj.weight: blocks of 16 rows do not hold whole heads of 32" in error


# --- FP8 of transformers and of Mistral ---


def fp8(weight: torch.Tensor, static: bool = True) -> Tensors:
    """As Mistral's own FP8 releases have it: scalars, multipliers."""
    scale = (weight.abs().max() / 448).to(torch.bfloat16)
    values = (weight / scale).to(torch.float8_e4m3fn)
    found = {"weight": values, "weight_scale_inv": scale}
    return found | ({"activation_scale": scale * 3} if static else {})


FP8 = {"quant_method": "fp8", "weight_block_size": None, "modules_to_not_convert": ["lm_head"]}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_fp8(tmp_path: Path, run: Run, scheme: str, reader: str) -> None:
    """Mistral's names in the consolidated set, and the very same scales."""
    static = scheme == "static"
    section = {**FP8, "activation_scheme": scheme, "dequantize": False}
    source = quantized_repo(tmp_path / "hf", lambda w: fp8(w, static), section)
    native, back = there_and_back(run, source, reader)
    said = builders.read_json(native / "params.json")["quantization"]
    assert said == {
        "qformat_weight": "fp8_e4m3",
        "qscheme_act": "TENSOR" if static else "NO_SCALES",
    }
    before, after = modules(source, "model"), modules(native, "consolidated")
    for hf_name, native_name in NATIVE.items():
        found, expected = after[native_name], before[hf_name]
        heads = HEADS.get(native_name.rpartition(".")[2], 0)
        weight = to_hf_rows(found["weight"], heads) if heads else found["weight"]
        assert builders.bits_of(weight) == builders.bits_of(expected["weight"])
        assert torch.equal(found["qscale_weight"], expected["weight_scale_inv"])
        assert found.keys() == {"weight", "qscale_weight"} | ({"qscale_act"} if static else set())
    config = builders.read_json(back / "config.json")["quantization_config"]
    assert config == {**FP8, "activation_scheme": scheme}


def test_fine_grained_fp8(tmp_path: Path, run: Run) -> None:
    """Blocks keep transformers' names and section in both layouts."""

    def quantize(weight: torch.Tensor) -> Tensors:
        blocks = weight.unflatten(0, (-1, 64)).unflatten(2, (-1, 64))
        scale = blocks.abs().amax((1, 3)).float() / 448
        values = (blocks / scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)
        return {"weight": values.to(torch.float8_e4m3fn), "weight_scale_inv": scale}

    section = {**FP8, "weight_block_size": [64, 64], "activation_scheme": "dynamic"}
    source = quantized_repo(tmp_path / "hf", quantize, section)
    native, _ = there_and_back(run, source, "vllm")
    said = builders.read_json(native / "params.json")["quantization_config"]
    assert said["weight_block_size"] == [64, 64]
    assert "weight_scale_inv" in modules(native, "consolidated")["attention.wq"]


# --- GPTQ, AWQ, AutoRound ---

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def codes(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unsigned codes [in, out], scales and zero points [groups, out], groups of 32."""
    generator = torch.Generator().manual_seed(weight.numel())
    shape = (weight.shape[1], weight.shape[0])
    values = torch.randint(0, 1 << bits, shape, generator=generator)
    zeros = torch.randint(0, 1 << bits, (shape[0] // 32, shape[1]), generator=generator)
    return values, torch.rand(zeros.shape, generator=generator).half(), zeros


def words(values: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """Unsigned codes densely in I32 words, by compressed-tensors."""
    signed = (values - (1 << (bits - 1))).to(torch.int8)
    return pack_to_int32(signed, bits, packed_dim=axis).contiguous()


def awq_words(values: torch.Tensor) -> torch.Tensor:
    """Eight codes a word along dim 1, in the order of AWQ's kernels."""
    return words(values.unflatten(1, (-1, 8))[:, :, AWQ_ORDER].flatten(1), 4, 1)


def gptq(weight: torch.Tensor, bits: int) -> Tensors:
    """A module as AutoGPTQ writes it."""
    values, scales, zeros = codes(weight, bits)
    order = torch.arange(values.shape[0], dtype=torch.int32) // 32
    return {
        "qweight": words(values, bits, 0),
        "qzeros": words(zeros, bits, 1),
        "scales": scales,
        "g_idx": order,
    }


def awq(weight: torch.Tensor) -> Tensors:
    """A module as AutoAWQ writes it."""
    values, scales, zeros = codes(weight, 4)
    return {"qweight": awq_words(values), "qzeros": awq_words(zeros), "scales": scales}


METHODS: dict[str, tuple[Callable[[torch.Tensor], Tensors], dict[str, Any]]] = {
    "gptq 4": (
        lambda w: gptq(w, 4),
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False},
    ),
    "gptq 3": (
        lambda w: gptq(w, 3),
        {"quant_method": "gptq", "bits": 3, "group_size": 32, "checkpoint_format": "gptq_v2"},
    ),
    "awq": (
        awq,
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    ),
    "auto-round": (
        lambda w: gptq(w, 4),
        {
            **{"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"},
            **{"bits": 4, "group_size": 32, "sym": True, "data_type": "int"},
            "block_name_to_quantize": "model.layers",
        },
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", METHODS)
def test_packed_along_columns(tmp_path: Path, run: Run, name: str, reader: str) -> None:
    """Output rows are columns here: moved with scales and zero points, or left for vLLM."""
    quantize, section = METHODS[name]
    source = quantized_repo(tmp_path / "hf", quantize, section)
    native, back = there_and_back(run, source, reader)
    said = builders.read_json(native / "params.json")["quantization_config"]
    assert said["quant_method"] == section["quant_method"]
    assert builders.read_json(back / "config.json")["quantization_config"]["bits"] == said["bits"]
    weights = builders.load_set(native, "consolidated")
    original = modules(source, "model")
    for hf_name, native_name in NATIVE.items():
        heads = HEADS.get(native_name.rpartition(".")[2], 0)
        found = {s: weights[f"layers.0.{native_name}.{s}"] for s in original[hf_name]}
        if reader == "vllm" or not heads:
            expected = original[hf_name]
        else:
            expected = moved(original[hf_name], heads, name, section["bits"])
        assert {s: builders.bits_of(t) for s, t in found.items()} == {
            s: builders.bits_of(t) for s, t in expected.items()
        }


def moved(parameters: Tensors, heads: int, name: str, bits: int) -> Tensors:
    """The module packed anew from codes whose columns are in native order."""
    into, out = parameters["scales"].shape[0] * 32, parameters["scales"].shape[1]
    order = native_order(out, heads)
    weight = torch.empty(out, into)
    values, scales, zeros = codes(weight, bits)
    values, scales, zeros = values[:, order], scales[:, order].contiguous(), zeros[:, order]
    if name == "awq":
        return {"qweight": awq_words(values), "qzeros": awq_words(zeros), "scales": scales}
    packed = {"qweight": words(values, bits, 0), "qzeros": words(zeros, bits, 1)}
    return {**packed, "scales": scales, "g_idx": parameters["g_idx"]}


def native_order(rows: int, heads: int) -> torch.Tensor:
    """HF row numbers in native order, by the reference permutation's inverse."""
    return torch.argsort(builders.to_hf_rows(torch.arange(rows), heads))


# --- ModelOpt ---


def test_modelopt_nvfp4(tmp_path: Path, run: Run) -> None:
    """Becomes compressed-tensors' NVFP4, with the values of its own converter."""
    how = scheme("NVFP4")

    def quantize(weight: torch.Tensor) -> Tensors:
        found = compressed(weight, how)
        return {
            "weight": found["weight_packed"],
            "weight_scale": found["weight_scale"],
            "weight_scale_2": (1 / found["weight_global_scale"]).reshape(()),
            "input_scale": torch.tensor(0.0071),
        }

    algorithm = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    source = quantized_repo(tmp_path / "hf", quantize, algorithm)
    native = tmp_path / "native"
    succeed(run("convert", "hf-to-consolidated", source, native))
    assert run("verify", native, *WEIGHTS_ONLY).code == 0
    tensors = builders.load_set(source)
    expected = ModelOptNvfp4Converter(targets=["re:.*proj$"], ignore=["lm_head"]).process(tensors)
    found = builders.load_set(native, "consolidated")
    for hf_name, native_name in NATIVE.items():
        for suffix in (
            "weight_packed",
            "weight_scale",
            "weight_global_scale",
            "input_global_scale",
        ):
            ours = found[f"layers.0.{native_name}.{suffix}"]
            theirs = expected[f"model.layers.0.{hf_name}.{suffix}"].reshape(ours.shape)
            assert builders.bits_of(ours) == builders.bits_of(theirs)
    body = builders.read_json(native / "params.json")["quantization"]
    assert QuantizationConfig.model_validate(body).format == "nvfp4-pack-quantized"


# --- old packing, kv cache ---


def padded(values: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """Signed codes as compressed-tensors <= 0.17 packs them: whole values in each word."""
    unsigned = (values.movedim(axis, -1).long() + (1 << (bits - 1))).contiguous()
    per_word = 32 // bits
    filled = torch.nn.functional.pad(unsigned, (0, -unsigned.shape[-1] % per_word))
    shifts = torch.arange(per_word) * bits
    packed = (filled.unflatten(-1, (-1, per_word)) << shifts).sum(-1)
    packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)
    return packed.movedim(-1, axis).contiguous()


def today(values: torch.Tensor, bits: int, axis: int) -> torch.Tensor:
    """Signed codes as today's compressed-tensors packs them."""
    return pack_to_int32(values.to(torch.int8), bits, packed_dim=axis).contiguous()


def packed(weight: torch.Tensor, bits: int, pack: Callable[..., torch.Tensor]) -> Tensors:
    """An asymmetric module of arbitrary codes, groups of 32."""
    generator = torch.Generator().manual_seed(weight.numel())
    half, groups = 1 << (bits - 1), (weight.shape[0], weight.shape[1] // 32)
    values = torch.randint(-half, half, weight.shape, generator=generator)
    zeros = torch.randint(-half, half, groups, generator=generator)
    return {
        "weight_packed": pack(values, bits, 1),
        "weight_scale": torch.ones(groups, dtype=torch.bfloat16),
        "weight_zero_point": pack(zeros, bits, 0),
        "weight_shape": torch.tensor(weight.shape),
    }


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("width", [3, 5, 6, 7])
def test_old_packing(tmp_path: Path, run: Run, width: int, reader: str) -> None:
    """Carried as it is, with a warning; with --repack, what today's compressor writes."""
    weights = args(width, "int", "group", group_size=32, symmetric=False)
    how = QuantizationScheme(targets=["Linear"], weights=weights, format="pack-quantized")
    folders = {pack: tmp_path / pack.__name__ / "hf" for pack in (padded, today)}
    for pack, folder in folders.items():
        quantized_repo(folder, partial(packed, bits=width, pack=pack), section_of(how))
    command = ("convert", "hf-to-consolidated", folders[padded], tmp_path / "x")
    outcome = run(*command, "--reader", reader)
    assert "has the padded packing of compressed-tensors <= 0.17" in outcome.err
    there_and_back(run, folders[padded], reader)
    expected, _ = there_and_back(run, folders[today], reader)
    repacked = tmp_path / "repacked"
    succeed(run(*command[:-1], repacked, "--reader", reader, "--repack"))
    assert bits(repacked, "consolidated") == bits(expected, "consolidated")


def test_kv_cache(tmp_path: Path, run: Run) -> None:
    """Scales of the attention modules go along under their own names."""
    how = scheme("naive FP8")
    body = {
        **section_of(how),
        "kv_cache_scheme": args(8, "float", "tensor").model_dump(mode="json"),
    }
    source = quantized_repo(tmp_path / "hf", lambda w: compressed(w, how), body)
    scale = torch.tensor([0.25], dtype=torch.bfloat16)
    builders.edit_tensors(
        source, {f"model.layers.0.self_attn.{k}_scale": scale.clone() for k in "kv"}
    )
    native, back = there_and_back(run, source, "vllm")
    assert torch.equal(
        builders.load_set(native, "consolidated")["layers.0.attention.k_scale"], scale
    )
    for file, key in ((native / "params.json", "quantization"), (back / "config.json", None)):
        section = builders.read_json(file)[key or "quantization_config"]
        assert section["kv_cache_scheme"]["num_bits"] == 8
