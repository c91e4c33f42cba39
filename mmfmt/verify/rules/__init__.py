"""The rules, by family; importing this package registers them."""

from mmfmt.verify.findings import REGISTRY, Rule
from mmfmt.verify.rules import (
    configs,
    files,
    headers,
    names,
    processor,
    quantization,
    tokenizer,
    tokenizer_files,
    values,
)

__all__ = [
    "configs",
    "files",
    "headers",
    "names",
    "processor",
    "quantization",
    "registered_rules",
    "tokenizer",
    "tokenizer_files",
    "values",
]


def registered_rules() -> tuple[Rule, ...]:
    """Every rule, by id."""
    return tuple(REGISTRY[id] for id in sorted(REGISTRY))
