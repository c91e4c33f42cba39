"""How modules are quantized: schemes, the configs that say so, and what is wrong with either."""

from mmfmt.quantization.faults import module_faults, packing_of
from mmfmt.quantization.parse import CT, Quantization, parse_quantization
from mmfmt.quantization.scheme import Scheme, reader_suffixes
from mmfmt.quantization.section import quantization_section

__all__ = [
    "CT",
    "Quantization",
    "Scheme",
    "module_faults",
    "packing_of",
    "parse_quantization",
    "quantization_section",
    "reader_suffixes",
]
