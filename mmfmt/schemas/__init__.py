"""Formats as data: layout tables, suffix, scheme and field tables, JSON Schemas."""

import json
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table(name: str) -> dict[str, Any]:
    """A TOML table of this folder, by path without its ending (`layouts/dense_text`)."""
    return tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def json_schema(name: str) -> dict[str, Any]:
    """A JSON Schema of this folder, by name (`config`, `params`, `findings`)."""
    schema: dict[str, Any] = json.loads(
        (files(__name__) / f"{name}.schema.json").read_text(encoding="utf-8")
    )
    return schema
