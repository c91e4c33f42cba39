"""Defects to plant, one list for each family of rules; `python -m tests.defects` tries them all."""

from tests.defects import configs, files, hygiene, loaders, names, quantization, tokenizer, values
from tests.defects.defect import Defect

DEFECTS: tuple[Defect, ...] = (
    *files.DEFECTS,
    *names.DEFECTS,
    *quantization.DEFECTS,
    *configs.DEFECTS,
    *tokenizer.DEFECTS,
    *loaders.DEFECTS,
    *values.DEFECTS,
    *hygiene.DEFECTS,
)
