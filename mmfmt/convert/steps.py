"""What a conversion does to bytes: small steps on numpy's arrays.

Steps act on a batch of equal blocks, an array [batch, *block shape]; their axes count the
dimensions of a block. To plan with them needs no numpy, whose import takes long.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mmfmt.arrays import Array, Packing

Order = Literal["hf", "native"]


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

    def __call__(self, blocks: "Array") -> "Array":
        at, shape = self.axis + 1, blocks.shape
        half = shape[at] // self.heads // 2
        split = (self.heads, 2, half) if self.to == "native" else (self.heads, half, 2)
        parts = blocks.reshape(*shape[:at], *split, *shape[at + 1 :])
        return parts.swapaxes(at + 1, at + 2).reshape(shape)


@dataclass(frozen=True)
class Unpack:
    """`count` values of `bits` (1 to 8) along `axis` from I32 words, as U8: `arrays.unpack`."""

    axis: int
    bits: int
    count: int
    packing: "Packing"
    step: Literal["unpack"] = "unpack"

    def __call__(self, words: "Array") -> "Array":
        from mmfmt.arrays import unpack

        return unpack(words, self.axis + 1, self.bits, self.count, self.packing)


@dataclass(frozen=True)
class Pack:
    """The inverse of `Unpack`: U8 values into I32 words; bits left over are zero."""

    axis: int
    bits: int
    packing: "Packing"
    step: Literal["pack"] = "pack"

    def __call__(self, values: "Array") -> "Array":
        from mmfmt.arrays import pack

        return pack(values, self.axis + 1, self.bits, self.packing)


@dataclass(frozen=True)
class Reciprocal:
    """One over each F32 value: a divisor for a multiplier."""

    step: Literal["reciprocal"] = "reciprocal"

    def __call__(self, values: "Array") -> "Array":
        reciprocals: Array = 1.0 / values
        return reciprocals


Step = Reorder | Unpack | Pack | Reciprocal
