"""6xx: ids of special tokens, and whether the two tokenizers are one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmfmt.configs import CONFIG, PARAMS
from mmfmt.fast_tokenizer import FastTokenizer, bytes_of
from mmfmt.schemas import table
from mmfmt.tokenizer import IMAGE_TOKENS, Tekken
from mmfmt.verify.findings import Edit, Problem, explained, rule, some
from mmfmt.verify.rules.names import wrong_shape
from mmfmt.verify.subject import Subject
from mmfmt.verify.tokenizers import FAST, Tokenizers

_AGAIN = "make tokenizer.json anew of tekken.json: mmfmt convert consolidated-to-hf"
_TAKE = "take tokenizer.json of the base model"
Place = tuple[str, tuple[str, ...]]
"""(file, keys)"""


def takes(subject: Subject, field: str) -> bool:
    """Whether the model has a field of params.json, such as the size of a vision encoder."""
    described = (m for m in subject.models if subject.repo.has(m.config_file))
    return any(field in model.symbols for model in described)


def takes_images(subject: Subject) -> bool:
    """Whether the model has a vision encoder."""
    return takes(subject, table("tokenizers")["section"][0]["model"])


@rule("MMF601", cost="tokenizers")
def image_token_ids(subject: Subject) -> Iterator[Problem]:
    """[IMG], [IMG_BREAK] and [IMG_END] have one id each, in tekken.json, tokenizer.json,
    config.json and params.json.

    A wrong image_token_index loads without a word and fails only inside the model; ids differ
    between tokenizers (12 and 13 in tekken, 14 and 15 in SentencePiece v7), so none is safe to
    assume (vllm#11393). A params.json that says -1 leaves the id to the tokenizer.

    Repair: write the tokenizer's id.
    """
    if not takes_images(subject) or not subject.tokenizers.name:
        return
    ids = subject.tokenizers.ids(IMAGE_TOKENS.values())
    for key, token in IMAGE_TOKENS.items():
        truth = ids.get(token)
        if truth is None:
            yield Problem(subject.tokenizers.name, token, "is not a special token here", _AGAIN)
            continue
        for (path, keys), found in _said(subject, key, token):
            if found != truth:
                here = "missing" if found is None else found
                message = f"{token} is {here}, but {truth} in {subject.tokenizers.name}"
                edits = (Edit(path, keys, truth),) if path != FAST else ()
                yield Problem(path, ".".join(keys), message, f"write {truth}", edits)


def _said(subject: Subject, key: str, token: str) -> Iterator[tuple[Place, Any]]:
    """The ids of a token that files beside the tokenizer's own say, with where they do."""
    repo, fast = subject.repo, subject.tokenizers.fast
    if fast and subject.tokenizers.name != FAST:
        yield (FAST, ("added_tokens", token)), fast.ids.get(token)
    if repo.has(CONFIG) and key == "image_token_id":
        for name in ("image_token_index", "image_token_id"):
            if name in subject.hf.body:
                yield (CONFIG, (name,)), subject.hf.body[name]
    if repo.has(PARAMS):
        found = (subject.native.body.get("vision_encoder") or {}).get(key, -1)
        if found != -1:
            yield (PARAMS, ("vision_encoder", key)), found


@rule("MMF602", cost="tokenizers")
def special_token_ids(subject: Subject) -> Iterator[Problem]:
    """tokenizer.json adds the special tokens of tekken.json under the same ids, and as many.

    Control tokens are the frame of every prompt: one wrong id makes answers worse without a
    word. A wrong default_num_special_tokens shifts the id of every regular token.

    Repair: make tokenizer.json anew of tekken.json.
    """
    if not subject.tokenizers.both:
        return
    tekken, fast = subject.tokenizers.both
    apart = set(IMAGE_TOKENS.values()) if takes_images(subject) else set()
    names = sorted((tekken.special.keys() | fast.ids.keys()) - apart)
    unlike = [name for name in names if tekken.special.get(name) != fast.ids.get(name)]
    if unlike:
        here, there = fast.ids.get(unlike[0], "missing"), tekken.special.get(unlike[0], "missing")
        message = f"{some(unlike)}: {here} here, {there} in {tekken.name}"
        yield Problem(FAST, "added_tokens", message, _AGAIN)
    shift = _first_regular_id(subject.tokenizers.ranks, fast.vocabulary)
    if shift is not None and shift != tekken.special_count:
        message = f"regular tokens begin at {shift}, but at {tekken.special_count} in {tekken.name}"
        yield Problem(FAST, "model.vocab", message, _AGAIN)


def _first_regular_id(ranks: Mapping[str, int], found: Mapping[str, int]) -> int | None:
    """How far the ids of most regular tokens lie above their ranks; None if none is found."""
    shifts = Counter(found[piece] - rank for piece, rank in ranks.items() if piece in found)
    return shifts.most_common(1)[0][0] if shifts else None


@rule("MMF603", cost="tokenizers")
def regular_vocabulary(subject: Subject) -> Iterator[Problem]:
    """Every regular token has the same bytes in tekken.json and tokenizer.json, at the same
    rank; every piece of a SentencePiece file has the same id there.

    All are compared: two that changed places are enough to garble text.

    Repair: make tokenizer.json anew of tekken.json, or take that of the base model.
    """
    yield from _piece_problems(subject.tokenizers)
    if not subject.tokenizers.both:
        return
    tekken, fast = subject.tokenizers.both
    ranks, shift = _shared_ranks(tekken, fast, subject.tokenizers.ranks)
    found = fast.vocabulary
    unlike = [piece for piece, rank in ranks.items() if found.get(piece) != rank + shift]
    strange = found.keys() - ranks.keys() - fast.ids.keys() - tekken.special.keys()
    names = [repr(bytes_of(piece)) for piece in (*unlike, *sorted(strange))]
    if names:
        first = (*unlike, *sorted(strange))[0]
        here, there = found.get(first, "missing"), ranks.get(first)
        expected = "unknown to" if there is None else f"{there + shift} in"
        message = f"{some(names)}: {here} here, {expected} {tekken.name}"
        yield Problem(FAST, "model.vocab", message, _AGAIN)


def _piece_problems(tokenizers: Tokenizers) -> Iterator[Problem]:
    pieces, fast = tokenizers.pieces, tokenizers.fast
    if not pieces or not fast or not fast.is_bpe:
        return
    known = {**fast.vocabulary, **fast.ids}
    if unlike := [piece for piece, id in pieces.items() if known.get(piece) != id]:
        here, there = known.get(unlike[0], "missing"), pieces[unlike[0]]
        message = f"{some([repr(piece) for piece in unlike])}: {here} here, {there} in "
        yield Problem(FAST, "model.vocab", message + str(tokenizers.name), _TAKE)


def _shared_ranks(
    tekken: Tekken, fast: FastTokenizer, ranks: Mapping[str, int]
) -> tuple[Mapping[str, int], int]:
    """The ranks that both files have room for, and the id of the first."""
    shift = _first_regular_id(ranks, fast.vocabulary) or 0
    if shift == tekken.special_count:
        return ranks, shift
    # then the counts differ, too, which is another rule's business
    return {piece: rank for piece, rank in ranks.items() if rank + shift < fast.size}, shift


@rule("MMF604", cost="tokenizers")
def merges(subject: Subject) -> Iterator[Problem]:
    """tokenizer.json merges every pair that makes a token of tekken.json, in order of its rank,
    and takes whole words that are tokens as they are (ignore_merges).

    tekken.json has no merges: the lowest rank wins. A list that lacks some, or has them in
    another order, encodes the same text as other tokens.

    Repair: make tokenizer.json anew of tekken.json.
    """
    tekken, fast = subject.tokenizers.tekken, subject.tokenizers.fast
    if not tekken or not fast:
        return
    for key, value in table("tokenizers")["bpe"].items():
        found = fast.model.get(key, False if isinstance(value, bool) else value)
        if found != value:
            message = f"{found!r}, expected {value!r}"
            yield Problem(FAST, f"model.{key}", message, _AGAIN)
    if fast.is_bpe:
        ranks, _ = _shared_ranks(tekken, fast, subject.tokenizers.ranks)
        if fault := _merge_fault(fast.merges, ranks):
            yield Problem(FAST, "model.merges", fault, _AGAIN)


def _merge_fault(pairs: Sequence[str], ranks: Mapping[str, int]) -> str | None:
    made = [pair.replace(" ", "", 1) for pair in pairs]
    order = [ranks.get(piece, -1) for piece in made]
    for piece, before, rank in zip(made[1:], order, order[1:], strict=False):
        if rank < before:
            return f"{bytes_of(piece)!r} does not stand where its rank puts it"
    ways = Counter(made)
    for piece in ranks:
        expected = 0
        for i in range(1, len(piece)):
            if piece[:i] in ranks and piece[i:] in ranks:
                expected += 1
        if ways[piece] != expected:
            return f"{bytes_of(piece)!r} is made in {ways[piece]} ways, expected {expected}"
    return "has a pair twice" if len(set(pairs)) < len(pairs) else None


@rule("MMF605", cost="tokenizers")
def pre_tokenizer(subject: Subject) -> Iterator[Problem]:
    """tokenizer.json splits text with the pattern of tekken.json, byte by byte and unchanged.

    A wrong pattern (such as that of Llama 3) shows in a few texts only and costs answers in all
    of them (mlx-lm#1049, transformers#42299): patterns are compared, not samples.

    Repair: write the pattern of tekken.json.
    """
    if not subject.tokenizers.both:
        return
    tekken, fast = subject.tokenizers.both
    if fast.body.get("normalizer"):
        yield Problem(FAST, "normalizer", f"changes text, which {tekken.name} does not", _AGAIN)
    steps = {str(step.get("type")): step for step in fast.steps}
    wanted = {"Split": table("tokenizers")["split"], "ByteLevel": table("tokenizers")["byte_level"]}
    if list(steps) != list(wanted) or len(fast.steps) != len(wanted):
        message = f"{list(steps)}, expected {list(wanted)}"
        yield Problem(FAST, "pre_tokenizer", message, _AGAIN)
        return
    wanted["Split"] = {**wanted["Split"], "pattern": {"Regex": tekken.pattern}}
    for kind, settings in wanted.items():
        for key, value in settings.items():
            if steps[kind].get(key) != value:
                message = f"{key} is {steps[kind].get(key)!r}, expected {value!r}"
                yield Problem(FAST, f"pre_tokenizer.{kind}", message, _AGAIN)


@rule("MMF606", cost="tokenizers")
def more_ids_than_rows(subject: Subject) -> Iterator[Problem]:
    """The model has an embedding row for each id of its tokenizer.

    An id without a row stops an engine in the middle of a request, or reads memory that is not
    the embedding's.

    Repair: give the repo the tokenizer that belongs to the model.
    """
    for path, rows, size in _sizes(subject):
        if rows < size:
            message = f"{rows}, but {subject.tokenizers.name} has {size} ids"
            yield Problem(path, "vocab_size", message, "take the tokenizer of the base model")


@rule("MMF607", level="warning", cost="tokenizers")
def rows_without_ids(subject: Subject) -> Iterator[Problem]:
    """The model has no embedding rows that its tokenizer knows nothing of.

    Padding is harmless, but guided decoding trips over ids that no tokenizer knows
    (vllm#11046), and more often the tokenizer is that of another model.

    Repair: none for padding; else give the repo its own tokenizer.
    """
    for path, rows, size in _sizes(subject):
        if rows > size:
            message = f"{rows}, but {subject.tokenizers.name} has {size} ids"
            yield Problem(path, "vocab_size", message, "check whose tokenizer this is")


def _sizes(subject: Subject) -> Iterator[tuple[str, int, int]]:
    """(config file, rows, ids) of each layout where the two differ."""
    size = subject.tokenizers.size
    for model in subject.models:
        if size and subject.repo.has(model.config_file):
            rows = model.symbols.get("vocab_size")
            # of a config that differs from its own tensors another rule tells
            if isinstance(rows, int) and rows != size and not explained(subject, [wrong_shape]):
                yield model.config_file, rows, size
