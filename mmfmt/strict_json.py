"""JSON from files that nobody has checked."""

import json
import re
from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn

# the header limit of safetensors; a tokenizer.json of 131,072 ids takes 17 MB
MAX_BYTES = 100_000_000
# tokenizer_config.json of many models has a model_max_length of 31 digits, as "no limit"
_MAX_DIGITS = 40
_MAX_DEPTH = 64
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Pairs = list[tuple[str, Any]]


def parse(
    content: bytes,
    parse_int: Callable[[str], int] | None = None,
    object_pairs_hook: Callable[[Pairs], dict[str, Any]] | None = None,
) -> Any:
    """The JSON value of a file. ValueError says why there is none.

    Stricter than json.loads, so that whoever computes with the numbers, walks down the objects
    or prints the texts needs no care: numbers are finite and of at most 40 digits, nesting is
    at most 64 deep, and texts are Unicode, without halves of surrogate pairs.
    """
    text = content.decode("utf-8")
    try:
        value = json.loads(
            text,
            parse_int=parse_int or _integer,
            parse_float=_number,
            parse_constant=_refuse,
            object_pairs_hook=object_pairs_hook,
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_depth(value)
    if _SURROGATE.search(text):
        _check_unicode(value)
    return value


_TOO_DEEP = f"is nested more than {_MAX_DEPTH} deep"


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:_MAX_DIGITS]} is no finite number")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no text") from error


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for depth in count(1):
        if not level:
            return
        if depth > _MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [inner for values in inside for inner in values if isinstance(inner, (dict, list))]
