"""The row order of Q and K from the weights alone.

Rotary positions turn the two rows of a pair by one frequency, which falls from pair to pair.
What a head has learnt to do with a frequency shows in the norms of the rows that it turns:
rows of like frequency have like norms, those of one pair above all. Read in the wrong order,
rows of unlike frequency stand side by side; weights that were never trained fit neither order.

The measure is HSIC (Gretton et al., 2005) between the frequencies of a head's rows and the
ranks of their norms, with all heads stacked as the coordinates of a row; ranks, for a few huge
rows must not decide. What it is worth is told by its distribution over random rotations of the
rows, the same one for all heads: heads that share one profile count as one witness. Its first
three moments make a Pearson type III curve (Kazi-Aoual et al., 1995), and Wilson and Hilferty's
cube root makes that a standard normal score.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from mmfmt.arrays import Array
from mmfmt.convert.steps import Order, Reorder

Verdict = Order | Literal["undetermined"]

# a standard normal score passes it three times in a million
THRESHOLD = 4.5
# of the better score, what the other may have: a smooth profile is not all noise in the other
# order, and one that repeats itself may be nearly as smooth
SHARE = 0.75
# of all frequencies, over how many norms stay alike
REACH = 0.1
# fewer rows have too few orders to tell; no head has more
HEAD_DIMS = range(16, 1025)


@dataclass(frozen=True)
class RowOrder:
    """How well the row norms of `heads` heads fit either order, as standard normal scores.

    Random weights pass 3 in one case of 600, whatever their distribution.
    """

    hf: float
    native: float
    heads: int

    @property
    def verdict(self) -> Verdict:
        """`hf` or `native`, where one order fits beyond chance and the other much less."""
        low, high = sorted((self.hf, self.native))
        if high < THRESHOLD or low > SHARE * high:
            return "undetermined"
        return "hf" if self.hf > self.native else "native"


def row_order(norms: Iterable[Array], axes: int = 1) -> RowOrder:
    """Judge modules whose rows must all lie in one order.

    `norms` are the row norms of each module, [heads, head_dim] with one head_dim for all;
    `axes` is how many position axes a head's frequencies are dealt out to (`Row.axes`).
    Heads with a norm that is not finite are left out.
    """
    heads = [module[np.isfinite(module).all(axis=1)] for module in norms]
    count = sum(map(len, heads))
    head_dim = heads[0].shape[1] if heads else 0
    if head_dim not in HEAD_DIMS or head_dim % (2 * axes):
        return RowOrder(0.0, 0.0, count)
    likeness = _centred(np.sum([_likeness(module) for module in heads], axis=0))
    kernel = _frequency_kernel(head_dim, axes)
    # the row of a native head that comes to stand at each row of a HF head
    rows = Reorder(0, 1, "hf")(np.arange(head_dim)[None])[0]
    native = likeness[np.ix_(rows, rows)]
    return RowOrder(_score(kernel, likeness), _score(kernel, native), count)


def _likeness(norms: Array) -> Array:
    """[head_dim, head_dim]: products of the rows' ranks in their head, summed over heads."""
    ranks = np.array([_centred_ranks(head) for head in norms]).reshape(norms.shape)
    likeness: Array = ranks.T @ ranks
    return likeness


def _centred_ranks(head: Array) -> Array:
    """How many norms are smaller less how many are larger; equal ones share a rank."""
    ordered = np.sort(head)
    smaller = np.searchsorted(ordered, head, "left")
    larger = len(head) - np.searchsorted(ordered, head, "right")
    return (smaller - larger).astype(np.float64)


def frequency_numbers(head_dim: int, axes: int) -> Array:
    """[head_dim]: the number of each row's frequency, in HF order, 0 for the highest.

    Of one axis, pair i turns by frequency i; of two, the first half of the pairs by the even
    ones, for rows of patches, and the second by the odd ones (transformers'
    PixtralVisionRotaryEmbedding).
    """
    dealt = np.arange(head_dim // 2).reshape(-1, axes).T.ravel()
    return np.tile(dealt, 2)


@cache
def _frequency_kernel(head_dim: int, axes: int) -> Array:
    """[head_dim, head_dim]: how near the frequencies of two rows are, HF order; centred."""
    numbers = frequency_numbers(head_dim, axes)
    distances = np.abs(numbers[:, None] - numbers) / (head_dim // 2)
    return _centred(np.exp(-distances / REACH))


def _score(kernel: Array, likeness: Array) -> float:
    """How far HSIC stands out of its distribution under random rotations, standard normal."""
    n = len(kernel) - 1
    squares = np.vdot(kernel, kernel) * np.vdot(likeness, likeness)
    if not squares:  # no head, or none with two norms that differ
        return 0.0
    variance = 2 * squares / ((n - 1) * (n + 2))
    cubes = np.vdot(kernel @ kernel, kernel) * np.vdot(likeness @ likeness, likeness)
    third = 8 * n * cubes / ((n - 1) * (n - 2) * (n + 2) * (n + 4))
    return _normal(np.vdot(kernel, likeness) / np.sqrt(variance), third / variance**1.5)


def _centred(matrix: Array) -> Array:
    """Symmetric: rows of mean 0, and the trace that is left spread evenly and taken off."""
    means, size = matrix.mean(axis=0), len(matrix)
    centred: Array = matrix - means - means[:, None] + means.mean()
    centred -= np.trace(centred) / (size - 1) * (np.eye(size) - 1 / size)
    return centred


def _normal(deviation: float, skewness: float) -> float:
    """The standard normal score of one from a Pearson type III curve (Wilson-Hilferty)."""
    if abs(skewness) < 1e-6:
        return float(deviation)
    root = np.cbrt(1 + skewness * deviation / 2)
    return float(6 / skewness * (root - 1) + skewness / 6)
