"""How modules are quantized: schemes, the configs that say so, and what is wrong with either."""

from mmfmt.quantization.faults import (
    G_IDX,
    columns_cut,
    foreign_suffixes,
    heads_cut,
    module_faults,
    packing_of,
    rows_cut,
)
from mmfmt.quantization.parse import CT, METHODS, Quantization, method_of, parse_quantization
from mmfmt.quantization.scheme import Scheme, reader_suffixes, suffix_columns
from mmfmt.quantization.section import quantization_section

__all__ = [
    "CT",
    "G_IDX",
    "METHODS",
    "Quantization",
    "Scheme",
    "columns_cut",
    "foreign_suffixes",
    "heads_cut",
    "method_of",
    "module_faults",
    "packing_of",
    "parse_quantization",
    "quantization_section",
    "reader_suffixes",
    "rows_cut",
    "suffix_columns",
]
