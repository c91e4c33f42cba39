"""The files of a plan beside the weights: copied companions, and what gives way."""

import re
from collections.abc import Iterable
from pathlib import Path

from mmfmt.convert.plan import Plan
from mmfmt.repo import Repo, WeightSet
from mmfmt.storage import Folder

# what a repo cannot be published without
_DOCUMENTS = re.compile(r"README\.md|(LICEN[CS]E|NOTICE)([.-].+)?")


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, which then holds both layouts.

    vLLM's HF loader takes every *.safetensors there for its own, unless an index names those
    that are: a single model.safetensors needs one too.
    """
    return one.resolve() == other.resolve()


def documents(target: Path, repo: Repo) -> list[Path]:
    """The model card and the licence texts of a repo, those only that the target has not got."""
    names = [name for name in repo.names if _DOCUMENTS.fullmatch(name)]
    return [repo.path / name for name in names if not (target / name).exists()]


def companions(target: Path, paths: Iterable[Path]) -> tuple[tuple[str, str], ...]:
    """(name, source path) of files to copy: those that do not lie in the target already."""
    apart = [path for path in paths if path.resolve() != (target / path.name).resolve()]
    return tuple((path.name, str(path)) for path in apart)


def replaced(plan: Plan, stem: str) -> tuple[str, ...]:
    """Files of an older weight set of this stem, and any other that the plan would overwrite."""
    target = Path(plan.target)
    weights = WeightSet(Folder(target), stem)
    names = {*weights.on_disk, weights.index_name, *plan.files}
    return tuple(sorted(name for name in names if (target / name).exists()))
