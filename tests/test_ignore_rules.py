"""How lists of modules are compared with names, against the libraries that compare them."""

import re
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.utils.match import match_name, match_named_modules
from hypothesis import given
from hypothesis import strategies as st
from transformers.quantizers.quantizers_utils import should_convert_module

from mmfmt.checkpoint import expected_modules
from mmfmt.configs import open_config, to_params
from mmfmt.entries import by_name, by_part
from mmfmt.errors import MmfmtError
from mmfmt.ignore import IgnoreList, ignore_lists
from mmfmt.layout import family, flatten
from tests import builders

PARTS_OF_NAMES = ("model", "vision_tower", "layers", "0", "10", "q_proj", "proj", "lm_head")
WORDS = (*PARTS_OF_NAMES, ".", ".*", "re:")
PATTERNS = st.lists(st.sampled_from(WORDS), max_size=5).map("".join)
NAMES = st.lists(st.sampled_from(PARTS_OF_NAMES), min_size=1, max_size=5).map(".".join)


def is_expression(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


@given(st.lists(PATTERNS, max_size=3), NAMES)
def test_names_are_compared_as_compressed_tensors_does(entries: list[str], name: str) -> None:
    entries = [entry for entry in entries if is_expression(entry.removeprefix("re:"))]
    assert by_name(entries)(name) == any(match_name(name, entry) for entry in entries)


@given(st.lists(PATTERNS.filter(is_expression), max_size=3), NAMES)
def test_parts_are_compared_as_transformers_does(entries: list[str], name: str) -> None:
    assert by_part(entries)(name) == (not should_convert_module(name, entries))


def test_an_expression_that_takes_for_ever_is_an_error() -> None:
    name = "model.language_model.layers.0.self_attn.q_proj"
    with pytest.raises(MmfmtError, match="takes too long"):
        by_name([r"re:(.*)(.*)(.*)(.*)(.*)\1\2\3\4[A-Z]"])(name)
    with pytest.raises(MmfmtError, match="not a regular expression"):
        by_name(["re:("])(name)


# --- a model of transformers, under every way to write a list ---

LISTS = {
    "new": ["model.vision_tower.transformer.layers.0.attention.q_proj", "lm_head"],
    "legacy": ["vision_tower.transformer.layers.0.attention.q_proj", "language_model.lm_head"],
    "unanchored": ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"],
    "anchored": ["re:model.vision_tower.*", "re:model.multi_modal_projector.*"],
    "anchored legacy": ["re:vision_tower.*", "re:multi_modal_projector.*"],
    "native": ["layers.0.attention.wq", "output", "re:vision_encoder.*", "re:patch_merger.*"],
    "prefix": ["model.vision_tower", "model.language_model.layers.0"],
    "text": ["model.language_model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"],
    "end": ["re:.*down_proj$"],
    "class": ["Linear"],
    "every class": ["Module"],
    "another class": ["Conv2d"],
    "nothing": [],
}


@cache
def model() -> Any:
    """A small Mistral3, on no device."""
    with torch.device("meta"):
        return builders.build_model(builders.model_config("mistral3"))


def linears() -> set[str]:
    """Its linear modules."""
    found = model().named_modules()
    return {name for name, module in found if isinstance(module, torch.nn.Linear)}


@cache
def ours() -> set[str]:
    """The names under which mmfmt knows them."""
    (found,) = [
        each for each in lists("compressed-tensors", []) if each.reader.label == "transformers"
    ]
    config = builders.model_config("mistral3").to_dict()
    symbols = flatten(to_params(open_config(config), has_output=True))
    modules = expected_modules(found.reader.naming, symbols)
    kinds = found.reader.kinds
    return {found.reader.naming.module(r, slots) for r, slots in modules if r.kind in kinds}


def lists(method: str, entries: list[str]) -> list[IgnoreList]:
    key = "ignore" if method == "compressed-tensors" else "modules_to_not_convert"
    return list(ignore_lists(method, {key: entries}, "config.json", family("pixtral")))


def read(method: str, entries: list[str]) -> IgnoreList:
    """A list as transformers takes it."""
    return next(each for each in lists(method, entries) if each.reader.label == "transformers")


def test_modules_are_those_of_transformers() -> None:
    assert ours() == linears()


@pytest.mark.parametrize("name", LISTS)
def test_transformers_quantizes_what_is_not_ignored(name: str) -> None:
    """compressed-tensors on the module tree of transformers."""
    entries, means = LISTS[name], read("compressed-tensors", LISTS[name]).means
    quantized = {n for n, _ in match_named_modules(model(), ["Linear"], entries)}
    assert quantized == {n for n in linears() if not means(n)}


PARTS = {
    "whole towers": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    "legacy towers": ["vision_tower", "multi_modal_projector", "language_model.lm_head"],
    "a layer": ["language_model.model.layers.1", "model.language_model.layers.0.mlp"],
    "ends": ["lm_head", "q_proj", "linear_1"],
}


@pytest.mark.parametrize("name", PARTS)
def test_fp8_lists(name: str) -> None:
    """transformers puts names of a list into its own module names first."""
    from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

    config = transformers.FineGrainedFP8Config(modules_to_not_convert=list(PARTS[name]))
    quantizer = FineGrainedFP8HfQuantizer(config)
    quantizer._normalize_modules_to_not_convert(model())
    theirs = {n for n in linears() if should_convert_module(n, config.modules_to_not_convert)}
    means = read("fp8", PARTS[name]).means
    assert theirs == {n for n in linears() if not means(n)}
