"""Defects to plant, one list for each family of rules; test_verify.py tries them all."""

from tests.defects import (
    configs,
    files,
    hygiene,
    ignore_lists,
    loaders,
    names,
    quantization,
    row_order,
    sections,
    tokenizer,
    values,
)
from tests.defects.defect import Defect

DEFECTS: tuple[Defect, ...] = (
    *files.DEFECTS,
    *names.DEFECTS,
    *quantization.DEFECTS,
    *ignore_lists.DEFECTS,
    *row_order.DEFECTS,
    *sections.DEFECTS,
    *configs.DEFECTS,
    *tokenizer.DEFECTS,
    *loaders.DEFECTS,
    *values.DEFECTS,
    *hygiene.DEFECTS,
)
