"""Formats as data: layout tables, suffix, scheme and field tables, JSON Schemas."""

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from mmfmt.errors import MmfmtError


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


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json_schema(schema))


def validate(body: Mapping[str, Any], schema: str, place: str) -> None:
    """Check a JSON body against a schema; MmfmtError with the JSON path of the first fault."""
    if error := min(_validator(schema).iter_errors(body), key=lambda e: e.json_path, default=None):
        path = error.json_path.removeprefix("$").removeprefix(".")
        raise MmfmtError(f"{place}: {path}" if path else place, error.message)
