"""Facts in words and numbers, for the text and the page alike."""

from collections.abc import Iterator
from itertools import groupby

from mmfmt.inspect.facts import Cell, Line, Shares, Size

MISSING, MIXED = "missing", "mixed"
_STATES = {
    "missing": "the config asks for it",
    "partial": "modules or parameters that the config asks for are missing",
    "unexpected": "the config asks for no such module",
    "none": "no such module in this layer",
}


def format_count(count: int | None) -> str:
    """A number with a decimal unit, as parameters are counted: `127.7B`."""
    if count is None:
        return "?"
    number = float(count)
    for unit in ("", "k", "M", "B"):
        if number < 1000:
            return f"{number:.1f}{unit}" if unit else str(count)
        number /= 1000
    return f"{number:.2f}T"


def format_bits(size: Size) -> str:
    """Bits a parameter: `4.16`."""
    return "" if size.bits is None else f"{size.bits:.2f}"


def format_share(part: int, whole: int) -> str:
    """A part in percent, never rounded to nothing."""
    percent = 100 * part / whole if whole else 0
    return "<0.1%" if 0 < percent < 0.1 else f"{percent:.1f}%"


def scheme_of(cell: Cell) -> str:
    """The scheme of a cell, or what it has instead: `mixed`, `missing`, nothing."""
    if not cell.schemes:
        return MISSING if cell.state == "missing" else ""
    return cell.schemes[0][0] if len(cell.schemes) == 1 else MIXED


def format_shares(shares: Shares) -> str:
    """Schemes with how many modules have each: `W4A16 g128 x28, BF16 x2`."""
    if len(shares) == 1:
        return shares[0][0]
    return ", ".join(f"{name} x{count}" for name, count in shares)


def format_state(cell: Cell) -> str:
    """What is wrong with a cell, or remarkable; empty for one that is as it should be."""
    return _STATES.get(cell.state, "")


def layer_range(first: int | None, last: int | None) -> str:
    """`0-87`, or `3` for one."""
    return str(first) if first == last else f"{first}-{last}"


def runs(line: Line) -> Iterator[str]:
    """Which layers of a line are stored how: `0-1 BF16`, `2-87 W4A16 g128`."""
    found = [(s, [*cells]) for s, cells in groupby(line.cells, key=_told) if s]
    if len(found) == 1 and len(found[0][1]) == len(line.cells):
        yield found[0][0]
        return
    for told, cells in found:
        yield f"{layer_range(cells[0].layer, cells[-1].layer)} {told}"


def _told(cell: Cell) -> str:
    """A cell in words: its schemes, and what is wrong with it."""
    experts = f" x{cell.modules}" if len(cell.schemes) == 1 and cell.modules > 1 else ""
    words = format_shares(cell.schemes) + experts
    wrong = "" if cell.state in ("there", "none") else cell.state
    return " ".join(filter(None, (words, wrong)))
