"""The layer x module map as tables of a page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import get_args
from xml.etree.ElementTree import Element

from mmfmt.inspect.facts import Cell, Grid, LayoutFacts, Line
from mmfmt.inspect.glyphs import GLYPHS
from mmfmt.inspect.markup import element
from mmfmt.inspect.wording import (
    MISSING,
    MIXED,
    format_bits,
    format_count,
    format_share,
    format_shares,
    format_state,
    runs,
    scheme_of,
)
from mmfmt.naming import compile_pattern
from mmfmt.sizes import format_bytes
from mmfmt.verify.findings import Finding, Level

# layers up to which a cell has room for the name of its scheme, and for more than its glyph
_WIDE, _MEDIUM = 12, 50
# every so many layers the number stands above
_STEP = 5
# colours in page.css
_QUANTIZED, _PLAIN = 6, 3
Flags = Mapping[tuple[str, int | None], list[Finding]]


def scheme_classes(layout: LayoutFacts) -> dict[str, str]:
    """The colour class of each scheme: `q0`, ... for quantized ones, `p0`, ... for dtypes."""
    quantized = [s.name for s in layout.schemes if s.quantized]
    plain = [s.name for s in layout.schemes if not s.quantized]
    classes = {name: f"q{i % _QUANTIZED}" for i, name in enumerate(quantized)}
    return classes | {name: f"p{min(i, _PLAIN - 1)}" for i, name in enumerate(plain)}


def map_section(layout: LayoutFacts, findings: Iterable[Finding]) -> Element:
    """The legend, a table for each stack of layers, and one for what stands alone."""
    flags = _flags(layout, findings)
    return element(
        "section",
        element("h3", "Map"),
        _legend(layout, flags),
        *map(_Map(layout, flags).table, layout.grids),
        class_="map",
    )


def _flags(layout: LayoutFacts, findings: Iterable[Finding]) -> Flags:
    """Findings by the cell that they are about."""
    lines = [line for grid in layout.grids for line in grid.lines]
    flags: dict[tuple[str, int | None], list[Finding]] = {}
    for finding in findings:
        for key in _cells_of(finding.location, lines):
            flags.setdefault(key, []).append(finding)
    return flags


def _cells_of(location: str, lines: Iterable[Line]) -> Iterator[tuple[str, int | None]]:
    """The cell of a module, or of one of its parameters."""
    for line in lines:
        pattern = compile_pattern(line.pattern)
        found = pattern.fullmatch(location) or pattern.fullmatch(location.rpartition(".")[0])
        if found:
            layer = found.groupdict().get("layer")
            yield line.pattern, None if layer is None else int(layer)


def _legend(layout: LayoutFacts, flags: Flags) -> Element:
    classes = scheme_classes(layout)
    items = [
        element(
            "li",
            _swatch(scheme.glyph, classes[scheme.name]),
            element("strong", scheme.name),
            element("span", f"{scheme.modules:,} modules", class_="quiet"),
            element("span", format_share(scheme.size.bytes, layout.size.bytes), class_="quiet"),
            title=scheme.label,
        )
        for scheme in layout.schemes
    ]
    return element("ul", *items, *_odd_legend(layout, flags), class_="legend")


def _odd_legend(layout: LayoutFacts, flags: Flags) -> Iterator[Element]:
    """Entries for what should not be, where there is such."""
    cells = [cell for grid in layout.grids for line in grid.lines for cell in line.cells]
    odd = {cell.state for cell in cells} | ({MIXED} if any(map(_mixed, cells)) else set())
    words = {MISSING: "missing", "partial": "incomplete", "unexpected": "not asked for"}
    for state, text in {**words, MIXED: "several schemes"}.items():
        if state in odd:
            yield element("li", _swatch(GLYPHS[state], state), text)
    if flags:
        yield element("li", _swatch(" ", "flagged"), "has a finding")


def _mixed(cell: Cell) -> bool:
    return scheme_of(cell) == MIXED


def _swatch(glyph: str, class_: str) -> Element:
    return element("span", glyph, class_=f"swatch {class_}", aria_hidden="true")


@dataclass(frozen=True)
class _Map:
    """How the cells of a layout are shown."""

    layout: LayoutFacts
    flags: Flags

    @cached_property
    def classes(self) -> Mapping[str, str]:
        return scheme_classes(self.layout)

    @cached_property
    def glyphs(self) -> Mapping[str, str]:
        return {**GLYPHS, **{scheme.name: scheme.glyph for scheme in self.layout.schemes}}

    def table(self, grid: Grid) -> Element:
        """A stack of layers, or the modules that stand alone."""
        count = len(grid.layers)
        density = "wide" if count <= _WIDE else "medium" if count <= _MEDIUM else "dense"
        groups = [[*lines] for _, lines in groupby(grid.lines, key=lambda line: line.part)]
        table = element(
            "table",
            element("caption", f"{grid.name}: {count} layers" if count else "Outside the layers"),
            _columns(grid.layers, density),
            *(element("tbody", *(self._row(each, density) for each in lines)) for lines in groups),
            role="grid",
            class_=f"cells {density}",
        )
        hint = element("output", "Point at a cell, or move with the arrow keys.", class_="detail")
        return element("figure", element("div", table, class_="scroll"), hint)

    def _row(self, line: Line, density: str) -> Element:
        return element(
            "tr",
            element("th", line.name, scope="row", title=f"{line.part}: {', '.join(runs(line))}"),
            element("td", format_bytes(line.size.bytes), class_="number"),
            element("td", format_bits(line.size), class_="number"),
            *(self._cell(line, cell, density) for cell in line.cells),
        )

    def _cell(self, line: Line, cell: Cell, density: str) -> Element:
        scheme, flags = scheme_of(cell), self.flags.get((line.pattern, cell.layer), [])
        odd = cell.state not in ("there", "none")
        colour = self.classes.get(scheme, scheme or "none")
        marks = f" {cell.state}" if odd and cell.schemes else ""
        marks += f" flagged {_worst(flags)}" if flags else ""
        glyph = self.glyphs[cell.state if odd else scheme or "none"]
        words = format_shares(cell.schemes) if cell.schemes else scheme
        return element(
            "td",
            words if density == "wide" else glyph,
            class_=f"cell {colour}{marks}",
            title=_tip(line, cell, flags),
        )


def _worst(flags: Iterable[Finding]) -> Level:
    return min((finding.level for finding in flags), key=get_args(Level).index)


def _columns(layers: Sequence[int], density: str) -> Element:
    heads = [
        element("th", _number(layer, density == "wide" or n % _STEP == 0), scope="col")
        for n, layer in enumerate(layers)
    ]
    names = (("module", "text"), ("bytes", "number"), ("bits", "number"))
    labels = [element("th", text, scope="col", class_=kind) for text, kind in names]
    if not layers:
        labels.append(element("th", "stored as", scope="col", class_="text"))
    return element("thead", element("tr", *labels, *heads))


def _number(layer: int, shown: bool) -> Element:
    return element("span", str(layer), class_=None if shown else "unseen")


def _tip(line: Line, cell: Cell, flags: Iterable[Finding]) -> str:
    """Everything about a cell, in a line."""
    words = [line.pattern.replace("{layer}", str(cell.layer)), format_shares(cell.schemes)]
    if cell.modules > 1:
        words.append(f"{cell.modules:,} modules")
    if cell.schemes:
        words += [f"{format_count(cell.size.parameters)} parameters", format_bytes(cell.size.bytes)]
        words.append(", ".join(cell.stored))
    words.append(format_state(cell))
    words += [f"{f.level} {f.rule}: {f.message}" for f in flags]
    return " \u00b7 ".join(filter(None, words))
