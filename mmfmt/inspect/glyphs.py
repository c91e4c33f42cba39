"""One character for each scheme of a layout."""

import string
from collections.abc import Iterable

from mmfmt.inspect.modules import Named

# where a cell has no scheme, or several
GLYPHS = {"none": " ", "missing": "!", "partial": "/", "unexpected": "+", "mixed": "%"}
_LETTERS = string.ascii_lowercase + string.ascii_uppercase


def glyphs(named: Iterable[Named]) -> dict[str, str]:
    """A glyph by name: the bits of a scheme, the first letter of a dtype, or the next letter."""
    chosen: dict[str, str] = {}
    for scheme in named:
        wanted = [str(scheme.bits), *scheme.name.lower(), *_LETTERS]
        free = (g for g in wanted if len(g) == 1 and g.isalnum() and g not in chosen.values())
        chosen[scheme.name] = next(free, "?")
    return chosen
