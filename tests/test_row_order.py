"""Row order from the weights alone: right on trained weights, undetermined on random ones."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from mmfmt.arrays import Array
from mmfmt.checkpoint import Module, Parameter
from mmfmt.layout import family
from mmfmt.model import Model, hf_model, native_model
from mmfmt.quantization.dequantize import row_norms
from mmfmt.repo import open_repo
from mmfmt.verify.row_order import THRESHOLD, RowOrder, frequency_numbers, row_order
from tests import builders
from tests.conftest import Run

Norms = list[Array]
TRAINED = {"BF16": builders.BF16, "W4A16": builders.W4A16}
# modules whose rows lie in one order; ends of native names
GROUPS = {
    "text q": ("layers.{layer}.attention.wq",),
    "text k": ("layers.{layer}.attention.wk",),
    "text": ("layers.{layer}.attention.wq", "layers.{layer}.attention.wk"),
    "vision": tuple(f"vision_encoder.transformer.layers.{{layer}}.attention.w{w}" for w in "qk"),
}


def norms_of(model: Model, group: str) -> Norms:
    """The row norms of every module of a group."""

    def read(parameter: Parameter) -> bytes:
        return model.weights.read(parameter.shard, parameter.entry)

    def norms(module: Module) -> Array:
        return row_norms(module, model.scheme_of_quantized(module), model.symbols, read)

    modules = model.checkpoint.modules.values()
    return [norms(module) for module in modules if module.row.native in GROUPS[group]]


def axes_of(group: str) -> int:
    """The position axes of a group, by the layout tables."""
    rows = family("pixtral").rows
    return next(row.axes for row in rows if row.native in GROUPS[group])


@cache
def trained(name: str, group: str) -> Norms:
    """Row norms of a group of tinystral, HF order."""
    return norms_of(hf_model(open_repo(TRAINED[name])), group)


def to_native(norms: Array) -> Array:
    """From HF to native row order, by the inverse of transformers' permutation."""
    rows = torch.arange(norms.shape[1])
    native: Array = norms[:, torch.argsort(builders.to_hf_rows(rows, 1)).numpy()]
    return native


# --- trained weights ---


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", TRAINED)
def test_hf_layout(name: str, group: str) -> None:
    """As AutoRound and transformers wrote them."""
    found = row_order(trained(name, group), axes_of(group))
    assert found.verdict == "hf", found
    assert found.heads == sum(map(len, trained(name, group)))


@pytest.mark.parametrize("reader", ["vllm", "native"])
@pytest.mark.parametrize("name", TRAINED)
def test_consolidated(tmp_path: Path, to_consolidated: Run, name: str, reader: str) -> None:
    """Native order everywhere, but in the packed rows that vLLM does not permute."""
    source = builders.copy_repo(TRAINED[name], tmp_path / "hf")
    assert to_consolidated(source, tmp_path / "native", "--reader", reader).code == 0
    model = native_model(open_repo(tmp_path / "native"))
    text = "hf" if (name, reader) == ("W4A16", "vllm") else "native"
    for group in GROUPS:
        found = row_order(norms_of(model, group), axes_of(group))
        assert found.verdict == ("native" if group == "vision" else text), (group, found)


@pytest.mark.parametrize("group", GROUPS)
def test_shuffled(group: str) -> None:
    """The same norms in any other order, one for all heads, fit neither."""
    generator = np.random.default_rng(0)
    for _ in range(100):
        order = generator.permutation(trained("BF16", group)[0].shape[1])
        found = row_order([module[:, order] for module in trained("BF16", group)], axes_of(group))
        assert found.verdict == "undetermined", found


def test_two_orders_at_once() -> None:
    """Half of the layers in another order than the others: nothing to say of all."""
    norms = trained("BF16", "text q")
    found = row_order([*norms[:2], *map(to_native, norms[2:])])
    assert found.verdict == "undetermined", found


# --- random weights ---

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def in_groups_of_codes(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Sixteen codes and a scale for 16 columns."""
    weights = generator.normal(size=(*shape[:-1], shape[-1] // 16, 16))
    scale = np.abs(weights).max(axis=-1, keepdims=True) / 7
    rounded: Array = np.round(weights / scale) * scale
    return rounded.reshape(shape)


def scaled_rows(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Each row of each head has a scale of its own."""
    return generator.normal(size=shape) * generator.lognormal(size=(*shape[:-1], 1))


def scaled_alike(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Each row has a scale of its own, the same in every head."""
    return generator.normal(size=shape) * generator.lognormal(size=(shape[-2], 1))


def rows_in_blocks(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Every head has a scale of its own."""
    return generator.normal(size=shape) * generator.lognormal(size=(shape[0], 1, 1))


RANDOM: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "uniform": lambda generator, shape: generator.uniform(-1, 1, size=shape),
    "heavy tails": lambda generator, shape: generator.standard_cauchy(size=shape),
    "mostly zero": lambda g, shape: g.normal(size=shape) * (g.random((*shape[:-1], 1)) < 0.1),
    "codes": in_groups_of_codes,
    "scaled rows": scaled_rows,
    "scaled alike": scaled_alike,
    "scaled heads": rows_in_blocks,
}


def random_norms(name: str, seed: int, heads: int, head_dim: int, modules: int = 3) -> Norms:
    """Row norms of modules of 48 columns."""
    generator = np.random.default_rng(seed)
    weights = RANDOM[name](generator, (modules * heads, head_dim, 48))
    return np.split(np.linalg.norm(weights.astype(np.float32), axis=-1), modules)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize(("head_dim", "axes"), [(32, 2), (64, 1), (128, 1)])
def test_random_weights(name: str, head_dim: int, axes: int) -> None:
    """Never trained: no order shows, however many look."""
    for seed in range(25):
        found = row_order(random_norms(name, seed, 1 + seed % 4, head_dim), axes)
        assert found.verdict == "undetermined", (seed, found)


def test_initialized_models(tmp_path: Path) -> None:
    """As transformers initializes a model."""
    geometry = builders.Geometry(hidden=128, heads=4, kv_heads=2, head_dim=64, layers=3)
    torch.manual_seed(0)
    builders.build_model(builders.model_config("mistral", geometry)).save_pretrained(tmp_path)
    model = hf_model(open_repo(tmp_path))
    for group in ("text q", "text k", "text"):
        found = row_order(norms_of(model, group))
        assert found.verdict == "undetermined", found


def scores(name: str, count: int, heads: int, head_dim: int) -> Iterator[float]:
    """Both scores of many random models."""
    for seed in range(count):
        found = row_order(random_norms(name, seed, heads, head_dim, modules=1))
        yield from (found.hf, found.native)


@pytest.mark.parametrize("heads", [1, 6])
def test_scores_are_standard_normal(heads: int) -> None:
    """In mean and spread, and where it counts: in the tail. One head is the most skewed."""
    found = np.array(list(scores("normal", 1000, heads, 32)))
    assert abs(found.mean()) < 0.1
    assert abs(found.std() - 1) < 0.1
    assert 1 <= np.count_nonzero(found > 2.5) <= 35  # 12 expected of 2000
    assert found.max() < THRESHOLD


# --- made profiles ---

PROFILES: dict[str, Callable[[Array], Array]] = {
    "falling": lambda f: -f,
    "high frequencies": lambda f: np.exp(-6 * f),
    "low frequencies": lambda f: np.exp(6 * f - 6),
    "middle": lambda f: np.exp(-40 * (f - 0.6) ** 2),
    "two levels": lambda f: (f > 0.7) * 1.0,
}


def profiled(name: str, amplitude: float, heads: int, head_dim: int, axes: int) -> Array:
    """Norms in HF order: a profile along the frequencies in noise of spread 1, and exp of it."""
    generator = np.random.default_rng(heads)
    profile = PROFILES[name](frequency_numbers(head_dim, axes) / (head_dim / 2))
    profile = (profile - profile.mean()) / profile.std()
    noise = generator.normal(size=(heads, head_dim))
    norms: Array = np.exp(0.1 * (amplitude * profile + noise))
    return norms


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("head_dim", "axes"), [(64, 1), (128, 1), (88, 2), (104, 2)])
def test_profiles(name: str, head_dim: int, axes: int) -> None:
    """Found in either order."""
    norms = profiled(name, 1.0, 32, head_dim, axes)
    assert row_order([norms], axes).verdict == "hf"
    assert row_order([to_native(norms)], axes).verdict == "native"


@pytest.mark.parametrize("name", PROFILES)
def test_weak_profiles(name: str) -> None:
    """A profile far below the noise shows in many heads, not in few; and never the wrong way."""
    few, many = (row_order([profiled(name, 0.2, heads, 128, 1)]) for heads in (2, 1000))
    assert few.verdict == "undetermined", few
    assert many.verdict == "hf", many
    none = row_order([profiled(name, 0.0, 1000, 128, 1)])
    assert none.verdict == "undetermined", none


# --- what may not matter, and what is nothing ---

seeds = st.integers(0, 2**32 - 1)


def same(found: RowOrder, expected: RowOrder) -> None:
    """Equal but for the rounding of sums in another order."""
    assert (found.hf, found.native) == pytest.approx((expected.hf, expected.native), abs=1e-6)


@given(st.sampled_from([(16, 1), (32, 2), (64, 1)]), st.integers(1, 5), seeds)
def test_native_rows_fit_as_hf_rows_do(how: tuple[int, int], heads: int, seed: int) -> None:
    """What HF rows score as such, they score as native rows once they are in native order."""
    head_dim, axes = how
    norms = np.random.default_rng(seed).normal(size=(heads, head_dim))
    before, after = row_order([norms], axes), row_order([to_native(norms)], axes)
    assert after.native == pytest.approx(before.hf, abs=1e-6)


@given(st.integers(1, 5), seeds)
def test_invariants(heads: int, seed: int) -> None:
    """Any growing function of each head's norms, order of heads, and cut into modules."""
    generator = np.random.default_rng(seed)
    norms = generator.normal(size=(heads, 32))
    scaled = np.exp(norms) * generator.lognormal(size=(heads, 1))
    shuffled = generator.permutation(scaled)
    same(row_order([shuffled[:2], shuffled[2:]]), row_order([norms]))


@given(seeds)
def test_frequencies_may_rise(seed: int) -> None:
    """Rows from the last to the first are the same pairs, in reverse."""
    norms = np.random.default_rng(seed).normal(size=(3, 32))
    same(row_order([norms[:, ::-1]]), row_order([norms]))


def test_frequencies() -> None:
    """The frequencies of transformers' rotary embeddings fall as ours are numbered."""
    text = transformers.MistralConfig(**builders.TINY.text() | {"head_dim": 64})
    vision = transformers.PixtralVisionConfig(hidden_size=128, num_attention_heads=2)
    from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
    from transformers.models.pixtral.modeling_pixtral import PixtralVisionRotaryEmbedding

    for group, embedding in (
        ("text", MistralRotaryEmbedding(text)),
        ("vision", PixtralVisionRotaryEmbedding(vision)),
    ):
        falling = torch.argsort(torch.argsort(embedding.inv_freq, descending=True))
        assert frequency_numbers(64, axes_of(group)).tolist() == falling.tile(2).tolist()


NOTHING: dict[str, Norms] = {
    "no module": [],
    "no head": [np.empty((0, 64))],
    "all alike": [np.ones((4, 64))],
    "all zero": [np.zeros((4, 64))],
    "not finite": [np.full((4, 64), np.nan), np.full((4, 64), np.inf)],
    "small heads": [np.arange(32.0).reshape(4, 8)],
    "odd heads": [np.arange(132.0).reshape(4, 33)],
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_tell_from(name: str, recwarn: pytest.WarningsRecorder) -> None:
    """No evidence, no error and no warning."""
    found = row_order(NOTHING[name])
    assert (found.hf, found.native, found.verdict) == (0.0, 0.0, "undetermined")
    assert not recwarn.list


def test_heads_that_are_not_finite() -> None:
    """Left out; the others decide."""
    norms = np.concatenate(trained("BF16", "text q"))
    damaged = norms.copy()
    damaged[3, 5], damaged[7, 60] = np.nan, np.inf
    found = row_order([damaged])
    assert (found.heads, found.verdict) == (len(norms) - 2, "hf")
    same(found, row_order([np.delete(norms, (3, 7), axis=0)]))
