"""Stored tensors as numpy arrays: packed words, and floats of every width."""

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Packing = Literal["dense", "padded", "awq"]

WORD = 32
# AWQ's GEMM kernels: nibble i of a word holds value AWQ_NIBBLES[i]
AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
# how numpy views the data of a dtype that safetensors names
VIEWS = {
    **{"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I64": "<i8"},
    **{"F8_E4M3": "u1", "F8_E8M0": "u1", "U8": "u1", "I8": "i1"},
}


def unpack(words: Array, axis: int, bits: int, count: int, packing: Packing) -> Array:
    """`count` values of `bits` (1 to 8) along `axis` from I32 words or, densely, bytes; as U8.

    `dense`: across word boundaries, least significant bits first (compressed-tensors >= 0.18);
    `padded`: 32 // bits whole values a word (compressed-tensors <= 0.17, GPTQ); `awq`: padded,
    the values of a word in the order of AWQ_NIBBLES.
    """
    last = np.ascontiguousarray(np.moveaxis(words, axis, -1), words.dtype.newbyteorder("<"))
    values = _cut_bytes(last.view(np.uint8), bits) if 8 % bits == 0 else _cut(last, bits, packing)
    if packing == "awq":
        values = _split(values, 8)[..., np.argsort(AWQ_NIBBLES)].reshape(values.shape)
    return np.moveaxis(values[..., :count], -1, axis)


def _cut_bytes(stored: Array, bits: int) -> Array:
    """Values of 1, 2, 4 or 8 bits: whole ones in each byte, in every packing."""
    values = np.empty((*stored.shape, 8 // bits), np.uint8)
    for place in range(8 // bits):
        np.right_shift(stored, place * bits, out=values[..., place])
    values &= (1 << bits) - 1
    return values.reshape(*stored.shape[:-1], -1)


def _cut(words: Array, bits: int, packing: Packing) -> Array:
    """Values of any width, bit by bit."""
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    if packing != "dense":
        stream = _split(stream, WORD)[..., : WORD // bits * bits]
        stream = stream.reshape(*words.shape[:-1], -1)
    values = _split(stream[..., : stream.shape[-1] // bits * bits], bits)
    return np.packbits(values, axis=-1, bitorder="little")[..., 0]


def pack(values: Array, axis: int, bits: int, packing: Packing) -> Array:
    """The inverse of `unpack`: U8 values into I32 words; bits left over are zero."""
    last = np.ascontiguousarray(np.moveaxis(values, axis, -1))
    per_word = WORD // bits
    if packing != "dense":
        last = _split(_filled(last, per_word), per_word)
    if packing == "awq":
        last = last[..., list(AWQ_NIBBLES)]
    stream = np.unpackbits(last[..., None], axis=-1, bitorder="little")[..., :bits]
    stream = _filled(stream.reshape(*last.shape[:-1], -1), WORD)
    words = np.packbits(stream, axis=-1, bitorder="little").view("<i4")
    words = words.reshape(*words.shape[: values.ndim - 1], -1)
    return np.moveaxis(words, -1, axis)


def to_float32(stored: Array, dtype: str) -> Array:
    """F32 values of an array viewed as VIEWS has it, of a float or integer dtype."""
    if dtype == "BF16":
        return (stored.astype("<u4") << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return np.take(small_floats(4, 3), stored)
    if dtype == "F8_E8M0":
        return np.take(powers_of_two(), stored)
    return stored.astype(np.float32)


@cache
def small_floats(exponent: int, mantissa: int) -> Array:
    """The F32 value of every code of a float of so many exponent and mantissa bits and a sign.

    As the OCP formats E2M1, E2M3 and E4M3 have them: without infinities, and with a NaN, all
    ones, only in the last.
    """
    codes = np.arange(1 << (exponent + mantissa))
    powers, fractions = codes >> mantissa, (codes & ((1 << mantissa) - 1)) / (1 << mantissa)
    bias = (1 << (exponent - 1)) - 1
    values: Array = np.ldexp(fractions + (powers > 0), np.maximum(powers, 1) - bias)
    if (exponent, mantissa) == (4, 3):
        values[-1] = np.nan
    signed: Array = np.concatenate([values, -values])
    return signed.astype(np.float32)


@cache
def powers_of_two() -> Array:
    """The F32 value of every code of an E8M0 scale: 2 ** (code - 127), NaN for 255."""
    values: Array = np.ldexp(np.ones(256), np.arange(256) - 127)
    values[-1] = np.nan
    return values.astype(np.float32)


def _split(array: Array, size: int) -> Array:
    """The last dimension in pieces of `size`."""
    return array.reshape(*array.shape[:-1], -1, size)


def _filled(array: Array, multiple: int) -> Array:
    """Zeros behind the last dimension, up to a multiple."""
    missing = -array.shape[-1] % multiple
    widths = [(0, 0)] * (array.ndim - 1) + [(0, missing)]
    return np.pad(array, widths) if missing else array
