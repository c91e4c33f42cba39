"""6xx: how images become tokens, in the files of both stacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isclose
from typing import Any

from mmfmt.layout import Symbols
from mmfmt.repo import Repo
from mmfmt.schemas import table
from mmfmt.tokenizer import IMAGE_TOKENS
from mmfmt.verify.findings import Edit, Problem, rule
from mmfmt.verify.rules.tokenizer import takes, takes_images
from mmfmt.verify.subject import Subject

PROCESSOR, PIXELS = "processor_config.json", "preprocessor_config.json"
Place = tuple[str, tuple[str, ...]]
"""(file, keys)"""


@rule("MMF610", cost="tokenizers")
def image_geometry(subject: Subject) -> Iterator[Problem]:
    """Patch size, spatial merge size and longest edge of the processor files and of tekken.json
    are those of the model.

    A wrong one makes another number of image tokens, without an error: with the merge size
    missing 40 tokens for 12, with a patch size of 16 for 14 only 8 (transformers#37019,
    mlx-vlm#873, mistral-common#77). Without processor_config.json transformers takes a patch
    size of 16 and no merging.

    Repair: write the model's value.
    """
    if not takes_images(subject):
        return
    models = _described(subject)
    for row in table("tokenizers")["geometry"]:
        for (path, keys), found, mendable in _said(subject, row):
            # mistral-common's file belongs to params.json, where there is one
            owners = models[-1:] if path == subject.tokenizers.name else models
            truths = [_of_model(row, model.symbols) for model in owners]
            if found not in truths:
                message = f"{row['what']} {found}, but {truths[0]} in the model"
                edits = (Edit(path, keys, truths[0]),) if mendable else ()
                yield Problem(path, ".".join(keys), message, f"write {truths[0]}", edits)


@dataclass(frozen=True)
class Sides:
    """Pixels of an image token's side, and of the longest edge of an image."""

    cell: int
    edge: int


def model_sides(subject: Subject) -> Sides | None:
    """How the model itself cuts images; None for one that takes none."""
    if not takes_images(subject):
        return None
    symbols = _described(subject)[-1].symbols
    patch, merge, edge = (_of_model(row, symbols) for row in table("tokenizers")["geometry"])
    return Sides(patch * merge, edge)


def _described(subject: Subject) -> list[Any]:
    return [model for model in subject.models if subject.repo.has(model.config_file)]


def _of_model(row: Mapping[str, Any], symbols: Symbols) -> Any:
    found = (symbols[path] for path in row["model"] if symbols.get(path) is not None)
    return next(found, row.get("model_default"))


def _said(subject: Subject, row: Mapping[str, Any]) -> Iterator[tuple[Place, Any, bool]]:
    """Where a value stands beside the model's own config, the value, and whether --fix may."""
    if images := _tekken_images(subject):
        file, section, said = images
        found = said.get(row["tekken"], row.get("tekken_default"))
        yield (file, (section, row["tekken"])), found, False
    if not subject.repo.hf.exists:
        return
    processor = _json(subject.repo, PROCESSOR)
    if "processor" in row and (processor or subject.repo.has(PIXELS)):
        found = processor.get(row["processor"], row["default"])
        yield (PROCESSOR, (row["processor"],)), found, bool(processor)
    if "pixels" in row:
        yield from _pixels(subject.repo, processor, row["pixels"].split("."))


def _tekken_images(subject: Subject) -> tuple[str, str, Mapping[str, Any]] | None:
    """(file, section, settings) of mistral-common; None where it takes no images."""
    if tekken := subject.tokenizers.tekken:
        section = "multimodal" if tekken.body.get("multimodal") else "image"
        return (tekken.name, section, tekken.images) if tekken.images else None
    name = subject.repo.tokenizer_name or ""
    for ending, settings in table("tokenizers")["sentencepiece_images"].items():
        if name.endswith(ending):
            return name, ending, settings
    return None


def _pixels(
    repo: Repo, processor: Mapping[str, Any], keys: list[str]
) -> Iterator[tuple[Place, Any, bool]]:
    """A setting of the image processor, in every file that has it."""
    places: list[tuple[Place, Any]] = [
        ((PROCESSOR, ("image_processor", *keys)), processor.get("image_processor")),
        ((PIXELS, tuple(keys)), _json(repo, PIXELS)),
    ]
    for (file, path), found in places:
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):  # height and width
            for side, value in sorted(found.items()):
                yield (file, (*path, side)), value, True
        elif found is not None:
            yield (file, path), found, True


def _json(repo: Repo, name: str) -> Mapping[str, Any]:
    return repo.json(name) if repo.has(name) else {}


@rule("MMF611", cost="tokenizers")
def missing_multimodal_section(subject: Subject) -> Iterator[Problem]:
    """The tokenizer of a model that takes images or audio says so: tekken.json has a section
    image (or audio), a SentencePiece file a name that ends in m1.

    Without it mistral-common, and vLLM with it, encodes text only. tokenizer.model.v7 and
    .v7m1 hold the same bytes: renaming the file takes its images away.

    Repair: take the tokenizer file of the base model, under its own name.
    """
    for section in table("tokenizers")["section"]:
        name = subject.repo.tokenizer_name
        if not name or not takes(subject, section["model"]):
            continue
        if tekken := subject.tokenizers.tekken:
            there = any(tekken.body.get(key) for key in section["keys"])
        else:
            there = _tekken_images(subject) is not None
        if not there:
            message = f"has no {section['keys'][0]} section, but the model takes {section['takes']}"
            yield Problem(name, section["keys"][0], message, "take the file of the base model")


@rule("MMF624")
def image_pixels(subject: Subject) -> Iterator[Problem]:
    """The image processor scales and normalizes pixels as mistral-common does.

    The vision tower was trained with CLIP's mean and deviation. Others, such as those of ImageNet
    or of SigLIP, load everywhere and give it the wrong colours: descriptions get worse, in the HF
    layout only.

    Repair: write the value, or leave it to the class.
    """
    if not takes_images(subject) or not subject.repo.hf.exists:
        return
    processor = _json(subject.repo, PROCESSOR)
    for key, wanted in table("tokenizers")["pixels"].items():
        for (path, place), found, _ in _pixels(subject.repo, processor, [key]):
            if not _equal(found, wanted):
                message = f"{found}, but {wanted} in mistral-common"
                edits = (Edit(path, place, wanted),)
                yield Problem(path, ".".join(place), message, f"write {wanted}", edits)


def _equal(found: Any, wanted: Any) -> bool:
    """Whether two settings are the same number, or numbers, but for rounding."""
    pair = [value if isinstance(value, list) else [value] for value in (found, wanted)]
    numbers = all(isinstance(number, int | float) for number in pair[0])
    return (
        numbers and len(pair[0]) == len(pair[1]) and all(map(partial(isclose, rel_tol=1e-4), *pair))
    )


@rule("MMF612")
def processor_tokens(subject: Subject) -> Iterator[Problem]:
    """The processor puts [IMG], [IMG_BREAK] and [IMG_END] where an image stands.

    With another text, such as <image>, the processor looks for a token that prompts do not
    have, and stops with a ValueError.

    Repair: write the token.
    """
    if not takes_images(subject) or not subject.repo.has(PROCESSOR):
        return
    processor = subject.repo.json(PROCESSOR)
    for key, token in IMAGE_TOKENS.items():
        name = key.removesuffix("_id")
        if processor.get(name, token) != token:
            message = f"{processor[name]!r}, expected {token!r}"
            edit = Edit(PROCESSOR, (name,), token)
            yield Problem(PROCESSOR, name, message, f"write {token}", (edit,))
