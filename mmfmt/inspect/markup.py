"""HTML as a tree of elements: the standard library writes it and escapes every text in it."""

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

from mmfmt.errors import printable

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: str | None) -> Element:
    """An element. `class_` means class, `aria_label` aria-label; None is left out."""
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), printable(value))
    for child in children:
        if isinstance(child, str):
            _append_text(made, printable(child))
        elif child is not None:
            made.append(child)
    return made


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Element]) -> Element:
    """A table that scrolls sideways; heads with the class of their column, if it has one."""
    cells = (element("th", text, scope="col", class_=class_ or None) for text, class_ in heads)
    head = element("thead", element("tr", *cells))
    return element("div", element("table", head, element("tbody", *rows)), class_="scroll")


def source(tag: str, text: str) -> Element:
    """A `style` or `script` element: its text, which must be our own, is not escaped."""
    made = Element(tag)
    made.text = text
    return made


def document(root: Element) -> str:
    """The HTML document of a root element."""
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
