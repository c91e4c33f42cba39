"""What transformers' save_pretrained writes is clean, and so is the repo with both layouts."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers

from tests.builders import BF16, TINY, build_model, model_config
from tests.conftest import Run

from .sources import copy_tokenizer, text_model, trained
from .verified import EVERY, QUICK, found

Save = Callable[[Path], object]


def save_trained(folder: Path, dtype: torch.dtype = torch.bfloat16, **options: object) -> None:
    """The trained Mistral3 with its processor, as the documentation of transformers saves it."""
    trained().to(dtype).save_pretrained(folder, **options)
    transformers.AutoProcessor.from_pretrained(BF16).save_pretrained(folder)


def save_text(folder: Path, kind: str) -> None:
    """A random text model with the fast tokenizer."""
    text_model(kind).save_pretrained(folder)
    copy_tokenizer(folder)


def save_with_tekken(folder: Path) -> None:
    """A text model with what AutoTokenizer is where tekken.json and mistral-common are there."""
    text_model("mistral").save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BF16)
    assert isinstance(tokenizer, transformers.MistralCommonBackend)
    tokenizer.save_pretrained(folder)


REPOS: Mapping[str, Save] = {
    "mistral3": save_trained,
    "new names": partial(save_trained, save_original_format=False),
    "shards": partial(save_trained, max_shard_size="2MB"),
    "float16": partial(save_trained, dtype=torch.float16),
    "float32": partial(save_trained, dtype=torch.float32),
    "mistral": partial(save_text, kind="mistral"),
    "ministral3": partial(save_text, kind="ministral3"),
    "mixtral": partial(save_text, kind="mixtral"),
    "tekken": save_with_tekken,
}
