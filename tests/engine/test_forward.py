"""Models of every family, random but alive: vLLM computes from the consolidated layout what
transformers computes from the HF layout, past the original context length too.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests import builders

from .checkpoints import edit_json, flip_apply_scale, halves
from .conftest import BF16, Vllm, convert

pytestmark = pytest.mark.engine

GEOMETRY = builders.Geometry(
    hidden=128, heads=4, kv_heads=2, head_dim=32, ff=192, layers=2, vocab=2048, vision_hidden=64
)
# sizes that vLLM's latent attention takes
LATENT = replace(GEOMETRY, kv_heads=4, kv_rank=512, plain_dim=64, rotary_dim=64, value_dim=64)
# four times the original context, and queries scaled from there on
YARN = {
    **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
    **{"original_max_position_embeddings": 16, "beta_fast": 4.0, "beta_slow": 1.0},
    "llama_4_scaling_beta": 0.5,
}
UNSCALED = {**YARN, "attention_factor": 1.0}
# latent attention rotates half a head, and scales whole logits instead of cosines and sines
LATENT_YARN = {**YARN, "partial_rotary_factor": 0.5, "mscale": 1.0, "mscale_all_dim": 1.0}
LATENT_UNSCALED = {**LATENT_YARN, "mscale_all_dim": 0.0, "attention_factor": 1.0}
PROMPT = [1, *range(1000, 2000, 17)]
# single precision on both sides: right conversions differ by some 1e-6
LIMIT, FAR = 1e-3, 1e-2


@dataclass(frozen=True)
class Case:
    """A model of a kind, and the layout in which vLLM is given it."""

    kind: str
    rope: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    layout: str = "mistral"
    spoil: Callable[[Path], None] | None = None

    def config(self) -> Any:
        """transformers' config object."""
        geometry = LATENT if "mistral4" in self.kind else GEOMETRY
        config = builders.model_config(self.kind, geometry, **self.extra)
        if self.rope:
            config.get_text_config().rope_parameters = dict(self.rope)
        return type(config).from_dict(json.loads(config.to_json_string()))


def rows_in_hf_order(repo: Path) -> None:
    """Leave text wk as the HF layout has it."""
    tensors = builders.load_set(repo, "consolidated")
    name = "layers.1.attention.wk.weight"
    tensors[name] = halves(tensors[name], GEOMETRY.kv_heads)
    builders.save_set(repo, [tensors], "consolidated")


def other_scaling(repo: Path) -> None:
    """Queries scaled a little otherwise."""
    edit_json(repo / "params.json", lambda p: p["llama_4_scaling"].update(beta=0.4))  # type: ignore[attr-defined]


RIGHT = {
    "mistral": Case("mistral", extra={"sliding_window": None}),
    "window": Case("mistral", extra={"sliding_window": 8}),
    "yarn": Case("ministral3", YARN),
    "yarn, not scaled": Case("ministral3", UNSCALED),
    "latent": Case("mistral4", LATENT_YARN),
    "latent, not scaled": Case("mistral4", LATENT_UNSCALED),
    "mistral3": Case("mistral3", YARN),
    "mistral3, latent": Case("mistral3 with mistral4", LATENT_YARN),
    "llava": Case("llava"),
    "mixtral": Case("mixtral", layout="hf"),
    "mistral3 back": Case("mistral3", YARN, layout="hf"),
}
WRONG = {
    "wrong rows": Case("ministral3", YARN, spoil=rows_in_hf_order),
    "wrong apply_scale": Case("ministral3", YARN, spoil=flip_apply_scale),
    "wrong latent apply_scale": Case("mistral4", LATENT_YARN, spoil=flip_apply_scale),
    "wrong latent scaling": Case("mistral4", LATENT_YARN, spoil=other_scaling),
}
CASES = RIGHT | WRONG


def build(case: Case) -> Any:
    """The model in BF16, its weights large enough for every part of it to be heard."""
    torch.manual_seed(0)
    model = builders.build_model(case.config())
    for name, parameter in model.named_parameters():
        size = 1.0 if "embed" in name else parameter.shape[-1] ** -0.5
        values = torch.randn(parameter.shape) * size if parameter.ndim > 1 else 1.0
        parameter.data = torch.empty(parameter.shape).copy_(torch.as_tensor(values))
    return model.to(torch.bfloat16)


def expected(folder: Path) -> list[float]:
    """What transformers computes in single precision."""
    name = builders.read_json(folder / "config.json")["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        scores = model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    found = scores[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0]
    return [float(value) for value in found]


def prepare(case: Case, folder: Path) -> Path:
    """The HF model in `hf`, and the repo that vLLM is given."""
    build(case).save_pretrained(folder / "hf")
    for name in ("tekken.json", "processor_config.json"):
        shutil.copy(BF16 / name, folder / "hf" / name)
    convert("hf-to-consolidated", folder / "hf", folder / "native")
    given = folder / "native"
    if case.layout == "hf":
        given = folder / "back"
        convert("consolidated-to-hf", folder / "native", given)
    if case.spoil:
        case.spoil(given)
    (given / "prompt.json").write_text(json.dumps(PROMPT))
    return given


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory, vllm: Vllm) -> dict[str, float]:
    """The largest difference of log-probabilities in each case."""
    repos = {name: prepare(case, tmp_path_factory.mktemp("case")) for name, case in CASES.items()}
    vllm("forward", *(f"{CASES[name].layout}:{repo}" for name, repo in repos.items()))
    result = {}
    for name, repo in repos.items():
        found = json.loads((repo / "logprobs.json").read_text())
        pairs = zip(found, expected(repo.parent / "hf"), strict=True)
        result[name] = max(abs(one - other) for one, other in pairs)
    return result


@pytest.mark.parametrize("name", RIGHT)
def test_same_computation(differences: dict[str, float], name: str) -> None:
    """The same numbers, but for rounding."""
    assert differences[name] < LIMIT


@pytest.mark.parametrize("name", WRONG)
def test_it_would_show(differences: dict[str, float], name: str) -> None:
    """A small mistake in one field, or in the rows of one tensor, is seen at once."""
    assert differences[name] > FAR
