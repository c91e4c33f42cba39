"""Formats as data: layout tables, suffix, scheme and field tables, JSON Schemas."""

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema_rs import ValidationError, Validator, validator_for

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
def _validator(schema: str) -> Validator:
    return validator_for(json_schema(schema))


def validate(body: Mapping[str, Any], schema: str, place: str) -> None:
    """Check a JSON body against a schema; MmfmtError with the JSON path of the first fault."""
    faults = [(_path(error), error.message) for error in _validator(schema).iter_errors(body)]
    if faults:
        path, message = min(faults)
        raise MmfmtError(f"{place}: {path}" if path else place, message)


def _path(error: ValidationError) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return "".join(parts).removeprefix(".")
