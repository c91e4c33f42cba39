"""The field table: its rows, and its paths in config.json."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mmfmt.layout import flatten
from mmfmt.schemas import table

Field = Mapping[str, Any]

SECTIONS = {"text": "text_config", "vision": "vision_config", "audio": "audio_config"}


def rows(name: str = "field") -> list[Field]:
    """The rows of a list of the field table, in table order."""
    found: list[Field] = table("fields")[name]
    return found


def rows_of(kinds: set[str], name: str = "field") -> Iterator[Field]:
    """The rows that models of these model_types have."""
    return (row for row in rows(name) if kinds & set(row.get("when", kinds)))


def by_kind(column: Mapping[str, Any], kinds: set[str]) -> Any:
    """The value of a column that is split by model_type; None where it has none for these."""
    return next((value for kind, value in column.items() if kind in kinds), None)


@cache
def native_defaults() -> Mapping[str, Any]:
    """What native readers take where params.json is silent, by path."""
    return flatten({r["native"]: r["native_default"] for r in rows() if "native_default" in r})


def has_meaning(path: str) -> bool:
    """Whether a field of params.json says something of the weights or the arithmetic.

    It does where its path is that of a row, or lies in the section that is one, but for those
    that are `supplied`.
    """
    return f"{path}.".startswith(_meaningful())


@cache
def _meaningful() -> tuple[str, ...]:
    return tuple(f"{row['native']}." for row in rows() if "supplied" not in row)


def text_path(path: str) -> str:
    """A table path as it reads in a text-only config: there everything stands at the top."""
    return path if path.partition(".")[0] in SECTIONS else f"text.{path}"


def json_path(path: str, multimodal: bool) -> list[str]:
    """The keys that lead to a table path in config.json."""
    section, *rest = path.split(".")
    if section not in SECTIONS:
        return path.split(".")
    return [SECTIONS[section], *rest] if multimodal else rest
