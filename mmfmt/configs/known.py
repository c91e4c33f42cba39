"""Published models that copies are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmfmt.layout import Symbols
from mmfmt.schemas import table


@dataclass(frozen=True)
class Known:
    """A published model: its name, and the fields of params.json that copies get wrong."""

    name: str
    fields: Mapping[str, Any]


def known_model(symbols: Symbols) -> Known | None:
    """The published model with this signature, or None."""
    for row in table("known_models")["model"]:
        if all(symbols.get(path) == value for path, value in row["signature"].items()):
            return Known(row["name"], row["fields"])
    return None
