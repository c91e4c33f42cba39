"""6xx: what loaders trip over in tokenizer files, and the ids that generation ends with."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from packaging.version import InvalidVersion, Version

from mmfmt.configs import CONFIG
from mmfmt.errors import MmfmtError
from mmfmt.schemas import table
from mmfmt.tokenizer import CONTROL_TOKENS
from mmfmt.verify.findings import Edit, Problem, rule, some
from mmfmt.verify.rules.processor import PIXELS, PROCESSOR
from mmfmt.verify.subject import Subject
from mmfmt.verify.tokenizers import FAST

GENERATION, SETTINGS = "generation_config.json", "tokenizer_config.json"
_END = "eos_token_id"
Place = tuple[str, tuple[str, ...]]
"""(file, keys)"""


@rule("MMF608", cost="tokenizers")
def end_of_text(subject: Subject) -> Iterator[Problem]:
    """What ends an answer in config.json, generation_config.json and tokenizer_config.json is
    the tokenizer's </s>; a list of ids has it among them.

    With another one answers never end, or end at once. transformers takes a generation_config.json
    that is silent at its word: generation goes on to the limit, whatever config.json says.

    Repair: write the tokenizer's id.
    """
    yield from _control_problems(subject, {_END})
    if _has(subject, GENERATION) and subject.repo.json(GENERATION).get(_END) is None:
        truth = subject.tokenizers.ids([CONTROL_TOKENS[_END]]) if subject.tokenizers.name else {}
        edits = tuple(Edit(GENERATION, (_END,), id) for id in truth.values())
        message = "is missing: transformers generates to the limit"
        yield Problem(GENERATION, _END, message, "write the id of </s>", edits)


@rule("MMF609", level="warning", cost="tokenizers")
def begin_and_padding(subject: Subject) -> Iterator[Problem]:
    """What begins and pads a text in the configs is the tokenizer's <s> and <pad>.

    Engines that read the configs then begin prompts with another token than the model was
    trained with; padding with a real token goes into the loss of fine-tuning.

    Repair: write the tokenizer's id. SentencePiece files have no <pad>.
    """
    yield from _control_problems(subject, CONTROL_TOKENS.keys() - {_END})


def _control_problems(subject: Subject, keys: set[str]) -> Iterator[Problem]:
    if not subject.tokenizers.name:
        return
    ids = subject.tokenizers.ids(CONTROL_TOKENS.values())
    for key in sorted(keys):
        token = CONTROL_TOKENS[key]
        said: list[tuple[Place, Any, Any]]
        said = [(place, found, ids.get(token)) for place, found in _ids(subject, key)]
        said += [(place, found, token) for place, found in _texts(subject, key)]
        for (path, place), found, truth in said:
            if token in ids and truth not in (found if isinstance(found, list) else [found]):
                message = f"{found!r}, but {token} is {ids[token]} in {subject.tokenizers.name}"
                edits = (Edit(path, place, truth),)
                yield Problem(path, ".".join(place), message, f"write {truth!r}", edits)


def _ids(subject: Subject, key: str) -> Iterator[tuple[Place, Any]]:
    """Ids of a control token in the configs, nulls left out."""
    for path in (CONFIG, GENERATION):
        body = subject.repo.json(path) if subject.repo.has(path) else {}
        text = body.get("text_config")
        places: list[tuple[tuple[str, ...], Any]] = [((key,), body)]
        places += [(("text_config", key), text)] if isinstance(text, Mapping) else []
        for place, section in places:
            if section.get(key) is not None:
                yield (path, place), section[key]


def _texts(subject: Subject, key: str) -> Iterator[tuple[Place, Any]]:
    """The text of a control token in tokenizer_config.json."""
    name = key.removesuffix("_id")
    body = subject.repo.json(SETTINGS) if subject.repo.has(SETTINGS) else {}
    found = body.get(name)
    if isinstance(found, Mapping):  # an AddedToken
        found = found.get("content")
    if found is not None:
        yield (SETTINGS, (name,)), found


@rule("MMF613")
def tokenizer_class(subject: Subject) -> Iterator[Problem]:
    """tokenizer_config.json does not name a tokenizer class that wraps mistral-common.

    AutoTokenizer then takes it whatever its caller asks for: it splits [IMG] in three, and a
    PixtralProcessor over it fails with a mismatch of image tokens (transformers#43110,
    mistral-common#109); without tekken.json it fails at once.

    Repair: write TokenizersBackend.
    """
    row = table("tokenizers")["mistral_common_classes"]
    found = subject.repo.json(SETTINGS).get("tokenizer_class") if _has(subject, SETTINGS) else None
    if found in row["names"]:
        edit = Edit(SETTINGS, ("tokenizer_class",), row["instead"])
        message = f"{found}, which AutoTokenizer takes even where asked for the other"
        yield Problem(SETTINGS, "tokenizer_class", message, f"write {row['instead']}", (edit,))


def _has(subject: Subject, name: str) -> bool:
    return subject.repo.has(name)


@rule("MMF614", level="warning", cost="tokenizers")
def added_token_flags(subject: Subject) -> Iterator[Problem]:
    """Special tokens in tokenizer.json are special, not normalized, and take no spaces along.

    A token with lstrip or rstrip swallows the spaces around it, one that is normalized or no
    special token is found in other text or decoded into answers (axolotl#678).

    Repair: write the flags.
    """
    fast, tekken = subject.tokenizers.fast, subject.tokenizers.tekken
    if not fast:
        return
    wanted = table("tokenizers")["added_token"]
    known = set(tekken.special if tekken else table("tokenizers")["old_special_tokens"])
    wrong: dict[tuple[str, Any], list[str]] = {}
    edits: dict[tuple[str, Any], list[Edit]] = {}
    for number, token in enumerate(fast.body.get("added_tokens") or []):
        for flag, value in wanted.items():
            if token["content"] in known and token.get(flag, value) != value:
                wrong.setdefault((flag, value), []).append(token["content"])
                edit = Edit(FAST, ("added_tokens", number, flag), value)
                edits.setdefault((flag, value), []).append(edit)
    for (flag, value), tokens in wrong.items():
        message = f"{some(tokens)}: {flag} is {not value}"
        fix = f"write {str(value).lower()}"
        yield Problem(FAST, "added_tokens", message, fix, tuple(edits[flag, value]))


@rule("MMF615", level="warning", cost="tokenizers")
def truncation_or_padding(subject: Subject) -> Iterator[Problem]:
    """tokenizer.json neither truncates nor pads.

    A calibration run leaves its settings behind: from then on prompts are cut, silently, at
    2048 tokens or so (llm-compressor#1418).

    Repair: write null.
    """
    fast = subject.tokenizers.fast
    for key in ("truncation", "padding"):
        found = fast.body.get(key) if fast else None
        if found:
            length = found.get("max_length") if isinstance(found, Mapping) else None
            message = f"is set{f' (max_length {length})' if length else ''}, expected null"
            yield Problem(FAST, key, message, "write null", (Edit(FAST, (key,), None),))


@rule("MMF616", level="warning", cost="tokenizers")
def transformers_version(subject: Subject) -> Iterator[Problem]:
    """config.json of a large vocabulary says a transformers_version of 5.0.0 or later.

    Below it transformers warns of an incorrect regex pattern without looking at the pattern,
    and whoever heeds the warning replaces the right one (transformers#42591, #45444).

    Repair: write 5.0.0.
    """
    row = table("tokenizers")["regex_warning"]
    size, body = subject.tokenizers.size, subject.repo.json(CONFIG) if _has(subject, CONFIG) else {}
    if not size or size <= row["vocabulary"] or body.get("model_type") not in row["model_types"]:
        return
    found = body.get("transformers_version")
    if not found or _older(str(found), row["version"]):
        said = f"{found}, below" if found else "missing, not"
        message = f"{said} {row['version']}: transformers warns of an incorrect regex pattern"
        edit = Edit(CONFIG, ("transformers_version",), row["version"])
        yield Problem(CONFIG, "transformers_version", message, f"write {row['version']}", (edit,))


def _older(found: str, version: str) -> bool:
    try:
        return Version(found) < Version(version)
    except InvalidVersion:  # what transformers does then is for the loaders to find
        return False


@rule("MMF617", level="warning")
def missing_chat_template(subject: Subject) -> Iterator[Problem]:
    """The HF set has a chat template.

    Without one transformers and vLLM refuse chats; a model that is no assistant needs none.

    Repair: take it from the base model, or from mmfmt convert consolidated-to-hf.
    """
    if not subject.repo.hf.exists or not _has(subject, FAST):
        return
    settings = subject.repo.json(SETTINGS) if _has(subject, SETTINGS) else {}
    files = table("tokenizers")["chat_template"]["files"]
    if not settings.get("chat_template") and not any(_has(subject, name) for name in files):
        yield Problem(files[0], "", "missing, and no other file has a chat template", _COPY)


_COPY = "copy it from the base model"


@rule("MMF618", cost="tokenizers")
def invalid_tokenizer_file(subject: Subject) -> Iterator[Problem]:
    """Tokenizer, processor and generation files are what their names say.

    tekken.json is checked as mistral-common does: ranks without gaps, bytes first, as many rows
    as default_vocab_size and default_num_special_tokens ask for.

    Repair: take the file of the base model.
    """
    repo, tokenizers = subject.repo, subject.tokenizers
    looks: list[tuple[str | None, Callable[[], object]]] = [
        (repo.tokenizer_name, lambda: tokenizers.ids(())),
        (FAST, lambda: (tokenizers.fast, tokenizers.fast and tokenizers.fast.merges)),
        *((name, partial(repo.json, name)) for name in (SETTINGS, PROCESSOR, PIXELS, GENERATION)),
    ]
    for name, look in looks:
        try:
            _ = look() if name and repo.has(name) else None
        except MmfmtError as error:
            location = error.place.removeprefix(str(name)).removeprefix(": ")
            yield Problem(str(name), location, error.problem, error.fix or _COPY)


@rule("MMF619", level="warning")
def unversioned_sentencepiece(subject: Subject) -> Iterator[Problem]:
    """The SentencePiece file of a consolidated set has its version in its name.

    vLLM finds tokenizer.model.v* only (vllm#17210, #15345), and mistral-common takes
    tokenizer.model for the first version, whose prompts are others.

    Repair: name it as the base model does, such as tokenizer.model.v3.
    """
    if subject.repo.native.exists and subject.repo.tokenizer_name == "tokenizer.model":
        message = "has no version in its name, which mistral-common and vLLM read there"
        yield Problem("tokenizer.model", "", message, "name it as the base model does")
