"""What is said of compressed-tensors' sections, against its versions and against each reader."""

import copy
from pathlib import Path
from typing import Any

import pytest
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from mmfmt.errors import MmfmtError
from mmfmt.layout import family
from mmfmt.quantization import parse_quantization
from mmfmt.quantization.arguments import late_keys, removed_orders, unknown_keys
from mmfmt.schemas import table
from tests.section_reader import Json
from tests.test_old_compressed_tensors import VERSIONS, installed, read_by

__all__ = ["installed"]  # a fixture
TABLE = table("compressed_tensors")
WEIGHTS: Json = {
    **{"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"},
    **{"group_size": 128, "dynamic": False},
}


def section(weights: Json | None = None, group: Json | None = None) -> Json:
    """A W4A16 section with something more."""
    scheme = {"targets": ["Linear"], "weights": {**WEIGHTS, **(weights or {})}, **(group or {})}
    body = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}
    return {**body, "quantization_status": "compressed", "config_groups": {"group_0": scheme}}


CHANNEL = {"strategy": "channel", "group_size": None}
NULLS = {key: section({key: None}) for key in TABLE["since"]}
ORDERS = {str(order): section({"actorder": order}) for order in TABLE["removed_orders"]}
LATE_ORDERS = {order: section({**CHANNEL, "actorder": order}) for order in ("static", "weight")}
UNKNOWN = {
    "unknown in arguments": section({"is_mse": None}),
    "unknown in a group": section(group={"weight": None}),
}


@pytest.fixture(scope="module")
def errors(installed: Path) -> tuple[Version, dict[str, bool]]:
    """One version of compressed-tensors, and which sections it refuses."""
    found = read_by(installed, {**NULLS, **ORDERS, **LATE_ORDERS, **UNKNOWN})
    return Version(found[0]), {name: "error" in meant for name, meant in found[1].items()}


def test_old_versions_refuse_what_the_table_says(errors: tuple[Version, dict[str, bool]]) -> None:
    version, refused = errors
    assert all(refused[name] for name in UNKNOWN)
    for key, since in TABLE["since"].items():
        assert refused[key] == (version < Version(since)), key
    for name in LATE_ORDERS:
        assert refused[name] == (version < Version(TABLE["ungrouped"]["actorder"])), name
    for name in ORDERS:
        assert refused[name] == (version >= Version("0.19")), name


def test_keys_are_those_of_the_models() -> None:
    assert set(TABLE["group"]) == QuantizationScheme.model_fields.keys()
    assert set(TABLE["arguments"]) == QuantizationArgs.model_fields.keys()
    assert min(map(Version, VERSIONS)) >= Version(TABLE["oldest"]["4"])


def test_late_keys() -> None:
    """Said where taking the key away opens the section to a version that can come to read it."""
    for key, body in NULLS.items():
        place = ("config_groups", "group_0", "weights", key)
        assert list(late_keys(body, "0.11")) == [(place, "0.13")]
        assert list(late_keys(body, "0.15")) == []
    said = section({"scale_dtype": "torch.bfloat16", "zp_dtype": None})
    assert list(late_keys(said, "0.11")) == []
    assert [version for _, version in late_keys(LATE_ORDERS["static"], "0.15")] == ["0.16"]


# --- against the model of today ---

VALUES: dict[str, Any] = {
    "num_bits": [1, 2, 4, 8, 9, None],
    "type": ["int", "float", "uint", None],
    "symmetric": [True, False, None],
    "group_size": [32, 128, -1, 0, -2, None],
    "strategy": ["tensor", "channel", "group", "block", "token", "tensor_group", "column", None],
    "block_structure": [None, [128, 128], "128x128", [128], "128", [0, 128]],
    "dynamic": [True, False, "local", "global", None],
    "actorder": [None, False, True, "static", "weight", "group", "dynamic", "random"],
    "observer": [None, "minmax"],
    "observer_kwargs": [{}, None],
    "scale_dtype": [None, "torch.bfloat16"],
    "surprise": [None, 1],
}
CHANGES = st.fixed_dictionaries(
    {}, optional={key: st.sampled_from(values) for key, values in VALUES.items()}
)
GROUP_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from([None, "pack-quantized", "int-quantized", "bogus", "dense"]),
        "targets": st.sampled_from([["Linear"], [], None, "Linear"]),
        "surprise": st.none(),
    },
)


def complaint(body: Json) -> str:
    """What is wrong with a section; empty for one that can be read."""
    try:
        parse_quantization(body, "config.json: quantization_config", family("dense"))
    except MmfmtError as error:
        return str(error)
    return "; ".join(map(str, [*unknown_keys(body), *removed_orders(body)]))


@given(CHANGES, GROUP_CHANGES)
def test_what_compressed_tensors_refuses_is_said(weights: Json, group: Json) -> None:
    body = section(weights, group)
    try:
        QuantizationConfig.model_validate(copy.deepcopy(body))
    except (ValueError, NotImplementedError):
        assert complaint(body)


@pytest.mark.parametrize("name", [*NULLS, *LATE_ORDERS])
def test_what_today_reads_is_no_error(name: str) -> None:
    body = {**NULLS, **LATE_ORDERS}[name]
    QuantizationConfig.model_validate(copy.deepcopy(body))
    assert not complaint(body)


# --- hostile ---

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 200) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = (
    *("config_groups", "ignore", "format", "kv_cache_scheme", "sparsity_config", "bits"),
    *("weight_block_size", "modules_to_not_convert", "group_size", "extra_config", "dynamic"),
    *("quantization", "quant_algo", "qformat_weight", "qscheme_act", "activation_scheme", "sym"),
)
METHODS = st.sampled_from(
    ["compressed-tensors", "fp8", "gptq", "awq", "auto-round", "modelopt", "", None, 3]
)


@given(METHODS, st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=4))
def test_junk_is_an_error_or_a_section(method: Any, body: Json) -> None:
    complaint({"quant_method": method, **body})


@given(JUNK, JUNK)
def test_junk_inside_a_group(weights: Any, targets: Any) -> None:
    complaint(section(group={"weights": weights, "targets": targets}))
