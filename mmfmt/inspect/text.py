"""What `mmfmt inspect` prints for people."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from mmfmt.errors import printable
from mmfmt.inspect.facts import Cell, File, Grid, Inspection, LayoutFacts, Node, Size
from mmfmt.inspect.glyphs import GLYPHS
from mmfmt.inspect.wording import (
    MISSING,
    MIXED,
    format_bits,
    format_count,
    format_share,
    runs,
    scheme_of,
)
from mmfmt.sizes import format_bytes

_QUANTIZED = ("green", "magenta", "cyan", "yellow", "bright_green", "bright_magenta")
_PLAIN = ("blue", "bright_blue", "white")
_ALARM = "bold red"
# columns below which what stands right of a map is left out
_NARROW = 16
# names listed before "and so many more"
_MOST = 3
Styles = dict[str, str]


def write_text(inspection: Inspection, console: Console) -> None:
    """The facts of the first layout, and a line on the other one."""
    layout, *rest = inspection.layouts
    styles = _styles(layout)
    _heading(inspection, layout, console)
    _quantization(layout, console)
    _schemes(layout, styles, console)
    for grid in layout.grids:
        _grid(grid, layout, styles, console)
    _parts(layout, console)
    _tree(layout, styles, console)
    _others(layout, console)
    _files(inspection.files, console)
    for other in rest:
        told = f"{other.label} layout too: {_size(other.size)} (--layout {other.key})"
        console.print(Text(f"\n{told}"))


def _styles(layout: LayoutFacts) -> Styles:
    quantized = [s.name for s in layout.schemes if s.quantized]
    plain = [s.name for s in layout.schemes if not s.quantized]
    styles = {name: _QUANTIZED[i % len(_QUANTIZED)] for i, name in enumerate(quantized)}
    styles |= {name: _PLAIN[i % len(_PLAIN)] for i, name in enumerate(plain)}
    return {**styles, MISSING: _ALARM, MIXED: _ALARM}


def _heading(inspection: Inspection, layout: LayoutFacts, console: Console) -> None:
    console.print(Text(printable(inspection.repo), "bold"))
    console.print(Text(f"{layout.label} layout, {_size(layout.size)}"))
    console.print(Text(f"names: {layout.naming}; row order: {printable(layout.row_order)}"))
    for fault in (*inspection.faults, *layout.faults):
        console.print(Text(f"cannot tell: {printable(fault)}", _ALARM))


def _size(size: Size) -> str:
    words = [f"{size.tensors:,} tensors", f"{format_count(size.parameters)} parameters"]
    words.append(format_bytes(size.bytes))
    return ", ".join(words + ([f"{format_bits(size)} bits each"] if size.bits else []))


def _title(title: str, console: Console) -> None:
    console.print(Text(f"\n{title}", "bold"))


def _quantization(layout: LayoutFacts, console: Console) -> None:
    said = layout.quantized
    if said is None:
        console.print(Text(f"quantization: {layout.config_file} says nothing of any"))
        return
    console.print(Text(f"quantization: {printable(said.method)}, {said.place}"))
    for group in said.groups:
        targets = printable(_some(group.targets))
        console.print(Text(f"  {printable(group.name)}: {group.label}, for {targets}"))
    if said.ignore:
        console.print(Text(f"  ignored: {printable(_some(said.ignore))}"))
    if said.kv_cache:
        console.print(Text(f"  kv cache: {printable(said.kv_cache)}"))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _columns(*names: str) -> Table:
    """A table of numbers; text stands in columns without a name, which wrap but for the first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(names):
        justify: JustifyMethod = "right" if name else "left"
        table.add_column(name, justify=justify, no_wrap=bool(name) or not number)
    return table


def _numbers(size: Size) -> tuple[str, str, str]:
    return format_count(size.parameters), format_bytes(size.bytes), format_bits(size)


def _schemes(layout: LayoutFacts, styles: Styles, console: Console) -> None:
    _title("schemes", console)
    table = _columns("", "modules", "parameters", "bytes", "share", "bits", "")
    for s in layout.schemes:
        name = Text(f"{s.glyph} {s.name}", styles[s.name])
        share = format_share(s.size.bytes, layout.size.bytes)
        count, size, bits = _numbers(s.size)
        table.add_row(name, f"{s.modules:,}", count, size, share, bits, Text(s.label, "dim"))
    console.print(table)


def _grid(grid: Grid, layout: LayoutFacts, styles: Styles, console: Console) -> None:
    if not grid.layers:
        _alone(grid, styles, console)
        return
    _title(f"{grid.name}: {len(grid.layers)} layers", console)
    label = max(len(line.name) for line in grid.lines) + 1
    room = max(console.width - label, 10)
    beside = room - len(grid.layers) - 2
    for start in range(0, len(grid.layers), room):
        console.print(Text(" " * label + _ruler(grid.layers[start : start + room]), "dim"))
        for line in grid.lines:
            cells = line.cells[start : start + room]
            text = Text(line.name.ljust(label)) + _strip(cells, layout, styles)
            if beside >= _NARROW:
                text.append("  " + _fitting(", ".join(runs(line)), beside), "dim")
            console.print(text)


def _ruler(layers: Sequence[int]) -> str:
    """Every tenth layer's number above its column."""
    ruler = ""
    for column, layer in enumerate(layers):
        if len(ruler) <= column and (layer % 10 == 0 or column == 0):
            ruler = ruler.ljust(column) + f"{layer} "
    return ruler.rstrip()


def _strip(cells: Iterable[Cell], layout: LayoutFacts, styles: Styles) -> Text:
    signs = {scheme.name: scheme.glyph for scheme in layout.schemes}
    strip = Text()
    for cell in cells:
        scheme = scheme_of(cell)
        odd = cell.state not in ("there", "none")
        sign = GLYPHS[cell.state] if odd else signs.get(scheme, GLYPHS.get(scheme, " "))
        strip.append(sign, _ALARM if odd else styles.get(scheme, ""))
    return strip


def _fitting(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _alone(grid: Grid, styles: Styles, console: Console) -> None:
    _title("outside the layers", console)
    label = max(len(line.name) for line in grid.lines) + 1
    for line in grid.lines:
        style = styles.get(scheme_of(line.cells[0]), "")
        console.print(Text(line.name.ljust(label)) + Text(", ".join(runs(line)), style))


def _parts(layout: LayoutFacts, console: Console) -> None:
    _title("parts", console)
    table = _columns("", "tensors", "parameters", "bytes", "share", "bits")
    for part in layout.parts:
        count, size, bits = _numbers(part.size)
        share = format_share(part.size.bytes, layout.size.bytes)
        table.add_row(part.name, f"{part.size.tensors:,}", count, size, share, bits)
    console.print(table)


def _tree(layout: LayoutFacts, styles: Styles, console: Console) -> None:
    _title("modules", console)
    table = _columns("", "parameters", "bytes", "bits", "")
    guides = ("├ ", "└ ", "│ ") if console.encoding.startswith("utf") else ("|-", "`-", "| ")
    for indent, node in _walk(layout.tree, guides):
        style = styles[node.schemes[0][0]] if len(node.schemes) == 1 else ""
        count, size, bits = _numbers(node.size)
        name = Text.assemble((indent, "dim"), node.name, (_times(node), "dim"))
        schemes = ", ".join(scheme for scheme, _ in node.schemes)
        table.add_row(name, count, size, bits, Text(schemes, style))
    console.print(table)


def _times(node: Node) -> str:
    return f" x {node.count}" if node.count > 1 else ""


def _walk(
    nodes: Sequence[Node], guides: Sequence[str], indent: str | None = None
) -> Iterator[tuple[str, Node]]:
    """Nodes from the top, each with the lines that lead to it."""
    for node in nodes:
        last = node is nodes[-1]
        yield "" if indent is None else indent + guides[last], node
        below = "" if indent is None else indent + ("  " if last else guides[2])
        yield from _walk(node.children, guides, below)


def _others(layout: LayoutFacts, console: Console) -> None:
    if not layout.others:
        return
    _title("tensors of no module", console)
    for other in layout.others[:_MOST]:
        told = f"{other.name} {other.dtype} {list(other.shape)}: {other.reason}"
        console.print(Text(printable(told), _ALARM))
    if len(layout.others) > _MOST:
        console.print(Text(f"and {len(layout.others) - _MOST} more", _ALARM))


def _files(files: Sequence[File], console: Console) -> None:
    _title("files", console)
    table = _columns("", "bytes", "tensors", "")
    for file in files:
        tensors = "" if file.tensors is None else f"{file.tensors:,}"
        note = Text(printable(file.note), _ALARM)
        table.add_row(printable(file.name), format_bytes(file.bytes), tensors, note)
    console.print(table)
