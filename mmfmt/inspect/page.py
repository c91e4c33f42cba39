"""One self-contained HTML page of a repo: verdict, findings, map, sizes, modules, files.

Nothing in it comes from elsewhere, and its own policy forbids it to load or run anything more.
"""

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from xml.etree.ElementTree import Element

from mmfmt.inspect import __name__ as package
from mmfmt.inspect.facts import Inspection, LayoutFacts
from mmfmt.inspect.markup import document, element, source
from mmfmt.inspect.page_findings import findings_section, verdict_line
from mmfmt.inspect.page_map import map_section
from mmfmt.inspect.page_sections import (
    about,
    files_section,
    others_section,
    sizes_section,
    tiles,
    tree_section,
)
from mmfmt.verify.gate import Verdict


def page(inspection: Inspection, verdict: Verdict) -> str:
    """The page as a string; `verdict` is what the gate says of the same repo."""
    root = element("html", _head(inspection), _body(inspection, verdict), lang="en")
    return document(root)


def _head(inspection: Inspection) -> Element:
    style = _own("page.css")
    sources = f"style-src {_hash(style)}; script-src {_hash(_own('page.js'))}"
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; {sources}"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{_name(inspection)} - mmfmt inspect"),
        source("style", style),
    )


def _name(inspection: Inspection) -> str:
    return inspection.repo.rstrip("/").rpartition("/")[2] or inspection.repo


def _body(inspection: Inspection, verdict: Verdict) -> Element:
    return element(
        "body",
        _header(inspection, verdict),
        element(
            "main",
            findings_section(verdict),
            *(_layout(layout, verdict) for layout in inspection.layouts),
            files_section(inspection.files),
        ),
        source("script", _own("page.js")),
    )


def _header(inspection: Inspection, verdict: Verdict) -> Element:
    return element(
        "header",
        element("p", "mmfmt inspect", class_="kicker"),
        element("h1", _name(inspection), title=inspection.repo),
        verdict_line(verdict),
        tiles(inspection),
        *(element("p", f"cannot tell: {fault}", class_="alarm") for fault in inspection.faults),
        _contents(inspection),
    )


def _contents(inspection: Inspection) -> Element:
    links = [("findings", "Findings")]
    links += [(layout.key, f"{layout.label} layout") for layout in inspection.layouts]
    links.append(("files", "Files"))
    items = (element("a", text, href=f"#{target}") for target, text in links)
    return element("nav", *items, aria_label="Contents")


def _layout(layout: LayoutFacts, verdict: Verdict) -> Element:
    return element(
        "section",
        element("h2", f"{layout.label} layout"),
        about(layout),
        map_section(layout, verdict.report.findings),
        sizes_section(layout),
        tree_section(layout),
        others_section(layout),
        id=layout.key,
    )


def _own(name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
