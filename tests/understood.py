"""Configs as transformers understands them, and the params that they give."""

import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

from mmfmt.configs import open_config, to_params

Json = dict[str, Any]


def back(config: Json) -> Json:
    """params.json of a config.json."""
    return to_params(open_config(config), has_output=True)


def loaded(body: Json) -> Any:
    """A config.json as transformers' AutoConfig reads it from a folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(body), encoding="utf-8")
        return transformers.AutoConfig.from_pretrained(folder)


def layer_windows(text: Any) -> list[int | None]:
    """The window of each layer: only MinistralAttention heeds layer_types."""
    if text.model_type == "ministral":
        return [text.sliding_window if t == "sliding_attention" else None for t in text.layer_types]
    windowed = text.model_type not in ("llama", "mistral4")
    return [text.sliding_window if windowed else None] * text.num_hidden_layers
