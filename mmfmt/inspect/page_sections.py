"""The other sections of a page: totals, what the config says, sizes, modules, files."""

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from mmfmt.inspect.facts import File, Group, Inspection, LayoutFacts, Node, Other, Part, Quantized
from mmfmt.inspect.markup import Child, element, table
from mmfmt.inspect.page_map import scheme_classes
from mmfmt.inspect.wording import format_bits, format_count, format_share
from mmfmt.sizes import format_bytes
from mmfmt.verify.findings import plural

# other tensors that are listed
_MOST = 100


def tiles(inspection: Inspection) -> Element:
    """The totals of the first layout and of the files."""
    layout = inspection.layouts[0]
    size = layout.size
    schemes = [scheme.name for scheme in layout.schemes if scheme.quantized]
    files = inspection.files
    facts = {
        "parameters": format_count(size.parameters),
        "of tensors": format_bytes(size.bytes),
        "bits a parameter": format_bits(size) or "?",
        "tensors": f"{size.tensors:,}",
        "quantized": ", ".join(schemes) or "not quantized",
        f"in {plural(len(files), 'file')}": format_bytes(sum(file.bytes for file in files)),
    }
    items = (element("div", element("dt", k), element("dd", v)) for k, v in facts.items())
    return element("dl", *items, class_="tiles")


def about(layout: LayoutFacts) -> Element:
    """What the config says, and what could not be understood."""
    facts: list[tuple[str, Child]] = [
        ("names", layout.naming),
        ("config", element("code", layout.config_file)),
        ("row order", layout.row_order),
    ]
    said = layout.quantized
    facts += _quantization(said) if said else [("quantization", "none")]
    items = (element("div", element("dt", k), element("dd", v)) for k, v in facts)
    faults = (element("p", f"Cannot tell: {fault}", class_="alarm") for fault in layout.faults)
    return element("div", *faults, element("dl", *items, class_="about"))


def _quantization(said: Quantized) -> Iterator[tuple[str, Child]]:
    place = element("span", f"{said.method}, in ", element("code", said.place))
    yield "quantization", place
    yield from ((group.name, _group(group)) for group in said.groups)
    if said.ignore:
        summary = element("summary", plural(len(said.ignore), "name"))
        names = (element("li", element("code", name)) for name in said.ignore)
        yield "ignored", element("details", summary, element("ul", *names))
    if said.kv_cache:
        yield "kv cache", said.kv_cache


def _group(group: Group) -> Element:
    targets = element("code", ", ".join(group.targets))
    return element("span", element("strong", group.scheme), f" {group.label}, for ", targets)


def sizes_section(layout: LayoutFacts) -> Element:
    """Bytes part by part, each bar divided by scheme."""
    numbers = ("bytes", "share", "parameters", "bits", "tensors")
    heads = [("part", ""), ("", "bar"), *((name, "number") for name in numbers)]
    most = max((part.size.bytes for part in layout.parts), default=0)
    rows = (_part(part, layout, most) for part in layout.parts)
    return element("section", element("h3", "Sizes"), table(heads, rows))


def _part(part: Part, layout: LayoutFacts, most: int) -> Element:
    size = part.size
    numbers = (
        format_bytes(size.bytes),
        format_share(size.bytes, layout.size.bytes),
        format_count(size.parameters),
        format_bits(size),
        f"{size.tensors:,}",
    )
    return element(
        "tr",
        element("th", part.name, scope="row"),
        element("td", _bar(part, layout, most), class_="bar"),
        *(element("td", number, class_="number") for number in numbers),
    )


def _bar(part: Part, layout: LayoutFacts, most: int) -> Element:
    """A bar whose whole width is `most` bytes."""
    classes = scheme_classes(layout)
    told = ", ".join(f"{scheme} {format_bytes(count)}" for scheme, count in part.bytes)
    bar, start = element("svg", element("title", told), role="img", aria_label=told), 0.0
    for scheme, count in part.bytes:
        width = 100 * count / most if most else 0.0
        place = {"x": f"{start:.3f}%", "width": f"{width:.3f}%", "height": "100%"}
        bar.append(element("rect", class_=classes[scheme], **place))
        start += width
    return bar


def tree_section(layout: LayoutFacts) -> Element:
    """Module names as a tree to unfold."""
    heads = ("module", "parameters", "bytes", "bits", "stored as")
    return element(
        "section",
        element("h3", "Modules"),
        element("div", *(element("span", head) for head in heads), class_="node head"),
        *(_node(node, scheme_classes(layout), 0) for node in layout.tree),
        class_="tree",
    )


def _node(node: Node, classes: dict[str, str], depth: int) -> Element:
    if not node.children:
        return element("div", *_columns(node, classes), class_="node")
    summary = element("summary", *_columns(node, classes), class_="node")
    children = (_node(child, classes, depth + 1) for child in node.children)
    opened = "" if depth < 2 else None
    return element("details", summary, *children, open=opened)


def _columns(node: Node, classes: dict[str, str]) -> Iterator[Element]:
    times = element("span", f" \u00d7 {node.count}", class_="quiet") if node.count > 1 else None
    yield element("span", element("code", node.name), times)
    yield element("span", format_count(node.size.parameters), class_="number")
    yield element("span", format_bytes(node.size.bytes), class_="number")
    yield element("span", format_bits(node.size), class_="number")
    chips = (
        element("span", name, class_=f"chip {classes[name]}", title=plural(count, "module"))
        for name, count in node.schemes
    )
    yield element("span", *chips)


def others_section(layout: LayoutFacts) -> Element | None:
    """Tensors that are no module's; None where there are none."""
    if not layout.others:
        return None
    heads = [("tensor", ""), ("dtype", ""), ("shape", ""), ("bytes", "number"), ("", "")]
    more = len(layout.others) - _MOST
    return element(
        "section",
        element("h3", "Tensors of no module"),
        table(heads, _others(layout.others)),
        element("p", f"and {more:,} more", class_="quiet") if more > 0 else None,
    )


def _others(others: Sequence[Other]) -> Iterator[Element]:
    for other in others[:_MOST]:
        yield element(
            "tr",
            element("th", element("code", other.name), scope="row"),
            element("td", other.dtype),
            element("td", str(list(other.shape))),
            element("td", format_bytes(other.bytes), class_="number"),
            element("td", other.reason),
        )


def files_section(files: Sequence[File]) -> Element:
    """Every file with its size."""
    heads = [("file", ""), ("bytes", "number"), ("tensors", "number"), ("layout", ""), ("", "")]
    return element("section", element("h2", "Files"), table(heads, map(_file, files)), id="files")


def _file(file: File) -> Element:
    tensors = "" if file.tensors is None else f"{file.tensors:,}"
    return element(
        "tr",
        element("th", element("code", file.name), scope="row"),
        element("td", format_bytes(file.bytes), class_="number"),
        element("td", tensors, class_="number"),
        element("td", file.layout),
        element("td", file.note, class_="alarm"),
    )
