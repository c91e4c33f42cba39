"""The rules, by family; importing this package registers them."""

from mmfmt.verify.findings import REGISTRY, Rule
from mmfmt.verify.rules import (
    attention,
    configs,
    defaults,
    embeddings,
    files,
    headers,
    ignore_lists,
    indexes,
    loaders,
    names,
    processor,
    quantization,
    row_order,
    sections,
    tokenizer,
    tokenizer_files,
    values,
)

__all__ = [
    "attention",
    "configs",
    "defaults",
    "embeddings",
    "files",
    "headers",
    "ignore_lists",
    "indexes",
    "loaders",
    "names",
    "processor",
    "quantization",
    "registered_rules",
    "row_order",
    "sections",
    "tokenizer",
    "tokenizer_files",
    "values",
]


def registered_rules() -> tuple[Rule, ...]:
    """Every rule, by id."""
    return tuple(REGISTRY[id] for id in sorted(REGISTRY))
