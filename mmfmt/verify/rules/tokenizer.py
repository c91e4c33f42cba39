"""6xx: tokenizers and image tokens."""

from collections.abc import Iterator
from typing import Any

from mmfmt.configs import CONFIG, PARAMS
from mmfmt.repo import Repo
from mmfmt.tokenizer import IMAGE_TOKENS, special_ids
from mmfmt.verify.findings import Problem, rule
from mmfmt.verify.subject import Subject

Source = tuple[str, str]


@rule("MMF601")
def image_token_ids(subject: Subject) -> Iterator[Problem]:
    """[IMG], [IMG_BREAK] and [IMG_END] have one id each, in tekken.json, tokenizer.json,
    config.json and params.json.

    A wrong image_token_index loads without a word and fails only inside the model; ids differ
    between tokenizers (12 and 13 in tekken, 14 and 15 in SentencePiece v7), so none is safe to
    assume (vllm#11393). A params.json that says -1 leaves the id to the tokenizer.

    Repair: write the tokenizer's id.
    """
    for key, token in IMAGE_TOKENS.items():
        said = dict(_said(subject, key, token))
        if not said:
            continue
        source, truth = next(iter(said.items()))
        for (path, location), found in said.items():
            if found != truth:
                message = f"{token} is {found}, but {truth} in {source[0]}"
                yield Problem(path, location, message, f"write {truth}")


def _said(subject: Subject, key: str, token: str) -> Iterator[tuple[Source, Any]]:
    """Every id of a token by (file, JSON path), the tokenizer's own first."""
    repo = subject.repo
    if not _takes_images(subject):
        return
    if repo.tokenizer:
        yield (repo.tokenizer.name, token), special_ids(repo.tokenizer).get(key)
    if repo.has("tokenizer.json"):
        yield ("tokenizer.json", f"added_tokens: {token}"), _added_id(repo, token)
    if repo.has(CONFIG) and key == "image_token_id":
        for name in ("image_token_index", "image_token_id"):
            if name in subject.hf.body:
                yield (CONFIG, name), subject.hf.body[name]
    if repo.has(PARAMS):
        found = (subject.native.body.get("vision_encoder") or {}).get(key, -1)
        if found != -1:
            yield (PARAMS, f"vision_encoder.{key}"), found


def _added_id(repo: Repo, token: str) -> Any:
    """The id that tokenizer.json adds a token under; None if it does not."""
    for entry in repo.json("tokenizer.json").get("added_tokens") or []:
        if isinstance(entry, dict) and entry.get("content") == token:
            return entry.get("id")
    return None


def _takes_images(subject: Subject) -> bool:
    return any(model.params.get("vision_encoder") for model in subject.models)
