"""What transformers' save_pretrained writes is clean, and so is the repo with both layouts."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers

from tests.builders import BF16, build_model, model_config, read_json, write_json
from tests.conftest import Run

from .sources import TEXT, copy_tokenizer, text_model, trained
from .verified import EVERY, QUICK, found

Save = Callable[[Path], object]


def save_trained(folder: Path, dtype: torch.dtype = torch.bfloat16, **options: object) -> None:
    """The trained Mistral3 with its processor, as the documentation of transformers saves it."""
    trained().to(dtype).save_pretrained(folder, **options)
    transformers.AutoProcessor.from_pretrained(BF16).save_pretrained(folder)


def save_text(folder: Path, kind: str, **config: object) -> None:
    """A random text model with the fast tokenizer."""
    text_model(kind, **config).save_pretrained(folder)
    copy_tokenizer(folder)


def save_with_tekken(folder: Path) -> None:
    """A text model with what AutoTokenizer is where tekken.json and mistral-common are there."""
    text_model("mistral").save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BF16)
    assert isinstance(tokenizer, transformers.MistralCommonBackend)
    tokenizer.save_pretrained(folder)


def save_pixtral(folder: Path) -> None:
    """A random Pixtral, as LLaVA with a processor of its own sizes."""
    config = model_config("llava", TEXT)
    build_model(config).to(torch.bfloat16).save_pretrained(folder)
    vision = config.vision_config
    images = transformers.PixtralImageProcessor(
        size={"longest_edge": vision.image_size}, patch_size=vision.patch_size
    )
    copy_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.PixtralProcessor(
        images, tokenizer, patch_size=vision.patch_size, spatial_merge_size=1
    )
    processor.save_pretrained(folder)
    tekken = read_json(BF16 / "tekken.json")
    tekken["image"] |= {"max_image_size": vision.image_size, "spatial_merge_size": 1}
    write_json(folder / "tekken.json", tekken)


REPOS: Mapping[str, Save] = {
    "mistral3": save_trained,
    "new names": partial(save_trained, save_original_format=False),
    "shards": partial(save_trained, max_shard_size="2MB"),
    "float16": partial(save_trained, dtype=torch.float16),
    "float32": partial(save_trained, dtype=torch.float32),
    "mistral": partial(save_text, kind="mistral"),
    "ministral3": partial(save_text, kind="ministral3"),
    "mixtral": partial(save_text, kind="mixtral"),
    "mistral4": partial(save_text, kind="mistral4"),
    "tied": partial(save_text, kind="mistral", tie_word_embeddings=True),
    "tekken": save_with_tekken,
    "pixtral": save_pixtral,
}
# These classes scale queries unless told otherwise. vLLM reads it from llama_4_scaling only, which
# transformers does not write (vllm#48621).
WARNINGS = {kind: {"MMF511"} for kind in ("ministral3", "mistral4")}
# verified by every rule; the others have the same tokenizer
LOADED = {"mistral3", "mistral", "tekken", "pixtral"}


@pytest.mark.parametrize("name", REPOS)
def test_saved_model(name: str, tmp_path: Path, to_consolidated: Run) -> None:
    repo = tmp_path / "repo"
    REPOS[name](repo)
    rules = EVERY if name in LOADED else QUICK
    assert found(repo, rules) == WARNINGS.get(name, set())
    own = (repo / "tekken.json").exists()
    outcome = to_consolidated(repo, "--quiet", *(() if own else ("--tokenizer-from", BF16)))
    assert outcome.code == 0, outcome
    assert found(repo, rules) == WARNINGS.get(name, set())
