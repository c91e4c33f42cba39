"""Mutations of bytes that know nothing of what these say."""

from collections.abc import Callable
from random import Random

from tests.fuzz import hostile

_TOKENS = [token.encode() for token in ("{", "}", "[", "]", ",", ":", '"', "\\", "null", "0", "-")]


def mutated(random: Random, content: bytes) -> bytes:
    """Bytes changed in one or more places."""
    while True:
        content = random.choice(_CHANGES)(random, content)
        if random.random() < 0.7:
            return content


def _place(random: Random, content: bytes) -> int:
    return random.randint(0, len(content))


def _flipped(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    if place == len(content):
        return content
    return (
        content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
    )


def _cut(random: Random, content: bytes) -> bytes:
    return content[: _place(random, content)]


def _without(random: Random, content: bytes) -> bytes:
    start = _place(random, content)
    return content[:start] + content[start + random.choice((1, 2, 8, 100)) :]


def _inserted(random: Random, content: bytes) -> bytes:
    place = _place(random, content)
    strange = random.choice((hostile.TEXTS, hostile.RAW))
    piece = random.choice((random.choice(strange).encode(), random.randbytes(4)))
    return content[:place] + piece + content[place:]


def _token(random: Random, content: bytes) -> bytes:
    """A token of JSON in the place of another."""
    place = content.find(random.choice(_TOKENS), _place(random, content))
    return (
        content[:place] + random.choice(_TOKENS) + content[place + 1 :] if place >= 0 else content
    )


def _digit(random: Random, content: bytes) -> bytes:
    places = [place for place, byte in enumerate(content[:5000]) if chr(byte).isdigit()]
    if not places:
        return content
    place = random.choice(places)
    digits = random.choice((b"0", b"9", b"-1", b"99999", b"9" * 30, b"1.5", b"1e9"))
    return content[:place] + digits + content[place + 1 :]


def _repeated(random: Random, content: bytes) -> bytes:
    start, stop = sorted((_place(random, content), _place(random, content)))
    return content[:stop] + content[start:stop] * random.choice((1, 2)) + content[stop:]


def _encoded(random: Random, content: bytes) -> bytes:
    encoding = random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7"))
    return content.decode("utf-8", "replace").encode(encoding)


def _whole(random: Random, content: bytes) -> bytes:
    others = (b"", b"\0" * 100, b"{}", b"[]", b"null", b"\xff\xfe", b"\x80" * 9, b" " * 1000)
    return random.choice((*others, content + content, random.randbytes(64), content + b"\0"))


_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_flipped, _cut, _without, _inserted, _token, _digit, _repeated, _encoded, _whole),
)
