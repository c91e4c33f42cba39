"""JSON as text: where a value stands, and edits that leave every other byte alone.

Texts are valid JSON; keys lead from the top, an int into a list.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmfmt.verify.findings import REMOVE

Keys = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t\r\n]*")
_INDENT = re.compile(r"[{\[]\r?\n([ \t]+)")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Member:
    """A member of an object or an item of a list; offsets of its key, its value, its end."""

    key: str | int
    start: int
    value: int
    end: int


def edited(text: str, keys: Keys, value: Any) -> str:
    """The text with another value under `keys`; REMOVE takes the member away.

    The last key may be new. Raises LookupError where the others lead nowhere, what is to go is
    not there, or an object has a key twice.
    """
    if not keys:
        return _written(value, text) + ("\n" if text.endswith("\n") or not text else "")
    place = _place(text, keys[:-1])
    inside = list(members(text, place))
    found = [number for number, member in enumerate(inside) if member.key == keys[-1]]
    if len(found) > 1:
        raise LookupError(keys[-1])
    if value is REMOVE:
        return _without(text, place, inside, found[0])
    if found:
        member = inside[found[0]]
        new = _written(value, text, _margin(text, member.start))
        return text[: member.value] + new + text[member.end :]
    return _with(text, place, inside, keys[-1], value)


def line_of(text: str, location: str) -> int:
    """The line, from 1, of the deepest member on the way to a dotted location."""
    place = start = _skip(text, 0)
    rest = re.sub(r"\[(\d+)\]", r".\1", location)
    while rest:
        ways = [m for m in members(text, place) if f"{rest}.".startswith(f"{m.key}.")]
        if not ways:
            break
        member = max(ways, key=lambda m: len(str(m.key)))
        start, place = member.start, member.value
        rest = rest[len(str(member.key)) + 1 :]
    return text.count("\n", 0, start) + 1


def members(text: str, place: int) -> Iterator[Member]:
    """The members of the object or list at an offset; none of any other value."""
    opening = text[place]
    if opening not in "{[":
        return
    number, place = 0, _skip(text, place + 1)
    while text[place] not in "}]":
        start, key = place, number
        if opening == "{":
            key, place = _DECODER.raw_decode(text, place)
            place = _skip(text, _skip(text, place) + 1)
        end = _DECODER.raw_decode(text, place)[1]
        yield Member(key, start, place, end)
        number, place = number + 1, _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _place(text: str, keys: Keys) -> int:
    """The offset of the value under keys."""
    place = _skip(text, 0)
    for key in keys:
        found = [member.value for member in members(text, place) if member.key == key]
        if len(found) != 1:
            raise LookupError(key)
        place = found[0]
    return place


def _without(text: str, place: int, inside: list[Member], number: int) -> str:
    gone = inside[number]
    if number + 1 < len(inside):
        return text[: gone.start] + text[inside[number + 1].start :]
    if number:
        return text[: inside[number - 1].end] + text[gone.end :]
    return text[: place + 1] + text[_skip(text, gone.end) :]


def _with(text: str, place: int, inside: list[Member], key: str | int, value: Any) -> str:
    """The text with a member more, at the end of the object or list at an offset."""
    is_object = text[place] == "{"
    if isinstance(key, str) != is_object or not (is_object or key == len(inside)):
        raise LookupError(key)
    margin, indent = _margin(text, place), _indent(text)
    line = f"\n{margin}{indent}" if indent else ""
    colon = ": " if indent or '": ' in text else ":"
    new = (f"{_written(key, text)}{colon}" if is_object else "") + _written(
        value, text, margin + (indent or "")
    )
    if inside:
        end = inside[-1].end
        return f"{text[:end]},{line or (' ' if ', ' in text else '')}{new}{text[end:]}"
    closing = f"\n{margin}" if indent else ""
    return f"{text[: place + 1]}{line}{new}{closing}{text[_skip(text, place + 1) :]}"


def _written(value: Any, text: str, margin: str = "") -> str:
    """A value as JSON in the style of a text; its lines after the first begin with a margin."""
    indent = _indent(text)
    spaced = indent is not None or '": ' in text
    separators = ("," if indent else ", ", ": ") if spaced else (",", ":")
    escaped = text.isascii() and "\\u" in text
    new = json.dumps(value, indent=indent, separators=separators, ensure_ascii=escaped)
    return new.replace("\n", f"\n{margin}")


def _indent(text: str) -> str | None:
    """One step of a text's indentation; two spaces for a new text, None for one line."""
    found = _INDENT.search(text)
    return found[1] if found else None if text.strip() else "  "


def _margin(text: str, place: int) -> str:
    """The blanks at the start of the line of an offset."""
    start = text.rfind("\n", 0, place) + 1
    return text[start : _skip(text, start)] if start else ""


def _skip(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place
