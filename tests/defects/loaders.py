"""6xx: what only the loaders see."""

from pathlib import Path

from tests.damage import Damage, drop_field, set_field
from tests.defects.defect import Defect
from tests.defects.tokenizer import FAST, PROCESSOR, SETTINGS, TEKKEN

TEMPLATE = "chat_template.jinja"


def template(old: str, new: str) -> Damage:
    """Change the chat template."""

    def damage(repo: Path) -> None:
        text = (repo / TEMPLATE).read_text()
        assert old in text
        (repo / TEMPLATE).write_text(text.replace(old, new))

    return damage


def loads(rule: str, what: str, damage: Damage, seen: str = "") -> Defect:
    """A defect that takes a run of the loaders to see."""
    return Defect(rule, what, damage, level="loaders", seen=seen)


BOS, CALL = "{{- bos_token }}", "{{- '[INST]'"
DEFAULT_SIZE = drop_field(PROCESSOR, "image_processor.size")

DEFECTS: list[Defect] = [
    loads("MMF620", "decoder", set_field(FAST, "decoder", {"type": "Other"})),
    loads("MMF620", "image section", set_field(TEKKEN, "image.colours", 3)),
    loads("MMF621", "split", set_field(SETTINGS, "split_special_tokens", True)),
    loads("MMF622", "default size", DEFAULT_SIZE, seen="unsloth#2225"),
    loads("MMF623", "BOS twice", template(BOS, BOS + BOS), seen="vllm#16976"),
    loads("MMF623", "space", template(CALL, "{{- ' [INST]'"), seen="mistral-common#3"),
    loads("MMF623", "refuses", template(BOS, BOS + "{{ raise_exception('no') }}")),
]
