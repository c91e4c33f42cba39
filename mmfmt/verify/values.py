"""What the bytes of a tensor hold, found a piece at a time from the bits of its floats."""

from collections.abc import Iterable, Iterator
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


_CACHED = 1 << 17


def count_special(dtype: str, pieces: Iterable[bytes]) -> int:
    """NaN and infinite values of a tensor whose dtype is in FLOAT_BITS."""
    bits = FLOAT_BITS[dtype]
    return sum(_count(w & bits.special == bits.special) for w in _words(bits, pieces))


def count_signs(dtype: str, pieces: Iterable[bytes]) -> tuple[int, int]:
    """Zeros, and values below zero, of a tensor whose dtype is in FLOAT_BITS."""
    bits = FLOAT_BITS[dtype]
    if not bits.sign:
        return 0, 0
    counts = (
        (_count(w & (bits.sign - 1) == 0), _count(w > bits.sign)) for w in _words(bits, pieces)
    )
    zeros, negatives = zip(*counts, strict=True)
    return sum(zeros), sum(negatives)


def _words(bits: Bits, pieces: Iterable[bytes]) -> Iterator[NDArray[np.uint64]]:
    """Whole values, few enough at a time to stay in the processor's cache."""
    for piece in pieces:
        words = np.frombuffer(piece, bits.word)
        yield from (words[start : start + _CACHED] for start in range(0, words.size, _CACHED))


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
