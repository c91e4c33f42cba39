"""Lists of modules, as mmfmt says that vLLM takes them and as vLLM's own code does."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmfmt.checkpoint import expected_modules
from mmfmt.ignore import ignore_lists
from mmfmt.layout import family, flatten
from tests.tiny_params import FAMILIES

from .conftest import Vllm

pytestmark = pytest.mark.engine

FILES = {"vllm-hf": "config.json", "vllm-native": "params.json"}
KEYS = {"compressed-tensors": "ignore", "modelopt": "ignore"}
LAYER, VISION = "layers.0.self_attn.q_proj", "vision_tower.transformer.layers.0.attention.q_proj"
LISTS = {
    "new": [f"model.language_model.{LAYER}", f"model.{VISION}", "lm_head"],
    "legacy": [f"language_model.model.{LAYER}", VISION, "language_model.lm_head"],
    "text": [f"model.{LAYER}"],
    "native": ["layers.0.attention.wq", "output"],
    "prefixes": ["model.vision_tower", "model.language_model.layers.0", "vision_tower"],
    "patterns": ["model.vision_tower*", "model.language_model.layers.1*", "*up_proj"],
    "expressions": ["re:.*vision_tower.*", "re:.*mlp.*", "re:.*lm_head"],
    "anchored": ["re:model.vision_tower.*", r"re:model\.language_model\..*down_proj"],
    "anchored legacy": ["re:vision_tower.*", "re:language_model.*q_proj$"],
    "classes": ["Linear"],
    "nothing": [],
}


def cases() -> dict[str, dict[str, Any]]:
    """Every list in every method and model, with the module names that vLLM compares."""
    found = {}
    for label, file in FILES.items():
        for method in ("compressed-tensors", "fp8", "awq", "modelopt"):
            for name, entries in LISTS.items():
                case = {"method": method, "model": label, "entries": entries}
                for each in ours(method, entries, file):
                    if each.reader.label == label:
                        names = module_names(each.reader.naming)
                        found[f"{label} {method} {name}"] = {**case, "names": names}
    return found


def ours(method: str, entries: list[str], file: str) -> Any:
    body = {KEYS.get(method, "modules_to_not_convert"): entries}
    return ignore_lists(method, body, file, family("pixtral"))


def module_names(names: Any) -> list[str]:
    """A model's linear modules."""
    modules = expected_modules(names, flatten(FAMILIES["mistral3"]))
    return [names.module(row, slots) for row, slots in modules if row.kind == "linear"]


def test_lists_are_read_as_vllm_reads_them(vllm: Vllm, tmp_path: Path) -> None:
    made = cases()
    (tmp_path / "cases.json").write_text(json.dumps(made))
    theirs = json.loads(vllm("match", str(tmp_path / "cases.json")).splitlines()[-1])
    for name, case in made.items():
        lists = ours(case["method"], case["entries"], FILES[case["model"]])
        (found,) = [each for each in lists if each.reader.label == case["model"]]
        assert [n for n in case["names"] if found.means(n)] == theirs[name], name
    assert len(made) > 50
