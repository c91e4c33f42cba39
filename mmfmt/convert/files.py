"""The files of a plan beside the weights: copied companions, and what gives way."""

from collections.abc import Iterable
from pathlib import Path

from mmfmt.convert.plan import Plan
from mmfmt.repo import WeightSet


def companions(target: Path, paths: Iterable[Path]) -> tuple[tuple[str, str], ...]:
    """(name, source path) of files to copy: those that do not lie in the target already."""
    apart = [path for path in paths if path.resolve() != (target / path.name).resolve()]
    return tuple((path.name, str(path)) for path in apart)


def replaced(plan: Plan, stem: str) -> tuple[str, ...]:
    """Files of an older weight set of this stem, and any other that the plan would overwrite."""
    weights = WeightSet(Path(plan.target), stem)
    names = {*weights.on_disk, weights.index_path.name, *plan.files}
    return tuple(sorted(name for name in names if (weights.folder / name).exists()))
