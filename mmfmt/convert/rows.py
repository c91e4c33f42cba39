"""Row permutations on bytes: HF order (halves) to native order (pairs), numpy only."""

import numpy as np
from numpy.typing import NDArray


def to_native(rows: NDArray[np.generic], heads: int) -> NDArray[np.generic]:
    """Rows [heads * head_dim, ...] in HF order, gathered into native order.

    Native row h*hd + 2i + j is HF row h*hd + j*hd/2 + i (transformers' Mistral weight
    converters, vLLM's maybe_remap_mistral). A gather: bit-exact for any dtype.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def unpack(words: NDArray[np.int32], bits: int, count: int) -> NDArray[np.uint8]:
    """Values [count, columns] from I32 words [ceil(count * bits / 32), columns].

    Values lie along dim 0, least significant bits first, across word boundaries
    (compressed-tensors pack_to_int32, packed_dim=0). `bits` is 1 to 8.
    """
    stream = np.unpackbits(_bytes_by_column(words), axis=1, bitorder="little")
    values = stream[:, : count * bits].reshape(words.shape[1], count, bits)
    return np.packbits(values, axis=2, bitorder="little")[:, :, 0].T


def pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """The inverse of `unpack`; pad bits are zero."""
    count, columns = values.shape
    stream = np.unpackbits(np.ascontiguousarray(values.T)[:, :, None], axis=2, bitorder="little")
    stream = stream[:, :, :bits].reshape(columns, count * bits)
    words = -(-count * bits // 32)
    padded = np.zeros((columns, words * 32), dtype=np.uint8)
    padded[:, : count * bits] = stream
    packed = np.packbits(padded, axis=1, bitorder="little").view("<i4")
    return np.ascontiguousarray(packed.T).astype(np.int32)


def packed_to_native(
    words: NDArray[np.int32], heads: int, head_dim: int, bits: int
) -> NDArray[np.int32]:
    """Rows packed along dim 0, from HF to native order: unpack, gather, pack again."""
    values = unpack(words, bits, heads * head_dim)
    return pack(to_native(values, heads).astype(np.uint8), bits)


def _bytes_by_column(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(words.T).astype("<i4").view(np.uint8)
