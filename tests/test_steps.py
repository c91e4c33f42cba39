"""mmfmt.convert.steps against torch's reference permutation, compressed-tensors' packing and
reference packers of the other formats."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import (
    pack_to_int32,
    unpack_from_int32,
)
from hypothesis import given
from hypothesis import strategies as st

from mmfmt.arrays import Array, Packing
from mmfmt.convert.plan import Blocks, Copy
from mmfmt.convert.segments import segment
from mmfmt.convert.steps import Pack, Reciprocal, Reorder, Step, Unpack
from mmfmt.header import Entry
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


def to_native(rows: Array, heads: int) -> Array:
    """Rows along dim 0 into native order."""
    return np.ascontiguousarray(Reorder(0, heads, "native")(rows[None])[0])


def packed_to_native(words: Array, heads: int, head_dim: int, bits: int) -> Array:
    """Rows packed along dim 0 into native order."""
    count = heads * head_dim
    steps: list[Step] = [Unpack(0, bits, count, "dense"), Reorder(0, heads, "native")]
    return through([*steps, Pack(0, bits, "dense")], words)


def through(steps: list[Step], array: Array) -> Array:
    """One block through some steps."""
    blocks = array[None]
    for step in steps:
        blocks = step(blocks)
    return np.ascontiguousarray(blocks[0])


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
    """Native row h*hd + 2i + j is HF row h*hd + j*hd/2 + i."""
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
    """`Pack` gives its words, pad bits included; `Unpack` gives its values."""
    signed = values(seed, bits, count, columns)
    theirs = packed_zero_points(signed, bits)
    unsigned = (signed.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8).numpy()
    ours = through([Pack(0, bits, "dense")], unsigned)
    assert ours.dtype == np.int32
    assert np.array_equal(ours, theirs.numpy())
    assert np.array_equal(through([Unpack(0, bits, count, "dense")], theirs.numpy()), unsigned)


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


@given(heads_of, head_dims, st.integers(0, 1), seeds)
def test_to_hf_undoes_to_native(heads: int, head_dim: int, axis: int, seed: int) -> None:
    """Both directions along either axis, against the transposition of the array."""
    shape = (heads * head_dim, 3) if axis == 0 else (3, heads * head_dim)
    hf = values(seed, 8, *shape).numpy()
    native = through([Reorder(axis, heads, "native")], hf)
    assert np.array_equal(native.T if axis else native, to_native(hf.T if axis else hf, heads))
    assert np.array_equal(through([Reorder(axis, heads, "hf")], native), hf)


def reference_words(values: list[int], bits: int, order: list[int]) -> list[int]:
    """Whole values a word, lowest bits first, in an order within each word."""
    per_word, words = 32 // bits, []
    for start in range(0, len(values), per_word):
        chunk = values[start : start + per_word]
        chunk += [0] * (per_word - len(chunk))
        words.append(sum(chunk[order[i]] << (i * bits) for i in range(per_word)))
    return words


@given(bits_wide, st.integers(1, 70), st.integers(0, 1), seeds)
def test_padded_packing(bits: int, count: int, axis: int, seed: int) -> None:
    """As compressed-tensors <= 0.17 and GPTQ pack: no value crosses a word."""
    check_packing(bits, count, axis, seed, "padded", list(range(32 // bits)))


@given(st.integers(1, 9), st.integers(0, 1), seeds)
def test_awq_packing(octets: int, axis: int, seed: int) -> None:
    """As AWQ's GEMM kernels take nibbles: even columns first, then odd ones."""
    check_packing(4, 8 * octets, axis, seed, "awq", [0, 2, 4, 6, 1, 3, 5, 7])


def check_packing(
    bits: int, count: int, axis: int, seed: int, packing: Packing, order: list[int]
) -> None:
    """Pack and Unpack against the reference packer, two rows of values at once."""
    unsigned = (values(seed, bits, 2, count).to(torch.int16) + (1 << (bits - 1))).numpy()
    rows = [reference_words(row.tolist(), bits, order) for row in unsigned]
    words = np.array(rows, dtype=np.uint32).view(np.int32)
    stored = unsigned.astype(np.uint8)
    if axis == 0:
        words, stored = words.T, stored.T
    assert np.array_equal(through([Pack(axis, bits, packing)], stored), words)
    assert np.array_equal(through([Unpack(axis, bits, count, packing)], words), stored)


def test_reciprocal() -> None:
    """A divisor as a multiplier."""
    assert through([Reciprocal()], np.array([4.0], dtype=np.float32)).tolist() == [0.25]


@pytest.mark.parametrize(
    ("shape", "steps", "count", "block"),
    [
        ((12, 5), [Reorder(0, 3, "hf")], 3, (4, 5, 2)),
        ((5, 12), [Reorder(1, 3, "hf")], 5, (12, 2)),
    ],
)
def test_blocks_are_small(
    shape: tuple[int, ...], steps: list[Step], count: int, block: tuple[int, ...]
) -> None:
    """A head for rows, a row for columns; blocks through their steps give the whole's result."""
    array = np.arange(np.prod(shape), dtype="<u2").reshape(shape)
    stored = Entry("BF16", shape, 0, array.nbytes)
    blocks = segment(Copy("file", 0, array.nbytes), stored, steps, array.nbytes)
    assert isinstance(blocks, Blocks)
    assert (blocks.count, blocks.shape) == (count, block)
    data = np.frombuffer(array.tobytes(), dtype=blocks.dtype).reshape(blocks.count, *blocks.shape)
    for step in blocks.steps:
        data = step(data)
    assert data.tobytes() == through(steps, array).tobytes()
