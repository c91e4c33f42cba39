"""mmfmt.quantization.dequantize against compressed-tensors' own decompression."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save

from mmfmt.arrays import Array
from mmfmt.checkpoint import Module, Parameter
from mmfmt.errors import MmfmtError
from mmfmt.header import Entry
from mmfmt.layout import family
from mmfmt.naming import Match
from mmfmt.quantization import Scheme, dequantize, parse_quantization
from mmfmt.quantization.dequantize import Read, row_norms, weight_rows
from tests import builders
from tests.test_schemes import (
    WEIGHTS,
    Tensors,
    args,
    codes,
    compressed,
    decompressed,
    fp8,
    packed,
    padded,
    scheme,
    section_of,
    today,
)
from tests.test_schemes import awq as awq_module
from tests.test_schemes import gptq as gptq_module

HEADS, HEAD_DIM, COLUMNS = 4, 32, 192
SYMBOLS = {"n_heads": HEADS, "head_dim": HEAD_DIM, "dim": COLUMNS}
ROW = next(row for row in family("dense").rows if row.native == "layers.{layer}.attention.wq")

PLAIN = {
    **{name: scheme(name) for name in WEIGHTS},
    "W8A8": builders.scheme("int-quantized"),
    "W8A8 tensor": builders.scheme("int-quantized", strategy="tensor"),
    "W8A8 asymmetric": builders.scheme("int-quantized", symmetric=False),
    "FP8 channel": builders.scheme("float-quantized"),
    "FP8 tensor": builders.scheme("float-quantized", strategy="tensor"),
    "W4 channel": builders.scheme("pack-quantized", 4),
    "W4 channel asymmetric": builders.scheme("pack-quantized", 4, symmetric=False),
    "W4 tensor": builders.scheme("pack-quantized", 4, "tensor", symmetric=False),
}


@pytest.fixture
def weight() -> torch.Tensor:
    """BF16 rows no two alike, with means away from 0 so that zero points differ."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(HEADS * HEAD_DIM, 1, generator=generator)
    noise = torch.randn(HEADS * HEAD_DIM, COLUMNS, generator=generator)
    return ((noise + rows) * rows.exp()).to(torch.bfloat16)


def module_of(tensors: Tensors) -> tuple[Module, Read]:
    """A Q projection with these parameters, as safetensors stores them."""
    data: bytes = save({suffix: tensor.contiguous() for suffix, tensor in tensors.items()})
    start = 8 + int.from_bytes(data[:8], "little")
    parameters = {
        suffix: Parameter(
            f"q.{suffix}",
            "model.safetensors",
            Entry(said["dtype"], tuple(said["shape"]), *said["data_offsets"]),
            Match(ROW, (("layer", 0),), suffix),
        )
        for suffix, said in json.loads(data[8:start]).items()
    }

    def read(parameter: Parameter) -> bytes:
        return data[start + parameter.entry.start : start + parameter.entry.end]

    return Module(ROW, (("layer", 0),), "q", parameters), read


def scheme_of(section: dict[str, Any]) -> Scheme:
    """The scheme of a section of config.json."""
    found = parse_quantization(section, "config.json", family("dense"))
    assert found
    return found.schemes[0]


def rows_of(tensors: Tensors, scheme: Scheme | None) -> Array:
    """The whole weight that mmfmt dequantizes."""
    module, read = module_of(tensors)
    return np.concatenate(list(weight_rows(module, scheme, SYMBOLS, read)))


def assert_equal(found: Array, expected: torch.Tensor, tolerance: float = 0.0) -> None:
    """The same weight, to a relative tolerance, after rounding to the other's dtype."""
    assert found.dtype == np.float32
    rounded = torch.from_numpy(found).to(expected.dtype)
    torch.testing.assert_close(rounded, expected, rtol=tolerance, atol=0)


def parameters(weight: torch.Tensor, how: Any) -> Tensors:
    """A module as compressed-tensors writes it."""
    strategy = how.weights.strategy
    return (builders.quantize_module if strategy == "tensor" else compressed)(weight, how)


@pytest.mark.parametrize("name", PLAIN)
def test_compressed_tensors(weight: torch.Tensor, name: str) -> None:
    """Every format of compressed-tensors: what its own code decompresses."""
    how = PLAIN[name]
    tensors = parameters(weight, how)
    assert_equal(rows_of(tensors, scheme_of(section_of(how))), decompressed(tensors, how))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_unquantized(weight: torch.Tensor, dtype: torch.dtype) -> None:
    """Floats as they are, but F32."""
    assert_equal(rows_of({"weight": weight.to(dtype)}, None), weight.to(dtype).float())


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
@pytest.mark.parametrize("pack", [padded, today])
def test_old_packing(weight: torch.Tensor, bits: int, pack: Callable[..., torch.Tensor]) -> None:
    """The packing of compressed-tensors <= 0.17 holds the same codes and zero points."""
    arguments = args(bits, "int", "group", group_size=32, symmetric=False)
    how = QuantizationScheme(targets=["Linear"], weights=arguments, format="pack-quantized")
    expected = decompressed(packed(weight, bits, today), how)
    assert_equal(rows_of(packed(weight, bits, pack), scheme_of(section_of(how))), expected)


@pytest.mark.parametrize("name", ["weight_scale_inv", "qscale_weight"])
def test_fp8_of_one_scale(weight: torch.Tensor, name: str) -> None:
    """transformers' and Mistral's names of the multiplier."""
    tensors = fp8(weight)
    expected = tensors["weight"].float() * tensors["weight_scale_inv"].float()
    tensors[name] = tensors.pop("weight_scale_inv")
    section = {"quant_method": "fp8", "activation_scheme": "static"}
    assert_equal(rows_of(tensors, scheme_of(section)), expected)


@pytest.mark.parametrize("block", [(32, 64), (48, 40)])
def test_fp8_of_blocks(weight: torch.Tensor, block: tuple[int, int]) -> None:
    """A multiplier a block; the last blocks need not be whole."""
    rows, columns = (-(-size // part) for size, part in zip(weight.shape, block, strict=True))
    scale = torch.arange(1.0, 1 + rows * columns).reshape(rows, columns)
    spread = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    tensors = {"weight": weight.to(torch.float8_e4m3fn), "weight_scale_inv": scale}
    section = {"quant_method": "fp8", "weight_block_size": list(block)}
    expected = tensors["weight"].float() * spread[: weight.shape[0], : weight.shape[1]]
    assert_equal(rows_of(tensors, scheme_of(section)), expected)


def test_modelopt(weight: torch.Tensor) -> None:
    """ModelOpt's NVFP4 multiplies where compressed-tensors divides; its FP8 has a scalar."""
    how = PLAIN["NVFP4"]
    theirs = compressed(weight, how)
    nvfp4 = {
        "weight": theirs["weight_packed"],
        "weight_scale": theirs["weight_scale"],
        "weight_scale_2": (1 / theirs["weight_global_scale"]).reshape(()),
        "input_scale": torch.tensor(0.5),
    }
    section = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    assert_equal(rows_of(nvfp4, scheme_of(section)), decompressed(theirs, how), 2**-7)
    how = PLAIN["FP8 tensor"]
    theirs = builders.quantize_module(weight, how)
    scale = theirs["weight_scale"].reshape(())
    scalars = {**theirs, "weight_scale": scale, "input_scale": torch.tensor(0.5)}
    section = {"quant_method": "modelopt", "quant_algo": "FP8"}
    assert_equal(rows_of(scalars, scheme_of(section)), decompressed(theirs, how))


# --- GPTQ, AWQ: codes [in, out], groups of 32 columns ---


def dequantized(weight: torch.Tensor, bits: int, zeros: torch.Tensor | int) -> torch.Tensor:
    """(code - zero) * scale of the codes that the modules below hold, [out, in]."""
    values, scales, _ = codes(weight, bits)
    spread = zeros if isinstance(zeros, int) else zeros.repeat_interleave(32, 0)
    return ((values - spread) * scales.float().repeat_interleave(32, 0)).T


def test_awq(weight: torch.Tensor) -> None:
    """Codes and zero points in words along the rows."""
    section = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
    expected = dequantized(weight, 4, codes(weight, 4)[2])
    assert_equal(rows_of(awq_module(weight), scheme_of(section)), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(weight: torch.Tensor, bits: int) -> None:
    """Symmetric: zero is the middle code, whatever the version."""
    section = {"quant_method": "gptq", "bits": bits, "group_size": 32, "sym": True}
    expected = dequantized(weight, bits, 1 << (bits - 1))
    assert_equal(rows_of(gptq_module(weight, bits), scheme_of(section)), expected)


def test_gptq_with_columns_in_other_groups(weight: torch.Tensor) -> None:
    """g_idx says which group each column is of."""
    section = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
    tensors = gptq_module(weight, 4)
    values, scales, _ = codes(weight, 4)
    tensors["g_idx"] = tensors["g_idx"].flip(0)
    expected = ((values - 8) * scales.float()[tensors["g_idx"]]).T
    assert_equal(rows_of(tensors, scheme_of(section)), expected)
    tensors["g_idx"] = tensors["g_idx"] + 1
    with pytest.raises(MmfmtError, match=r"q\.g_idx: names groups outside 0 to 5"):
        rows_of(tensors, scheme_of(section))


def test_asymmetric_gptq(weight: torch.Tensor) -> None:
    """Version 1 stores zero points less one, and a module does not say which it is."""
    section = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    with pytest.raises(MmfmtError, match="q: the zero points of gptq cannot be told"):
        rows_of(gptq_module(weight, 4), scheme_of(section))


# --- rows, norms, faults ---


@pytest.mark.parametrize("name", ["W3", "W4", "NVFP4", "FP8 block", "W8A8 asymmetric"])
def test_a_few_rows_at_a_time(
    weight: torch.Tensor, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of seven rows are the whole."""
    how = PLAIN[name]
    tensors, ours = parameters(weight, how), scheme_of(section_of(how))
    whole = rows_of(tensors, ours)
    monkeypatch.setattr(dequantize, "CHUNK", 7 * COLUMNS + 1)
    module, read = module_of(tensors)
    pieces = list(weight_rows(module, ours, SYMBOLS, read))
    assert {len(piece) for piece in pieces} == {7, 128 % 7}
    assert np.array_equal(np.concatenate(pieces), whole)


def test_row_norms(weight: torch.Tensor) -> None:
    """One norm a row, head by head."""
    module, read = module_of({"weight": weight})
    expected = torch.linalg.vector_norm(weight.float(), dim=1).reshape(HEADS, HEAD_DIM)
    torch.testing.assert_close(torch.from_numpy(row_norms(module, None, SYMBOLS, read)), expected)


def test_norms_of_what_is_not_finite(
    weight: torch.Tensor, recwarn: pytest.WarningsRecorder
) -> None:
    """NaN, infinity and overflow stay in their row, without a warning."""
    weight[3, 0], weight[5, 0], weight[7, 0] = torch.nan, torch.inf, 3e38
    module, read = module_of({"weight": weight})
    norms = row_norms(module, None, SYMBOLS, read).ravel()
    assert np.flatnonzero(~np.isfinite(norms)).tolist() == [3, 5, 7]
    assert not recwarn.list


def test_faulty_modules(weight: torch.Tensor) -> None:
    """What the scheme does not ask for is no weight."""
    how = PLAIN["W4"]
    tensors, ours = parameters(weight, how), scheme_of(section_of(how))
    with pytest.raises(MmfmtError, match=r"q\.weight: is missing"):
        rows_of(tensors, None)
    tensors["weight_scale"] = tensors["weight_scale"][:, 1:]
    with pytest.raises(MmfmtError, match=r"q\.weight_scale: has shape \[128, 5\], expected"):
        rows_of(tensors, ours)
