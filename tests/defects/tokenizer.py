"""6xx: tokenizers and image tokens."""

from typing import Any

from tests.damage import edit_json, set_field
from tests.defects.defect import Defect
from tests.repos import PARAMS


def wrong_image_id(body: dict[str, Any]) -> None:
    """Give [IMG] another id in tokenizer.json."""
    next(t for t in body["added_tokens"] if t["content"] == "[IMG]")["id"] = 11


DEFECTS: list[Defect] = [
    Defect("MMF601", "break id", set_field(PARAMS, "vision_encoder.image_break_token_id", 14)),
    Defect("MMF601", "tokenizer.json", edit_json("tokenizer.json", wrong_image_id)),
]
