"""Exports of AutoRound by rounding to nearest, which needs no data; no part of mmfmt is used.

Usage: python export_auto_round.py SOURCES OUTPUT, as export_llm_compressor.py.
"""

# mypy: disable-error-code="import-not-found"

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auto_round import AutoRound
from auto_round.utils.device_manager import get_ar_device


@dataclass(frozen=True)
class Export:
    """Arguments of a run."""

    scheme: str = "W4A16"
    format: str = "llm_compressor"
    source: str = "new"
    extra: Mapping[str, Any] = field(default_factory=dict)


# else AutoRound quantizes the files one by one, where the format allows it
WHOLE = {"disable_model_free": True}
EXPORTS = {
    "FP8_BLOCK": Export("FP8_BLOCK"),
    # what comes of a CPU without bfloat16, too
    "float32": Export("FP8_BLOCK", extra={"amp": False}),
    "W4A16": Export(),
    "by-files": Export("MXFP4"),
    "legacy-W4A16": Export(source="legacy"),
    "legacy-gptq": Export(format="auto_gptq", source="legacy"),
    "legacy-awq": Export(format="auto_awq", source="legacy"),
    "text-W4A16": Export(source="text"),
    "text-W4A16-asym": Export(source="text", extra={"sym": False}),
    "text-W8A8": Export("INT8_W8A8", source="text"),
    "text-mixed": Export(source="text", extra={"layer_config": {"down_proj": {"bits": 8}}}),
    "text-native": Export(format="auto_round", source="text", extra=WHOLE),
    "text-by-files": Export(format="auto_round", source="text"),
    "text-gptq": Export(format="auto_gptq", source="text"),
    "text-awq": Export(format="auto_awq", source="text"),
}
RTN = {"iters": 0, "disable_opt_rtn": True, "enable_torch_compile": False, "device_map": "cpu"}


def run(export: Export, source: Path, work: Path) -> Path:
    """Quantize and save a model; returns the folder that AutoRound chose inside `work`."""
    rounding = AutoRound(str(source), scheme=export.scheme, **RTN, **export.extra)
    _, folder = rounding.quantize_and_save(str(work), format=export.format)
    return Path(folder)


def main(sources: Path, output: Path) -> None:
    # or the weights of every export would be float32 on the CPUs that cannot, and on no others
    get_ar_device("cpu")._bf16_supported = True
    for name, export in EXPORTS.items():
        folder = run(export, sources / export.source, output / "work" / name)
        folder.rename(output / f"auto-round-{name}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
