"""mmfmt.convert.rows against torch's reference permutation and compressed-tensors' packing."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import (
    pack_to_int32,
    unpack_from_int32,
)
from hypothesis import given
from hypothesis import strategies as st

from mmfmt.convert.rows import pack, packed_to_native, to_native, unpack
from tests import builders

HEAD_DIMS = (2, 4, 6, 64, 88, 104, 128)
DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.int8,
    torch.uint8,
    torch.float8_e4m3fn,
)

bits_wide = st.integers(1, 8)
heads_of = st.sampled_from([1, 2, 3, 8])
head_dims = st.sampled_from(HEAD_DIMS)
seeds = st.integers(0, 2**31 - 1)


def values(seed: int, bits: int, *shape: int) -> torch.Tensor:
    """Signed values of a bit width, as compressed-tensors quantizes to."""
    generator = torch.Generator().manual_seed(seed)
    half = 1 << (bits - 1)
    return torch.randint(-half, half, shape, generator=generator, dtype=torch.int8)


def packed_zero_points(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Zero points as compressed-tensors stores them: packed along dim 0."""
    return pack_to_int32(values, bits, packed_dim=0).contiguous()


@given(heads_of, head_dims, st.integers(1, 9), st.sampled_from(DTYPES), seeds)
def test_native_to_hf_undoes_to_native(
    heads: int, head_dim: int, columns: int, dtype: torch.dtype, seed: int
) -> None:
    """The converter of transformers brings every row back, bit for bit, for any dtype."""
    hf = values(seed, 8, heads * head_dim, columns * dtype.itemsize).view(dtype)
    raw = hf.view(torch.uint8).numpy()
    moved = torch.from_numpy(to_native(raw, heads).copy()).view(dtype)
    back = builders.to_hf_rows(moved.view(torch.uint8), heads).view(dtype)
    assert builders.bits_of(back) == builders.bits_of(hf)
    if head_dim > 2:
        # a permutation that moves nothing would pass the line above
        rows = np.arange(heads * head_dim)
        assert not np.array_equal(to_native(rows, heads), rows)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("heads", [1, 3])
def test_index_form(heads: int, head_dim: int) -> None:
    """Native row h*hd + 2i + j is HF row h*hd + j*hd/2 + i (layouts.md section 3)."""
    moved = to_native(np.arange(heads * head_dim), heads)
    for h in range(heads):
        for i in range(head_dim // 2):
            for j in range(2):
                native = h * head_dim + 2 * i + j
                assert moved[native] == h * head_dim + j * head_dim // 2 + i


def test_rotary_pairs_of_transformers() -> None:
    """What transformers' rotate_half pairs in HF order stands side by side in native order."""
    from transformers.models.mistral.modeling_mistral import rotate_half

    head_dim = 88
    rows = torch.arange(1.0, head_dim + 1)
    partner = -rotate_half(rows)[: head_dim // 2]
    native = torch.from_numpy(to_native(rows.numpy(), 1))
    assert torch.equal(native[0::2], rows[: head_dim // 2])
    assert torch.equal(native[1::2], partner)


@given(bits_wide, st.integers(1, 70), st.integers(1, 5), seeds)
def test_pack_as_compressed_tensors(bits: int, count: int, columns: int, seed: int) -> None:
    """`pack` gives its words, pad bits included; `unpack` gives its values."""
    signed = values(seed, bits, count, columns)
    theirs = packed_zero_points(signed, bits)
    unsigned = (signed.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8).numpy()
    ours = pack(unsigned, bits)
    assert ours.dtype == np.int32
    assert np.array_equal(ours, theirs.numpy())
    assert np.array_equal(unpack(theirs.numpy(), bits, count), unsigned)


# compressed-tensors cannot unpack a single word a column, so no tiny heads here
@given(bits_wide, heads_of, st.sampled_from([64, 88, 104, 128]), st.integers(1, 4), seeds)
def test_packed_zero_points(bits: int, heads: int, head_dim: int, columns: int, seed: int) -> None:
    """Unpacked by compressed-tensors and taken back to HF order, the old values stand there."""
    hf = values(seed, bits, heads * head_dim, columns)
    moved = packed_to_native(packed_zero_points(hf, bits).numpy(), heads, head_dim, bits)
    native = unpack_from_int32(torch.from_numpy(moved), bits, hf.shape, packed_dim=0)
    assert torch.equal(builders.to_hf_rows(native, heads), hf)
    # and no stray bits: packing the values anew gives the same words
    assert torch.equal(packed_zero_points(native.contiguous(), bits), torch.from_numpy(moved))


@given(bits_wide, heads_of, head_dims, st.integers(1, 40), seeds)
def test_row_gather_of_packed_weights(
    bits: int, heads: int, head_dim: int, columns: int, seed: int
) -> None:
    """Whole rows of weight_packed move: the same as packing the moved values, odd widths too."""
    native = values(seed, bits, heads * head_dim, columns)
    hf = builders.to_hf_rows(native, heads).contiguous()
    moved = to_native(pack_to_int32(hf, bits).numpy(), heads)
    assert np.array_equal(moved, pack_to_int32(native, bits).numpy())
    unpacked = unpack_from_int32(torch.from_numpy(moved.copy()), bits, native.shape)
    assert torch.equal(unpacked, native)


@given(heads_of, head_dims, seeds)
def test_vectors(heads: int, head_dim: int, seed: int) -> None:
    """Biases and per-row scales, one value a row."""
    hf = values(seed, 8, heads * head_dim)
    moved = torch.from_numpy(to_native(hf.numpy(), heads).copy())
    assert torch.equal(builders.to_hf_rows(moved, heads), hf)
