"""The rules, by family; importing this package registers them."""

from mmfmt.verify.rules import configs, files, headers, names, quantization, tokenizer

__all__ = ["configs", "files", "headers", "names", "quantization", "tokenizer"]
