"""4xx: row order, and the names of scales that it hangs on."""

from pathlib import Path

from tests.damage import edit_tensors, rename
from tests.defects.defect import Defect
from tests.repos import FIRST, NATIVE, convert

WQ = "layers.0.attention.wq"


def reorder(repo: Path) -> None:
    """Order the rows of the consolidated set for the native reader."""
    convert(repo, "--force", "--reader", "native")


DEFECTS: list[Defect] = [
    Defect(
        "MMF406",
        "scale",
        rename(NATIVE, f"{WQ}.qscale_weight", f"{WQ}.weight_scale"),
        "int8",
        seen="vllm#24122",
    ),
    Defect(
        "MMF406",
        "blocks",
        rename(NATIVE, f"{WQ}.weight_scale", f"{WQ}.qscale_weight"),
        "block",
    ),
    Defect(
        "MMF407",
        "mixed readers",
        edit_tensors(FIRST, len, {"mmfmt.reader": "native"}),
        "sharded",
    ),
    Defect(
        "MMF407",
        "unknown reader",
        edit_tensors(FIRST, len, {"mmfmt.reader": "other"}),
        "sharded",
    ),
    Defect("MMF408", "native rows", reorder, seen="wq/wk rows"),
]
