"""Models to export: the trained Mistral3 in both generations of names, and a small text model."""

import json
import shutil
from pathlib import Path

import torch
import transformers

from tests.builders import BF16, Geometry, build_model, model_config

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# group sizes of 128 divide it, and the tokenizer's vocabulary fits
TEXT = Geometry(hidden=128, heads=4, kv_heads=2, head_dim=32, ff=256, vocab=2048)


def make_sources(folder: Path) -> None:
    """Write `legacy`, `new` and `text` into a folder, as their publishers would."""
    shutil.copytree(BF16, folder / "legacy")
    model = trained()
    model.save_pretrained(folder / "new", save_original_format=False)
    copy_beside(folder / "new", *TOKENIZER, "processor_config.json")
    text_model("mistral").save_pretrained(folder / "text")
    copy_tokenizer(folder / "text")


def trained() -> transformers.PreTrainedModel:
    """The trained model in BF16."""
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(BF16, dtype="auto")
    assert isinstance(loaded, transformers.PreTrainedModel)
    return loaded


def text_model(kind: str, **config: object) -> transformers.PreTrainedModel:
    """A random BF16 text model of a model_type."""
    torch.manual_seed(0)
    model = build_model(model_config(kind, TEXT, **config)).to(torch.bfloat16)
    assert isinstance(model, transformers.PreTrainedModel)
    return model


def copy_beside(folder: Path, *names: str) -> None:
    """Put files of the trained model beside weights."""
    for name in names:
        shutil.copy(BF16 / name, folder)


def copy_tokenizer(folder: Path) -> None:
    """The trained model's tokenizer, as that of a text model."""
    copy_beside(folder, *TOKENIZER)
    path = folder / "tokenizer_config.json"
    body = json.loads(path.read_text())
    del body["processor_class"]
    path.write_text(json.dumps(body))
