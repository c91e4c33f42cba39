"""8xx: README.md, which the Hub shows as the model card."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import yaml

from mmfmt.errors import MmfmtError
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Subject

CARD = "README.md"
# of a front matter, which has a page at most; the rest of the card may be long
_MAX_CHARACTERS = 1 << 14
_MAX_BYTES = 1 << 17


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Safe, and without merges, which can grow without bounds."""

    def flatten_mapping(self, node: Any) -> None:
        """Leave `<<` alone: it is refused as a key."""


@rule("MMF805", level="warning")
def incomplete_model_card(subject: Subject) -> Iterator[Problem]:
    """README.md has a front matter in YAML with a license and, of a quantized model, its base.

    Without a license nobody may use the model. Without base_model the Hub does not list it among
    the quantizations of the model that people look for (huggingface.co/docs/hub/model-cards).

    Repair: write license, base_model and base_model_relation: quantized between two lines of ---
    at the top of README.md; license `other` asks for license_name and license_link.
    """
    if not subject.repo.has(CARD):
        yield Problem(CARD, "", "missing", "write a model card with license and base_model")
        return
    text = subject.repo.storage.read(CARD, 0, _MAX_BYTES).decode("utf-8", "replace")
    try:
        card = front_matter(text)
    except MmfmtError as error:
        yield Problem(CARD, "", error.problem, error.fix)
        return
    for key, fault in _faults(card, _quantized(subject)):
        yield Problem(CARD, key, fault, "write it into the front matter")


def front_matter(text: str) -> dict[str, Any]:
    """The YAML between two lines of `---` at the top; MmfmtError where there is none."""
    fix = "begin it with ---, license, base_model and ---"
    first, *lines = text.replace("\r\n", "\n").replace("\r", "\n").lstrip().split("\n")
    end = next((n for n, line in enumerate(lines) if line.rstrip(" \t") == "---"), None)
    if first != "---" or end is None:
        raise MmfmtError(CARD, "has no front matter", fix)
    block = "\n".join(lines[:end])
    if len(block) > _MAX_CHARACTERS:
        raise MmfmtError(CARD, f"front matter has {len(block)} characters", "shorten it")
    try:
        found = yaml.load(block, _Loader)
    except Exception as error:  # PyYAML raises many kinds
        problem = " ".join(str(error).split())[:200]
        raise MmfmtError(CARD, f"front matter is not YAML: {problem}", fix) from error
    if not isinstance(found, dict):
        raise MmfmtError(CARD, "front matter is no mapping of keys to values", fix)
    return found


def _faults(card: dict[str, Any], quantized: bool) -> Iterator[tuple[str, str]]:
    """(key, fault) of what the card lacks."""
    license = card.get("license")
    if not license:
        yield "license", "is missing"
    for key in ("license_name", "license_link"):
        if license == "other" and not card.get(key):
            yield key, "is missing, though license is other"
    if not quantized:
        return
    if not card.get("base_model"):
        yield "base_model", "is missing from the card of a quantized model"
    relation = card.get("base_model_relation", "quantized")
    if relation != "quantized":
        yield "base_model_relation", f"{relation!r}, expected 'quantized'"


def _quantized(subject: Subject) -> bool:
    with suppress(MmfmtError):  # what cannot be looked at is another rule's business
        models = subject.models
        return any(module.quantized for m in models for module in m.checkpoint.modules.values())
    return False
