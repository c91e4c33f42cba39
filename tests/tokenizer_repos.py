"""Good repos with other tokenizers: each version of tekken, a real vocabulary, SentencePiece."""

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mistral_common
import torch
from transformers import LlamaTokenizer

from mmfmt.convert.tokenizer_files import (
    generation_config,
    image_section,
    processor_files,
    tokenizer_files,
)
from tests import builders
from tests.builders import Geometry, read_json, write_json

DATA = Path(mistral_common.__file__).parent / "data"
LARGE = DATA / "tekken_240911.json"
SENTENCEPIECE = DATA / "mistral_instruct_tokenizer_240323.model.v3"
SENTENCEPIECE_IMAGES = DATA / "mistral_instruct_tokenizer_241114.model.v7m1"
VERSIONS = ("v3", "v7", "v11", "v13")

# by id; v11 knows calls by their id
_SPECIAL = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]"),
]
_COUNT, _SPARE = 32, 8
_SAMPLE = "the quick brown fox jumps over the lazy dog and then some more of the text of the dog"
_PATTERN = json.loads(builders.TEKKEN.read_text(encoding="utf-8"))["config"]["pattern"]


def tekken(version: str) -> dict[str, Any]:
    """A tekken.json of 32 special tokens, the bytes, merges, and rows that are not used."""
    tokens = [bytes([byte]) for byte in range(256)] + _merged(_SAMPLE.split())
    rows = [_row(rank, token) for rank, token in enumerate(tokens)]
    size = len(rows) - _SPARE
    config = {
        "pattern": _PATTERN,
        "num_vocab_tokens": size,
        "default_vocab_size": size + _COUNT,
        "default_num_special_tokens": _COUNT,
        "version": version,
    }
    image = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}
    key = "image" if version == "v13" else "multimodal"
    body = {"config": config, "vocab": rows, "type": "Tekken", "version": 1, key: image}
    if int(version[1:]) > 7:
        names = enumerate(_SPECIAL)
        body["special_tokens"] = [_special(rank, name) for rank, name in names]
    return body


def _merged(words: list[str]) -> list[bytes]:
    """Every beginning of the words, so that each is made of a shorter one and a byte."""
    starts = {f" {word}"[:end].encode() for word in words for end in range(2, len(word) + 2)}
    return sorted(starts, key=lambda start: (len(start), start))


def _row(rank: int, token: bytes) -> dict[str, Any]:
    text = token.decode("utf-8", "replace")
    return {
        "rank": rank,
        "token_bytes": base64.b64encode(token).decode(),
        "token_str": text,
    }


def _special(rank: int, name: str) -> dict[str, Any]:
    return {"rank": rank, "token_str": name, "is_control": True}


def versioned(version: str, folder: Path) -> Path:
    """A HF set with a small tekken.json of a version."""
    path = folder.with_name(f"{version}.json")
    write_json(path, tekken(version))
    vision = {"patch_size": 14, "image_size": 1540, "spatial_merge_size": 2}
    return hf_set(folder, path, vision)


def large(folder: Path) -> Path:
    """A HF set with Pixtral's own 131,072 ids."""
    return hf_set(folder, LARGE, {"patch_size": 16, "image_size": 1024, "spatial_merge_size": 1})


def hf_set(folder: Path, tokenizer: Path, vision: Mapping[str, Any]) -> Path:
    """A narrow random model of one layer, and every file that transformers reads beside it."""
    size = read_json(tokenizer)["config"]["default_vocab_size"]
    geometry = Geometry(hidden=8, layers=1, vocab=size)
    merge = vision["spatial_merge_size"]
    config = builders.model_config("mistral3", geometry, spatial_merge_size=merge)
    config.vision_config.patch_size = vision["patch_size"]
    config.vision_config.image_size = vision["image_size"]
    # vLLM does not read this of a config.json
    config.text_config.rope_parameters["llama_4_scaling_beta"] = 0.0
    builders.build_model(config).to(torch.bfloat16).save_pretrained(folder)
    path = Path(shutil.copy(tokenizer, folder / "tekken.json"))
    texts, warnings = tokenizer_files(path)
    assert not warnings
    texts |= processor_files({"vision_encoder": vision}, image_section(path))
    texts |= generation_config(path)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(builders.BF16 / "README.md", folder)
    return folder


def sentencepiece(folder: Path) -> Path:
    """A HF set of a text model with a SentencePiece file."""
    geometry = Geometry(hidden=8, layers=1, vocab=32768)
    builders.save_model(folder, "mistral", geometry)
    (folder / "tekken.json").unlink()
    shutil.copy(SENTENCEPIECE, folder / "tokenizer.model.v3")
    shutil.copy(builders.BF16 / "README.md", folder)
    return folder


def with_fast_tokenizer(folder: Path) -> None:
    """The same with a tokenizer.json as transformers makes it of the pieces."""
    sentencepiece(folder)
    source = folder.with_name("pieces")
    source.mkdir()
    shutil.copy(SENTENCEPIECE, source / "tokenizer.model")
    tokenizer = LlamaTokenizer.from_pretrained(source)
    turns = "{% for m in messages %}[INST] {{ m.content }}[/INST]{% endfor %}"
    tokenizer.chat_template = "{{ bos_token }}" + turns
    tokenizer.save_pretrained(folder)
