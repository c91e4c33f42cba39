"""The positions of Whisper's encoder, which the HF layout stores and native readers compute."""

from math import log

import numpy as np

from mmfmt.arrays import Array


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
