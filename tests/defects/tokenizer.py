"""6xx: tokenizers, image tokens, processors."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.damage import Damage, drop_field, edit_json, remove, set_field
from tests.defects.defect import Defect
from tests.repos import CONFIG, PARAMS

TEKKEN, FAST = "tekken.json", "tokenizer.json"
PROCESSOR, SETTINGS, GENERATION = (
    "processor_config.json",
    "tokenizer_config.json",
    "generation_config.json",
)
Body = dict[str, Any]


def added(token: str, **fields: object) -> Damage:
    """Change an added token of tokenizer.json."""

    def edit(body: Body) -> None:
        next(t for t in body["added_tokens"] if t["content"] == token).update(fields)

    return edit_json(FAST, edit)


def no_longer_added(token: str) -> Damage:
    """Take a token out of those that tokenizer.json adds; the vocabulary keeps it."""

    def edit(body: Body) -> None:
        body["added_tokens"] = [t for t in body["added_tokens"] if t["content"] != token]

    return edit_json(FAST, edit)


def vocabulary(edit: Callable[[dict[str, int]], object]) -> Damage:
    """Change the vocabulary of tokenizer.json."""
    return edit_json(FAST, lambda body: edit(body["model"]["vocab"]))


def swap(one: int, other: int) -> Damage:
    """Swap two ids of tokenizer.json's vocabulary."""

    def edit(vocab: dict[str, int]) -> None:
        tokens = {id: token for token, id in vocab.items()}
        vocab[tokens[one]], vocab[tokens[other]] = other, one

    return vocabulary(edit)


def merge_list(edit: Callable[[list[Any]], object]) -> Damage:
    """Change the merges of tokenizer.json."""
    return edit_json(FAST, lambda body: edit(body["model"]["merges"]))


def swap_merges(merges: list[Any]) -> None:
    """Let the last merge of all be the first."""
    merges[0], merges[-1] = merges[-1], merges[0]


def twice(merges: list[Any]) -> None:
    """Put one way to make a token in the place of another, as if it were two."""
    made = ["".join(merge) for merge in merges]
    first = next(n for n, token in enumerate(made) if made.count(token) > 1)
    merges[first + 1] = merges[first]


def pattern(text: str) -> Damage:
    """Give tokenizer.json another pattern."""

    def edit(body: Body) -> None:
        body["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = text

    return edit_json(FAST, edit)


def byte_level(**settings: object) -> Damage:
    """Change the second step of tokenizer.json's pre-tokenizer."""

    def edit(body: Body) -> None:
        body["pre_tokenizer"]["pretokenizers"][1].update(settings)

    return edit_json(FAST, edit)


def row_of(token: bytes) -> Callable[[Body], None]:
    """Add a regular token at the end of tekken.json's rows."""

    def edit(body: Body) -> None:
        text = base64.b64encode(token).decode()
        row = {"rank": len(body["vocab"]), "token_bytes": text, "token_str": None}
        body["vocab"].append(row)

    return edit


def more_ids(repo: Path) -> None:
    """One more id in both tokenizers: three bytes of which no two are a token."""
    edit_json(TEKKEN, row_of(b"\x01\x02\x03"))(repo)
    size = json.loads((repo / TEKKEN).read_text())["config"]["default_vocab_size"]
    set_field(TEKKEN, "config.default_vocab_size", size + 1)(repo)
    letters = "".join(chr(256 + byte) for byte in (1, 2, 3))
    vocabulary(lambda vocab: vocab.update({letters: size}))(repo)


def fewer_ids(repo: Path) -> None:
    """One id less in both tokenizers."""
    size = json.loads((repo / TEKKEN).read_text())["config"]["default_vocab_size"] - 1
    set_field(TEKKEN, "config.default_vocab_size", size)(repo)

    def edit(body: Body) -> None:
        vocab = body["model"]["vocab"]
        last = next(token for token, id in vocab.items() if id == size)
        del vocab[last]
        merges = body["model"]["merges"]
        body["model"]["merges"] = [m for m in merges if "".join(m) != last and last not in m]

    edit_json(FAST, edit)(repo)


def shifted(repo: Path) -> None:
    """One special token less in tekken.json, and as many ids: regular tokens move up."""
    edit_json(TEKKEN, row_of(b"\x01\x02\x03"))(repo)
    edit_json(TEKKEN, lambda body: body["config"].update(default_num_special_tokens=999))(repo)


def pixels_apart(repo: Path) -> None:
    """Only a preprocessor_config.json: transformers takes its own patch and merge size."""
    body = json.loads((repo / PROCESSOR).read_text())["image_processor"]
    (repo / "preprocessor_config.json").write_text(json.dumps(body))
    (repo / PROCESSOR).unlink()


def write(name: str, text: str) -> Damage:
    """Replace a file."""

    def damage(repo: Path) -> None:
        (repo / name).write_text(text)

    return damage


def rename(old: str, new: str) -> Damage:
    """Rename a file."""

    def damage(repo: Path) -> None:
        (repo / old).rename(repo / new)

    return damage


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIXELS = "image_processor"
BREAK = "vision_encoder.image_break_token_id"
LENGTH = {"direction": "Right", "max_length": 2048, "strategy": "LongestFirst", "stride": 0}
PADDING = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_id": 11, "pad_token": "<pad>"}
STRIPPED = added("</s>", lstrip=True, rstrip=True)

DEFECTS: list[Defect] = [
    Defect("MMF601", "break id", set_field(PARAMS, BREAK, 14), seen="vllm#11393"),
    Defect("MMF601", "image id", set_field(PARAMS, "vision_encoder.image_token_id", 11)),
    Defect("MMF601", "config of a dual repo", set_field(CONFIG, "image_token_index", 11)),
    Defect("MMF601", "tokenizer.json", added("[IMG]", id=11)),
    Defect("MMF601", "not added", no_longer_added("[IMG]")),
    Defect("MMF601", "config", set_field(CONFIG, "image_token_index", 11), repo="hf-bf16"),
    Defect("MMF601", "not in HF", no_longer_added("[IMG]"), repo="hf-w4a16"),
    Defect("MMF602", "another id", added("[INST]", id=4)),
    Defect("MMF602", "not added", no_longer_added("[SYSTEM_PROMPT]")),
    Defect("MMF602", "shifted", shifted),
    Defect("MMF603", "swapped", swap(1500, 1501)),
    Defect("MMF603", "unlike", vocabulary(lambda v: v.update(zzz=v.pop("Ġrobo")))),
    Defect("MMF603", "pieces swapped", swap(1500, 1501), "hf-spm"),
    Defect("MMF604", "one less", merge_list(lambda merges: merges.pop(50))),
    Defect("MMF604", "order", merge_list(swap_merges)),
    Defect("MMF604", "twice", merge_list(twice)),
    Defect("MMF604", "whole words", set_field(FAST, "model.ignore_merges", False)),
    Defect(
        *("MMF605", "Llama 3", pattern(LLAMA3)),
        seen="llm-compressor#2153, transformers#42299, mlx-lm#1049",
    ),
    Defect("MMF605", "own regex", byte_level(use_regex=True)),
    Defect("MMF605", "prefix space", byte_level(add_prefix_space=True)),
    Defect("MMF605", "normalizer", set_field(FAST, "normalizer", {"type": "NFC"})),
    Defect("MMF605", "none", set_field(FAST, "pre_tokenizer", None)),
    Defect("MMF606", "more ids", more_ids),
    Defect("MMF607", "fewer ids", fewer_ids, seen="vllm#11046"),
    Defect("MMF608", "generation", set_field(GENERATION, "eos_token_id", 3)),
    Defect("MMF608", "silent generation", drop_field(GENERATION, "eos_token_id")),
    Defect("MMF608", "list", set_field(GENERATION, "eos_token_id", [3, 4])),
    Defect("MMF608", "config", set_field(CONFIG, "text_config.eos_token_id", 3)),
    Defect("MMF608", "text", set_field(SETTINGS, "eos_token", "[/INST]")),
    Defect("MMF609", "begin", set_field(CONFIG, "text_config.bos_token_id", 0)),
    Defect("MMF609", "padding", set_field(GENERATION, "pad_token_id", 2)),
    Defect("MMF610", "patch", set_field(PROCESSOR, "patch_size", 16), seen="mlx-vlm#873"),
    Defect(
        *("MMF610", "no merging", drop_field(PROCESSOR, "spatial_merge_size")),
        seen="transformers#37019",
    ),
    Defect(
        *("MMF610", "edge", set_field(PROCESSOR, "image_processor.size.longest_edge", 56)),
        seen="vllm#52874",
    ),
    Defect("MMF610", "pixels", set_field(PROCESSOR, "image_processor.patch_size.width", 16)),
    Defect(
        *("MMF610", "no merging in tekken", drop_field(TEKKEN, "image.spatial_merge_size")),
        seen="mistral-common#77",
    ),
    Defect("MMF610", "edge in tekken", set_field(TEKKEN, "image.max_image_size", 1024)),
    Defect("MMF610", "defaults", pixels_apart),
    Defect(
        *("MMF610", "edge in params.json"),
        set_field(PARAMS, "vision_encoder.max_image_size", 113),
    ),
    Defect("MMF624", "mean of SigLIP", set_field(PROCESSOR, f"{PIXELS}.image_mean", [0.5] * 3)),
    Defect("MMF624", "grey", set_field(PROCESSOR, f"{PIXELS}.image_std", [0.26862954])),
    Defect("MMF624", "not scaled", set_field(PROCESSOR, f"{PIXELS}.do_rescale", False)),
    Defect("MMF624", "as they are", set_field(PROCESSOR, f"{PIXELS}.do_resize", False)),
    Defect("MMF611", "no images", drop_field(TEKKEN, "image")),
    Defect("MMF612", "other token", set_field(PROCESSOR, "image_token", "<image>")),
    Defect("MMF613", "mistral", set_field(SETTINGS, "tokenizer_class", "MistralCommonBackend")),
    Defect("MMF614", "strips", STRIPPED, seen="axolotl#678"),
    Defect("MMF614", "no special", added("[INST]", special=False)),
    Defect("MMF614", "normalized", added("[IMG]", normalized=True), repo="hf-w4a16"),
    Defect("MMF615", "cut", set_field(FAST, "truncation", LENGTH), seen="llm-compressor#1418"),
    Defect("MMF615", "padded", set_field(FAST, "padding", PADDING)),
    Defect(
        *("MMF616", "old", set_field(CONFIG, "transformers_version", "4.57.1"), "large"),
        seen="transformers#42591",
    ),
    Defect("MMF616", "silent", drop_field(CONFIG, "transformers_version"), "large"),
    Defect("MMF617", "no template", remove("chat_template.jinja")),
    Defect("MMF618", "half a file", write(TEKKEN, "{")),
    Defect("MMF618", "half of another", write(FAST, "{")),
    Defect("MMF618", "no object", write(PROCESSOR, "[]")),
    Defect("MMF618", "no BPE", set_field(FAST, "model", {"type": "BPE"})),
    Defect("MMF618", "rows", set_field(TEKKEN, "config.default_num_special_tokens", 999)),
    Defect("MMF618", "ranks", edit_json(TEKKEN, lambda b: b["vocab"].reverse())),
    Defect("MMF618", "old key", edit_json(TEKKEN, lambda b: b.update(multimodal=b.pop("image")))),
    Defect("MMF619", "no version", rename("tokenizer.model.v3", "tokenizer.model"), "spm"),
]
