"""6xx: what transformers and mistral-common really make of the files, run offline."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from mmfmt.configs import CONFIG
from mmfmt.schemas import table
from mmfmt.tokenizer import IMAGE_TOKENS
from mmfmt.verify import probe
from mmfmt.verify.findings import Check, Problem, explained, rule, some
from mmfmt.verify.probe import Answer, Pair, require
from mmfmt.verify.rules import processor, tokenizer, tokenizer_files
from mmfmt.verify.rules.processor import PROCESSOR, Sides, model_sides
from mmfmt.verify.subject import Subject
from mmfmt.verify.tokenizers import FAST

_AGAIN = "make the HF files anew of tekken.json: mmfmt convert consolidated-to-hf"
_FILES: tuple[Check, ...] = (
    tokenizer_files.invalid_tokenizer_file,
    tokenizer_files.tokenizer_class,
)
_TOKENIZERS: tuple[Check, ...] = (
    tokenizer.special_token_ids,
    tokenizer.regular_vocabulary,
    tokenizer.merges,
    tokenizer.pre_tokenizer,
    tokenizer_files.added_token_flags,
    tokenizer_files.end_of_text,
    tokenizer_files.begin_and_padding,
)
_IMAGES: tuple[Check, ...] = (
    tokenizer.image_token_ids,
    processor.image_geometry,
    processor.missing_multimodal_section,
    processor.processor_tokens,
    processor.image_pixels,
)


@rule("MMF620", cost="loaders")
def loader_fails(subject: Subject) -> Iterator[Problem]:
    """AutoTokenizer, AutoProcessor and mistral-common load the repo, each the files that are
    there for it.

    What fails here, offline and in the installed versions, fails for everybody who serves the
    repo.

    Repair: the message is that of the loader; take the file of the base model.
    """
    if explained(subject, _FILES):
        return
    if subject.repo.hf.exists and subject.repo.has(CONFIG):
        _ = subject.hf.body  # what is wrong with it is another rule's business
    found, path = subject.probe, subject.tokenizers.name or CONFIG
    if found.crash:
        yield Problem(path, "", f"the loaders gave no answer: {found.crash}", _AGAIN)
    for error, loaders in _failures(found).items():
        place = next((_READS[name] for name in _READS if name in loaders), path)
        yield Problem(place, loaders[0], f"{some(loaders)}: {error}", _AGAIN)
    for what, fault in found.faults.items():
        yield Problem(path, what, f"cannot be asked for: {fault}", _AGAIN)
    for load in found.loads.values():
        require(path, load)


_READS = {probe.FAST: FAST, probe.PROCESSOR: PROCESSOR}


def _failures(found: probe.Probe) -> Mapping[str, list[str]]:
    """The loaders that fail, by what they say."""
    failures: dict[str, list[str]] = {}
    for name, load in found.loads.items():
        if load.error and not load.missing:
            failures.setdefault(load.error, []).append(name)
    return failures


@rule("MMF621", cost="loaders")
def special_token_split(subject: Subject) -> Iterator[Problem]:
    """transformers' tokenizer encodes every special token, [IMG] above all, to its one id.

    Split in letters it means nothing to the model, and an image finds no place in the prompt
    (transformers#43110). mistral-common never encodes a special token that stands in text, by
    design: it is asked with an image instead.

    Repair: remove split_special_tokens from tokenizer_config.json, or make tokenizer.json anew.
    """
    split = subject.probe.split
    if split:
        tokens = sorted(split, key=lambda token: (token not in IMAGE_TOKENS.values(), token))
        ids = list(split[tokens[0]])
        message = f"{some(tokens)}: encodes to {ids}, expected one id"
        yield Problem(FAST, tokens[0], message, _AGAIN)


@rule("MMF622", cost="loaders")
def image_tokens(subject: Subject) -> Iterator[Problem]:
    """An image becomes as many [IMG] as the model has patches for it, row by row with
    [IMG_BREAK] and a last [IMG_END], in mistral-common and in PixtralProcessor.

    Sizes that are resized to a fraction of a pixel are not asked for: there mistral-common
    rounds and transformers takes the floor.

    Repair: mend processor_config.json, or the image section of tekken.json.
    """
    sides = model_sides(subject)
    if not sides or explained(subject, [*_IMAGES, special_token_split]):
        return
    ids = subject.tokenizers.ids(IMAGE_TOKENS.values())
    native = subject.repo.tokenizer_name or ""
    for pair in subject.probe.images:
        expected = _grid(pair.what, sides, [ids[token] for token in IMAGE_TOKENS.values()])
        for path, answer in ((native, pair.native), (PROCESSOR, pair.hf)):
            require(path, answer)
            if fault := answer and _image_fault(answer, expected):
                width, height = pair.what
                yield Problem(path, f"image of {width}x{height}", fault, _AGAIN)
                return


def _grid(size: tuple[int, int], sides: Sides, ids: Sequence[int]) -> list[int]:
    """The ids of an image of a width and height in pixels."""
    shrink = max(1, max(size) // sides.edge)
    columns, rows = (-(-side // shrink // sides.cell) for side in size)
    image, row_end, end = ids
    grid = ([image] * columns + [row_end]) * rows
    return [*grid[:-1], end]


def _image_fault(answer: Answer, expected: Sequence[int]) -> str | None:
    if answer.error:
        return f"fails: {answer.error}"
    found = [id for id in answer.ids if id in expected]
    if found == expected:
        return None
    counts = [sum(id == expected[0] for id in ids) for ids in (found, expected)]
    return f"{counts[0]} [IMG] of {len(found)} tokens, expected {counts[1]} of {len(expected)}"


@rule("MMF623", level="warning", cost="loaders")
def chat_template_differs(subject: Subject) -> Iterator[Problem]:
    """The chat template renders chats to the ids that mistral-common encodes them to.

    A space, a second <s> or a missing [/INST] puts every prompt beside what the model was
    trained with (mistral-common#3, vllm#16976, transformers#26891). A template may put a system
    prompt of its own before chats that have none.

    Repair: take the template of the base model, or that of mmfmt convert consolidated-to-hf.
    """
    if explained(subject, [*_TOKENIZERS, *_IMAGES, special_token_split, image_tokens]):
        return
    faults: dict[str, str] = {}
    for pair in subject.probe.chats:
        require(FAST, pair.hf)
        if fault := _chat_fault(pair, _names(subject)):
            faults[pair.what] = fault
    if faults:
        chat, fault = next(iter(faults.items()))
        more = f" (and {len(faults) - 1} more chats)" if len(faults) > 1 else ""
        yield Problem(_template_file(subject), f"chat: {chat}", fault + more, _AGAIN)


def _template_file(subject: Subject) -> str:
    files = table("tokenizers")["chat_template"]["files"]
    return next((n for n in files if subject.repo.has(n)), tokenizer_files.SETTINGS)


def _names(subject: Subject) -> Mapping[int, str]:
    fast = subject.tokenizers.fast
    return {id: token for token, id in fast.ids.items()} if fast else {}


def _chat_fault(pair: Pair, names: Mapping[int, str]) -> str | None:
    """The first difference; chats that mistral-common refuses are not compared."""
    if not pair.native or pair.native.error or not pair.hf:
        return None
    if pair.hf.error:
        return f"fails: {pair.hf.error}"
    here, there = pair.hf.ids, pair.native.ids
    if here == there or (pair.what == "user" and _adds_system_prompt(here, there, names)):
        return None
    first = next(n for n in count() if here[n : n + 1] != there[n : n + 1])
    said = [_said(ids, first, names) for ids in (here, there)]
    return f"token {first} is {said[0]}, but {said[1]} in mistral-common"


def _adds_system_prompt(
    here: Sequence[int], there: Sequence[int], names: Mapping[int, str]
) -> bool:
    """Whether one chat is the other with a system prompt after its first token."""
    if here[:1] != there[:1] or here[1 - len(there) :] != there[1:]:
        return False
    begin: str = table("tokenizers")["chat_template"]["system"]
    return names.get(here[1]) == begin


def _said(ids: Sequence[int], place: int, names: Mapping[int, str]) -> str:
    if place >= len(ids):
        return "the end"
    return f"{ids[place]} ({names[ids[place]]})" if ids[place] in names else str(ids[place])
