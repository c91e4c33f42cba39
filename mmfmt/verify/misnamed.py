"""Tensors whose names would be known elsewhere: in another generation, or in the other layout."""

import re
from collections.abc import Iterator, Mapping

from mmfmt.checkpoint import Checkpoint
from mmfmt.model import Key
from mmfmt.naming import Match, Naming, hf_namings, native


def misnamed(checkpoint: Checkpoint) -> Mapping[str, Match]:
    """What each unknown tensor means that has a name of another naming, or a part of it twice."""
    others = [*hf_namings(checkpoint.naming.family), native(checkpoint.naming.family)]
    strange = (name for name in checkpoint.unknown if name not in checkpoint.doubled)
    found = ((name, _meaning(name, others)) for name in strange)
    return {name: match for name, match in found if match and checkpoint.naming.has(match.row)}


def misplaced(checkpoint: Checkpoint) -> set[Key]:
    """The modules that such tensors hold."""
    return {(match.row, match.slots) for match in misnamed(checkpoint).values()}


def _meaning(name: str, namings: list[Naming]) -> Match | None:
    matches = (naming.match(spelled) for spelled in _spellings(name) for naming in namings)
    return next(filter(None, matches), None)


def _spellings(name: str) -> Iterator[str]:
    """The name, and what is left of it when no part follows itself."""
    yield name
    # language_model.language_model.layers.0 -> language_model.layers.0
    yield re.sub(r"(?<![^.])([a-z_]+)(?:\.\1)+(?![^.])", r"\1", name)
