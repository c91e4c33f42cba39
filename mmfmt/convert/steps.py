"""What a conversion does to bytes: small steps on arrays, numpy only.

Steps act on a batch of equal blocks, an array [batch, *block shape]; their axes count the
dimensions of a block.
"""

from dataclasses import dataclass
from math import log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Order = Literal["hf", "native"]
Packing = Literal["dense", "padded", "awq"]

WORD = 32
# AWQ's GEMM kernels: nibble i of a word holds value AWQ_NIBBLES[i]
AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Reorder:
    """Bring `heads * head_dim` rows along `axis` into another order, head by head.

    Native row 2i + j of a head is HF row j * head_dim/2 + i (transformers' Mistral weight
    converters, vLLM's maybe_remap_mistral). A gather: bit-exact for any dtype.
    """

    axis: int
    heads: int
    to: Order
    step: Literal["reorder"] = "reorder"

    def __call__(self, blocks: Array) -> Array:
        at, shape = self.axis + 1, blocks.shape
        half = shape[at] // self.heads // 2
        split = (self.heads, 2, half) if self.to == "native" else (self.heads, half, 2)
        parts = blocks.reshape(*shape[:at], *split, *shape[at + 1 :])
        return parts.swapaxes(at + 1, at + 2).reshape(shape)


@dataclass(frozen=True)
class Unpack:
    """`count` values of `bits` (1 to 8) along `axis` from I32 words, as U8.

    `dense`: across word boundaries, least significant bits first (compressed-tensors >= 0.18);
    `padded`: 32 // bits whole values a word (compressed-tensors <= 0.17, GPTQ); `awq`: padded,
    the values of a word in the order of AWQ_NIBBLES.
    """

    axis: int
    bits: int
    count: int
    packing: Packing
    step: Literal["unpack"] = "unpack"

    def __call__(self, words: Array) -> Array:
        last = np.ascontiguousarray(np.moveaxis(words, self.axis + 1, -1)).astype("<i4")
        stream = np.unpackbits(last.view(np.uint8), axis=-1, bitorder="little")
        if self.packing != "dense":
            stream = _split(stream, WORD)[..., : WORD // self.bits * self.bits]
            stream = stream.reshape(*last.shape[:-1], -1)
        values = _split(stream[..., : stream.shape[-1] // self.bits * self.bits], self.bits)
        values = np.packbits(values, axis=-1, bitorder="little")[..., 0]
        if self.packing == "awq":
            values = _split(values, 8)[..., np.argsort(AWQ_NIBBLES)].reshape(values.shape)
        return np.moveaxis(values[..., : self.count], -1, self.axis + 1)


@dataclass(frozen=True)
class Pack:
    """The inverse of `Unpack`: U8 values into I32 words; bits left over are zero."""

    axis: int
    bits: int
    packing: Packing
    step: Literal["pack"] = "pack"

    def __call__(self, values: Array) -> Array:
        last = np.ascontiguousarray(np.moveaxis(values, self.axis + 1, -1))
        per_word = WORD // self.bits
        if self.packing != "dense":
            last = _split(_filled(last, per_word), per_word)
        if self.packing == "awq":
            last = last[..., list(AWQ_NIBBLES)]
        stream = np.unpackbits(last[..., None], axis=-1, bitorder="little")[..., : self.bits]
        stream = _filled(stream.reshape(*last.shape[:-1], -1), WORD)
        words = np.packbits(stream, axis=-1, bitorder="little").view("<i4")
        words = words.reshape(*values.shape[:1], *words.shape[1 : values.ndim - 1], -1)
        return np.moveaxis(words, -1, self.axis + 1)


@dataclass(frozen=True)
class Reciprocal:
    """One over each F32 value: a divisor for a multiplier."""

    step: Literal["reciprocal"] = "reciprocal"

    def __call__(self, values: Array) -> Array:
        return np.float32(1.0) / values


Step = Reorder | Unpack | Pack | Reciprocal


def sinusoids(rows: int, columns: int, dtype: str) -> Array:
    """Whisper's positions (modeling_whisper, sinusoids): sines, then cosines, [rows, columns].

    Computed in single precision, as transformers does, then rounded to F32, F16 or BF16.
    """
    step = log(10_000.0) / (columns // 2 - 1)
    scales = np.exp(-step * np.arange(columns // 2, dtype=np.float32))
    angles = np.arange(rows, dtype=np.float32)[:, None] * scales
    values: Array = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    if dtype == "BF16":
        bits: Array = values.view(np.uint32)
        # round half to even
        values = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return values.astype("<f2") if dtype == "F16" else values


def _split(array: Array, size: int) -> Array:
    """The last dimension in pieces of `size`."""
    return array.reshape(*array.shape[:-1], -1, size)


def _filled(array: Array, multiple: int) -> Array:
    """Zeros behind the last dimension, up to a multiple."""
    missing = -array.shape[-1] % multiple
    widths = [(0, 0)] * (array.ndim - 1) + [(0, missing)]
    return np.pad(array, widths) if missing else array
