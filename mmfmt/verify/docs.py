"""Pages on the rules, made from their docstrings: `python -m mmfmt.verify.docs docs/rules`."""

import re
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from mmfmt.verify.findings import Rule
from mmfmt.verify.rules import registered_rules

HOME = "https://github.com/mmfmt/mmfmt"
# by the first digit of an id
FAMILIES = {
    "1": "Files and indexes",
    "2": "Safetensors headers",
    "3": "Names and shapes",
    "4": "Quantization",
    "5": "Configs",
    "6": "Tokenizer and processor",
    "7": "Values",
    "8": "Release hygiene",
}
COSTS = {
    "header": "reads headers and configs",
    "tokenizers": "reads whole vocabularies",
    "loaders": "runs the loaders of tokenizer and processor",
    "bytes": "reads every byte of the weights (`--level bytes`)",
}
# where the projects live whose issues docstrings refer to, as vllm#16803
_PROJECTS = {
    "auto-round": "intel/auto-round",
    "axolotl": "axolotl-ai-cloud/axolotl",
    "compressed-tensors": "vllm-project/compressed-tensors",
    "huggingface_hub": "huggingface/huggingface_hub",
    "llama.cpp": "ggml-org/llama.cpp",
    "llm-compressor": "vllm-project/llm-compressor",
    "mistral-common": "mistralai/mistral-common",
    "mistral-inference": "mistralai/mistral-inference",
    "mlx": "ml-explore/mlx",
    "mlx-lm": "ml-explore/mlx-lm",
    "mlx-vlm": "Blaizzy/mlx-vlm",
    "ms-swift": "modelscope/ms-swift",
    "ollama": "ollama/ollama",
    "sglang": "sgl-project/sglang",
    "tokenizers": "huggingface/tokenizers",
    "transformers": "huggingface/transformers",
    "unsloth": "unslothai/unsloth",
    "vllm": "vllm-project/vllm",
}
_ISSUE = re.compile(r"(?<![\w./-])([A-Za-z][\w.-]*)?#(\d+)")
# underscores inside a word are no markup
_CODE_OR_SPECIAL = re.compile(r"(`[^`]*`)|([*<\[]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def markdown(rule: Rule) -> str:
    """A rule's explanation as Markdown, its issues as links."""
    plain = _CODE_OR_SPECIAL.sub(lambda m: m[1] or f"\\{m[2]}", rule.explanation)
    return _linked(plain)


def _linked(text: str) -> str:
    """Text with its issues as links; a bare number is of the project named before it."""
    project: str | None = None

    def link(found: re.Match[str]) -> str:
        nonlocal project
        project = _PROJECTS.get(found[1]) if found[1] else project
        target = f"(https://github.com/{project}/issues/{found[2]})"
        return f"[{found[0]}]{target}" if project else found[0]

    return _ISSUE.sub(link, text)


def page(rule: Rule) -> str:
    """The page of one rule."""
    return f"# {rule.id} {rule.name}\n\n*{rule.level}; {COSTS[rule.cost]}*\n\n{markdown(rule)}\n"


def address(rule: Rule) -> str:
    """Where the page of a rule is read."""
    return f"{HOME}/blob/main/docs/rules/{rule.id}.md"


def index(rules: tuple[Rule, ...]) -> str:
    """The page that lists all rules, by family."""
    lines = ["# Rules", "", "Made from the rules' docstrings; `mmfmt explain MMF401` prints one."]
    for digit, family in groupby(rules, key=lambda rule: rule.id[3]):
        lines += ["", f"## {digit}xx {FAMILIES[digit]}", ""]
        lines += ["| rule | level | cost | what must hold |", "|-|-|-|-|"]
        lines += [_row(rule) for rule in family]
    return "\n".join(lines) + "\n"


def _row(rule: Rule) -> str:
    first = " ".join(markdown(rule).partition("\n\n")[0].split()).replace("|", "\\|")
    return f"| [{rule.id}]({rule.id}.md) {rule.name} | {rule.level} | {rule.cost} | {first} |"


def pages() -> Mapping[str, str]:
    """Every page, by file name."""
    rules = registered_rules()
    return {"README.md": index(rules)} | {f"{rule.id}.md": page(rule) for rule in rules}


def write_pages(folder: Path) -> None:
    """Write every page, and remove those of rules that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("*.md")) - {folder / name for name in pages()}:
        old.unlink()
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
