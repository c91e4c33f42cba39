"""Mutations of JSON that know its structure."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

from tests.fuzz import hostile

Change = Callable[[Random, Any], Any]

# stand for raw text, and for a key that is there already, until the rest is JSON
_RAW = "@raw:{}@"
_TWICE = "@twice:{}@"
_DEEPER = 0.8
_LARGEST_FLOAT = 10**300


@lru_cache(maxsize=64)
def body_of(text: bytes) -> dict[str, Any] | None:
    """The object that a text is; None where it is none."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def mutated(random: Random, body: Any) -> bytes:
    """JSON of an object with a few parts changed for hostile ones."""
    while True:
        body = edited(random, body)
        if random.random() < 0.7:
            return written(body).encode("utf-8", "surrogatepass")


def edited(random: Random, value: Any) -> Any:
    """A value with one part changed; the other parts are shared."""
    deeper = random.random() < _DEEPER
    if isinstance(value, dict) and value and deeper:
        key = random.choice(list(value))
        return {**value, key: edited(random, value[key])}
    if isinstance(value, list) and value and deeper:
        place = random.randrange(len(value))
        return [*value[:place], edited(random, value[place]), *value[place + 1 :]]
    return random.choice(_CHANGES[type(value)])(random, value)


def written(body: Any) -> str:
    """A body as JSON, or nearly, with raw parts in their places."""
    text = re.sub(r'"@raw:(\d+)@"', lambda found: hostile.RAW[int(found[1])], json.dumps(body))
    return re.sub(r'"@twice:([^"]*)@"', r'"\1"', text)


def anything(random: Random, _: Any = None) -> Any:
    """A hostile value, whatever stood there."""
    return random.choice(_ANYTHING)(random)


def _raw(random: Random) -> str:
    return _RAW.format(random.randrange(len(hostile.RAW)))


def _nested(random: Random) -> Any:
    value = anything(random)
    return [value] if random.random() < 0.5 else {random.choice(hostile.known_keys()): value}


_ANYTHING: tuple[Callable[[Random], Any], ...] = (
    lambda random: random.choice(hostile.INTEGERS),
    lambda random: random.choice(hostile.NUMBERS),
    lambda random: random.choice(hostile.TEXTS),
    lambda random: random.choice(hostile.CONTAINERS),
    lambda random: random.choice(hostile.CONSTANTS),
    lambda random: random.choice(hostile.PATTERNS),
    lambda random: random.choice(hostile.SECTIONS),
    _raw,
    _nested,
)


# --- objects ---


def _without_key(random: Random, body: dict[str, Any]) -> Any:
    gone = random.choice(list(body)) if body else ""
    return {key: value for key, value in body.items() if key != gone}


def _renamed_key(random: Random, body: dict[str, Any]) -> Any:
    old = random.choice(list(body)) if body else ""
    return {_key(random, old) if key == old else key: value for key, value in body.items()}


def _known_key(random: Random, body: dict[str, Any]) -> Any:
    key = random.choice(hostile.known_keys())
    value = hostile.FIELDS.get(key) if random.random() < 0.5 else anything(random)
    return {**body, key: value}


def _strange_key(random: Random, body: dict[str, Any]) -> Any:
    return {**body, random.choice(hostile.TEXTS): anything(random)}


def _doubled_key(random: Random, body: dict[str, Any]) -> Any:
    return {**body, _TWICE.format(random.choice(list(body) or ["a"])): anything(random)}


def _swapped(random: Random, body: dict[str, Any]) -> Any:
    keys = list(body)
    random.shuffle(keys)
    return dict(zip(keys, body.values(), strict=True))


def _key(random: Random, old: str) -> str:
    return random.choice((old.upper(), f"{old} ", f"_{old}", random.choice(hostile.known_keys())))


# --- lists ---


def _fewer(random: Random, items: list[Any]) -> Any:
    return [item for item in items if random.random() < 0.5]


def _one_more(random: Random, items: list[Any]) -> Any:
    return [*items, anything(random)]


def _again(random: Random, items: list[Any]) -> Any:
    return items * random.choice((2, 3, 100 if len(items) < 100 else 2))


def _shuffled(random: Random, items: list[Any]) -> Any:
    return random.sample(items, len(items))


# --- the rest ---


def _near_number(random: Random, value: float) -> Any:
    if abs(value) > _LARGEST_FLOAT:  # of two mutations, the first made it
        return anything(random)
    near = (value + 1, value - 1, -value, value * 2, value // 2, float(value), str(value), [value])
    return random.choice((*near, bool(value), value + 0.5, value * 10**20))


def _near_text(random: Random, text: str) -> Any:
    strange = random.choice(hostile.TEXTS)
    near = (text[:-1], text * 2, text.upper(), text + strange, strange + text, f" {text}", [text])
    return random.choice((*near, text.replace(".", ".."), text.replace("_", "-"), {text: text}))


_OBJECT: tuple[Change, ...] = (
    *(_without_key, _renamed_key, _known_key, _known_key, _strange_key, _doubled_key, _swapped),
    anything,
)
_CHANGES: dict[type, tuple[Change, ...]] = {
    dict: _OBJECT,
    list: (_fewer, _one_more, _again, _shuffled, anything),
    str: (_near_text, anything),
    int: (_near_number, anything),
    float: (_near_number, anything),
    bool: (lambda _, value: not value, anything),
    type(None): (anything,),
}
