"""The page of `inspect`: what it says, that it is one closed file, and that Chromium shows it."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from mmfmt.inspect.page import page
from mmfmt.inspect.survey import inspect
from mmfmt.repo import open_repo
from mmfmt.verify.gate import judge
from mmfmt.verify.options import read_options
from tests.conftest import Run
from tests.damage import drop, put, set_field
from tests.repos import BF16, CONFIG, HF, W4A16, good_repo

VOID = {"meta", "br", "hr", "img", "input", "link", "base"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
LAYER = "language_model.model.layers"


class Element:
    """An element of a page, as html.parser reads it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element] = []
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def all(self, tag: str = "", class_: str = "") -> Iterator["Element"]:
        """Every element below, in order."""
        for child in self.children:
            classes = child.attributes.get("class", "").split()
            if tag in ("", child.tag) and (not class_ or class_ in classes):
                yield child
            yield from child.all(tag, class_)


class Reader(HTMLParser):
    """Elements of a page; tags that are not closed in order fail."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]
        self.feed(text)
        self.close()
        assert len(self.open) == 1, [e.tag for e in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.pieces.append(data)


def read(text: str) -> Element:
    return Reader(text).open[0]


def page_of(folder: Path, *rules: str) -> str:
    """The page, with the findings of some rules."""
    repo = open_repo(folder)
    options = read_options(repo, {"select": rules or ("MMF3",)}, False)
    return page(inspect(repo), judge(repo, options))


@pytest.fixture(scope="module")
def dual() -> Element:
    return read(page_of(good_repo("dual")))


def test_every_module_of_every_layer_has_a_cell(dual: Element) -> None:
    titles = [cell.attributes["title"] for cell in dual.all("td", "cell")]
    told = {title.partition(" \u00b7 ")[0] for title in titles}
    for file, parts in ((HF, ".weight"), ("consolidated.safetensors", ".weight")):
        with safe_open(good_repo("dual") / file, framework="pt") as opened:
            names = {n.rpartition(".")[0] for n in opened.keys() if parts in n}  # noqa: SIM118
        assert names <= told
    assert len(told) == len(titles)


def test_sizes_files_and_verdict_are_told(dual: Element) -> None:
    (files,) = (s for s in dual.all("section") if s.attributes.get("id") == "files")
    rows = {next(row.all("th")).text: row for row in files.all("tr")}
    assert rows.keys() - {"file"} == {path.name for path in good_repo("dual").iterdir()}
    with safe_open(good_repo("dual") / HF, framework="pt") as opened:
        assert str(len(opened.keys())) in [cell.text for cell in rows[HF].all("td")]
    (verdict,) = dual.all("p", "verdict")
    assert verdict.text.startswith("ok") and "0 errors" in verdict.text


def test_findings_stand_in_their_section_and_mark_their_cells(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    drop(HF, f"{LAYER}.2.input_layernorm.weight")(folder)
    root = read(page_of(folder))
    (verdict,) = root.all("p", "verdict")
    assert verdict.text.startswith("failed") and "1 error" in verdict.text
    (finding,) = root.all("details", "finding")
    assert "MMF302" in finding.text and f"{LAYER}.2.input_layernorm" in finding.text
    flagged = list(root.all("td", "flagged"))
    assert [cell.attributes["class"] for cell in flagged] == ["cell missing flagged error"]
    assert "MMF302" in flagged[0].attributes["title"]


def test_the_page_is_closed(dual: Element) -> None:
    links = [value for e in dual.all() for key, value in e.attributes.items() if key == "href"]
    ids = [e.attributes["id"] for e in dual.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids)) and links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    strange = {"src", "srcset", "action", "style", "data", "poster", "ping"}
    assert not [e.tag for e in dual.all() if strange & e.attributes.keys()]
    assert not [key for e in dual.all() for key in e.attributes if key.startswith("on")]
    (style,) = dual.all("style")
    assert "url(" not in style.text and "@import" not in style.text


def test_its_policy_allows_its_own_style_and_script_only(dual: Element) -> None:
    policies = [m.attributes for m in dual.all("meta") if "http-equiv" in m.attributes]
    (policy,) = (attributes["content"] for attributes in policies)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        (element,) = dual.all(tag)
        digest = b64encode(sha256(element.text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_tables_say_what_heads_what(dual: Element) -> None:
    tables = list(dual.all("table"))
    assert tables
    for table in tables:
        assert all("scope" in head.attributes for head in table.all("th"))
        widths = {len(row.children) for row in table.all("tr")}
        assert len(widths) == 1
    assert dual.children[0].attributes == {"lang": "en"}


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;</style>\x00\u202e"


def test_hostile_names_are_text(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "<b onclick=alert(3)>repo")
    put(HF, f"{EVIL}.weight", torch.ones(3))(folder)
    (folder / "<i>\"file'&lt;").write_text("")
    for path, value in (
        ("quantization_config.ignore", [EVIL]),
        ("quantization_config.config_groups.group_0.targets", ["Linear", EVIL]),
    ):
        set_field(CONFIG, path, value)(folder)
    text = page_of(folder, "MMF3", "MMF4")
    assert "\x00" not in text and "\u202e" not in text
    root, clean = read(text), read(page_of(W4A16))
    assert {e.tag for e in root.all()} <= {e.tag for e in clean.all()} | {"ul", "li", "td"}
    assert len(list(root.all("script"))) == len(list(root.all("style"))) == 1
    assert {key for e in root.all() for key in e.attributes} <= KNOWN_ATTRIBUTES
    shown = EVIL.replace("\x00", "\\x00").replace("\u202e", "\\u202e")
    assert shown in root.text and "<i>\"file'&lt;" in root.text
    assert "<b onclick=alert(3)>repo" in next(root.all("h1")).text


KNOWN_ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "title", "id", "href", "open"),
    *("aria-label", "aria-hidden", "scope", "role", "x", "width", "height"),
}


def colours(scheme: str) -> dict[str, str]:
    """The colours of the page's style, in the light or the dark scheme."""
    (style,) = read(page_of(BF16)).all("style")
    light, _, rest = style.text.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", light))
    dark = rest[: rest.index("* {")]
    return found | (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", dark)) if scheme == "dark" else {}
    )


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    found = colours(scheme)
    pairs = [(text, ground) for text in ("ink", "quiet", "accent") for ground in ("page", "card")]
    pairs += [("on-q", f"q{n}") for n in range(6)] + [("on-p", f"p{n}") for n in range(3)]
    pairs += [(level, f"{level}-tint") for level in ("error", "warning", "good")]
    pairs += [("error", "card"), ("good", "card"), ("quiet", "hover"), ("accent", "hover")]
    for text, ground in pairs:
        assert contrast(found[text], found[ground]) >= 4.5, (scheme, text, ground)


def test_the_command_writes_the_page_with_the_options_of_the_repo(tmp_path: Path, run: Run) -> None:
    folder = shutil.copytree(good_repo("dual"), tmp_path / "repo")
    drop(HF, f"{LAYER}.2.input_layernorm.weight")(folder)
    (folder / "mmfmt.toml").write_text('select = ["MMF1"]')
    outcome = run("inspect", folder, "--html", tmp_path / "page.html")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    root = read((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert {"hf", "consolidated"} <= {e.attributes.get("id") for e in root.all("section")}
    (verdict,) = root.all("p", "verdict")
    assert verdict.text.startswith("ok") and list(root.all("td", "missing"))
    nowhere = tmp_path / "nowhere" / "page.html"
    assert "cannot be written" in run("inspect", folder, "--html", nowhere).error


# --- in Chromium ---


def chromium(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Chromium's end of a page; stderr has what the page's console said."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", *options, f"file://{folder}/page.html"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@browser
def test_chromium_runs_the_script_and_nothing_of_the_repo(tmp_path: Path) -> None:
    folder = shutil.copytree(W4A16, tmp_path / "repo")
    put(HF, f"{EVIL}.weight", torch.ones(3))(folder)
    done = chromium(tmp_path, page_of(folder), "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    root = read(re.sub("<!DOCTYPE[^>]*>", "", done.stdout))
    for figure in root.all("figure"):
        indexes = [cell.attributes.get("tabindex") for cell in figure.all("td", "cell")]
        assert indexes == ["0"] + ["-1"] * (len(indexes) - 1)
    assert not list(root.all("img")) and len(list(root.all("script"))) == 1


MEASURE = """
const cells = [...document.querySelectorAll("figure")[0].querySelectorAll(".cell")];
cells[0].focus();
cells[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
const at = document.activeElement;
// a window in the background moves its focus without a word
at.dispatchEvent(new FocusEvent("focusin", { bubbles: true }));
document.body.dataset.seen = JSON.stringify({
  told: document.querySelector(".detail").textContent,
  focus: at.title,
  page: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  cell: cells[0].getBoundingClientRect().width,
});
"""


def measured(folder: Path, width: int) -> dict[str, Any]:
    """What a script of ours sees in the page; its policy is taken out to let it run."""
    text = re.sub(r'<meta http-equiv="[^>]*>', "", page_of(W4A16))
    text = text.replace("</body>", f"<script>{MEASURE}</script></body>")
    done = chromium(folder, text, "--dump-dom", f"--window-size={width},900")
    (body,) = read(re.sub("<!DOCTYPE[^>]*>", "", done.stdout)).all("body")
    seen: dict[str, Any] = json.loads(body.attributes["data-seen"])
    return seen


@browser
@pytest.mark.parametrize("width", [500, 1440])
def test_arrow_keys_tell_about_cells_at_every_width(tmp_path: Path, width: int) -> None:
    seen = measured(tmp_path, width)
    assert seen["focus"].startswith(f"{LAYER}.0.post_attention_layernorm \u00b7 BF16")
    assert seen["told"] == seen["focus"]
    assert seen["page"] == 0 and seen["cell"] > 8


@browser
def test_chromium_draws_it(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    chromium(tmp_path, page_of(W4A16), f"--screenshot={picture}", "--window-size=900,900")
    with Image.open(picture) as image:
        found = image.convert("RGB").getcolors(1 << 24)
    assert found and len(found) > 50
