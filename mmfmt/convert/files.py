"""The files of a plan beside the weights: copied companions, and what gives way."""

import re
from collections.abc import Iterable, Iterator

from mmfmt.convert.plan import Plan, SourceFile
from mmfmt.repo import Repo, WeightSet
from mmfmt.storage import Storage

Companion = tuple[Repo, str]
"""A file of a repo, by name."""

# what a repo cannot be published without
_DOCUMENTS = re.compile(r"README\.md|(LICEN[CS]E|NOTICE)([.-].+)?")


def same_place(one: Storage, other: Storage) -> bool:
    """Whether two storages are one repo, which then holds both layouts.

    vLLM's HF loader takes every *.safetensors there for its own, unless an index names those
    that are: a single model.safetensors needs one too.
    """
    return one.place == other.place


def source_files(weights: WeightSet) -> tuple[SourceFile, ...]:
    """The weight files that a plan is made from."""
    return tuple(
        SourceFile(name, weights.storage.sizes[name], header.data_start, header.sha256)
        for name, header in weights.headers.items()
    )


def documents(target: Storage, repo: Repo) -> Iterator[Companion]:
    """The model card and the licence texts of a repo, those only that the target has not got."""
    names = (name for name in repo.names if _DOCUMENTS.fullmatch(name))
    yield from ((repo, name) for name in names if name not in target.sizes)


def tokenizer_of(repo: Repo) -> Iterator[Companion]:
    """mistral-common's tokenizer file of a repo, where it has one."""
    if repo.tokenizer_name:
        yield repo, repo.tokenizer_name


def companions(target: Storage, found: Iterable[Companion]) -> tuple[tuple[str, str], ...]:
    """(name, local path) of files to copy: those that do not lie in the target already."""
    apart = [(repo, name) for repo, name in found if not same_place(repo.storage, target)]
    return tuple((name, str(repo.storage.fetch(name))) for repo, name in apart)


def replaced(plan: Plan, target: Storage, stem: str) -> tuple[str, ...]:
    """Files of an older weight set of this stem, and any other that the plan would overwrite."""
    weights = WeightSet(target, stem)
    names = {*weights.on_disk, weights.index_name, *plan.files}
    return tuple(sorted(name for name in names if name in target.sizes))
