"""3xx: names and shapes."""

import torch

from tests.damage import drop, put
from tests.defects.defect import Defect
from tests.repos import HF, NATIVE

DEFECTS: list[Defect] = [
    Defect("MMF301", "unknown name", put(NATIVE, "layers.0.attention.wx.weight", torch.ones(1))),
    Defect("MMF302", "no norm", drop(NATIVE, "layers.3.ffn_norm.weight")),
    Defect("MMF302", "no vision norm", drop(NATIVE, "vision_encoder.ln_pre.weight")),
    Defect("MMF302", "no vision norm in HF", drop(HF, "vision_tower.ln_pre.weight")),
    Defect("MMF302", "a layer too many", put(NATIVE, "layers.4.ffn_norm.weight", torch.ones(256))),
    Defect(
        "MMF303", "short norm", put(NATIVE, "norm.weight", torch.ones(255, dtype=torch.bfloat16))
    ),
    Defect("MMF303", "bias", put(NATIVE, "vision_language_adapter.w_in.bias", torch.ones(256))),
]
