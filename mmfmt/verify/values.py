"""What the bytes of a tensor hold, found a piece at a time from the bits of its floats."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bits:
    """How a float dtype is stored: numpy's word, the bits that are all set in what is not finite
    (F8_E4M3 and F8_E8M0: in NaN, the only such), and the sign bit (0: unsigned, without zero)."""

    word: str
    special: int
    sign: int


FLOAT_BITS = {
    "F64": Bits("<u8", 0x7FF0_0000_0000_0000, 1 << 63),
    "F32": Bits("<u4", 0x7F80_0000, 1 << 31),
    "F16": Bits("<u2", 0x7C00, 1 << 15),
    "BF16": Bits("<u2", 0x7F80, 1 << 15),
    "F8_E5M2": Bits("u1", 0x7C, 1 << 7),
    "F8_E4M3": Bits("u1", 0x7F, 1 << 7),
    "F8_E8M0": Bits("u1", 0xFF, 0),
}


@dataclass(frozen=True)
class Floats:
    """How many values of a float tensor are NaN or infinite, zero, or below zero."""

    special: int = 0
    zero: int = 0
    negative: int = 0


def count_floats(dtype: str, pieces: Iterable[bytes]) -> Floats:
    """Count over the pieces of a tensor whose dtype is in FLOAT_BITS; pieces hold whole values."""
    bits = FLOAT_BITS[dtype]
    special = zero = negative = 0
    for piece in pieces:
        words = np.frombuffer(piece, bits.word)
        special += _count(words & bits.special == bits.special)
        if bits.sign:
            zero += _count(words & (bits.sign - 1) == 0)
            negative += _count(words > bits.sign)
    return Floats(special, zero, negative)


def constant_word(pieces: Iterable[bytes]) -> int | None:
    """The one I32 word that a packed tensor of several words consists of; None if they differ."""
    first: int | None = None
    count = 0
    for piece in pieces:
        words = np.frombuffer(piece, "<u4" if len(piece) % 4 == 0 else "u1")
        first = int(words[0]) if first is None else first
        if (words != first).any():
            return None
        count += words.size
    return first if count > 1 else None


def _count(found: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(found))
