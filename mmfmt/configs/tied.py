"""Tied embeddings: whether config.json says that the output head is the embeddings' matrix."""

from mmfmt.configs.hf import HfConfig
from mmfmt.schemas import table

TOP, TEXT = "tie_word_embeddings", "text.tie_word_embeddings"


def stated_tie(config: HfConfig) -> bool | None:
    """What config.json means to say, at either level; None where it is silent."""
    top, text = config.get(TOP), config.get(TEXT)
    if config.model_type == "llava" and (top, text) != (None, None):
        return bool(top or text)  # LlavaConfig ties if either says so
    said = text if top is None else top
    return None if said is None else bool(said)


def effective_tie(config: HfConfig) -> bool | None:
    """What transformers takes: the top level decides, then the class's default.

    None where the default is not the same in all versions of transformers.
    """
    either = config.model_type == "llava" or not config.multimodal
    said = stated_tie(config) if either else config.get(TOP)
    default: bool | None = table("fields")["tied"]["defaults"].get(config.model_type)
    return default if said is None else bool(said)
