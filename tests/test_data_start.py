"""Where the data of a new file starts: for most bytes to keep their place in a block."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from mmfmt.convert.plan import Copy, PlannedShard, PlannedTensor
from mmfmt.header import BLOCK
from tests import builders
from tests.unchanged import (
    NATIVE,
    converted,
    pad_header,
    plain_header,
    planned,
    same_tensors,
    w4a16,
)

SCALE = "language_model.model.layers.0.self_attn.v_proj.weight_scale"


@pytest.mark.parametrize("place", [0, 8, 24, 2048, BLOCK - 8])
def test_unchanged_tensors_keep_their_place_in_a_block(tmp_path: Path, place: int) -> None:
    """Wherever in a block the source's data starts."""
    source, target = w4a16(tmp_path / "hf"), tmp_path / "out"
    pad_header(source / builders.WEIGHTS, place)
    (before, old), tensors = plain_header(source / builders.WEIGHTS), planned(source, target)
    converted(source, target)
    after, new = plain_header(target / NATIVE)
    assert (old % BLOCK, new % BLOCK) == (place, place)
    for tensor in tensors.shards[0].tensors:
        if tensor.action != "row-permuted":
            places = before[tensor.source_name], after[tensor.name]
            starts = [entry["data_offsets"][0] for entry in places]
            assert (old + starts[0] - new - starts[1]) % BLOCK == 0
    assert {"renamed", "row-permuted"} == {t.action for t in tensors.shards[0].tensors}


@pytest.mark.parametrize("place", [*range(1, 8), BLOCK - 1])
def test_a_source_whose_header_is_odd(tmp_path: Path, place: int) -> None:
    """safetensors reads headers of any length; ours are multiples of 8."""
    plain, source = w4a16(tmp_path / "plain"), w4a16(tmp_path / "odd")
    pad_header(source / builders.WEIGHTS, place)
    assert same_tensors(source / builders.WEIGHTS, plain / builders.WEIGHTS)
    converted(plain, tmp_path / "plain-out")
    converted(source, tmp_path / "out")
    assert plain_header(tmp_path / "out" / NATIVE)[1] % 8 == 0
    assert same_tensors(tmp_path / "out" / NATIVE, tmp_path / "plain-out" / NATIVE)


@pytest.mark.parametrize("room", [8, BLOCK - 8])
def test_other_readers_take_the_padding(tmp_path: Path, room: int) -> None:
    """safetensors for two frameworks, and huggingface_hub, with little padding and with much."""
    source, target = w4a16(tmp_path / "hf"), tmp_path / "out"
    shard = planned(source, target).shards[0]
    shortest = len(json.dumps(plain_header_of(shard), separators=(",", ":")).encode())
    pad_header(source / builders.WEIGHTS, (8 + shortest + room) // 8 * 8 % BLOCK)
    converted(source, target)
    text = (target / NATIVE).read_bytes()[8 : plain_header(target / NATIVE)[1]]
    assert room - 8 < len(text) - len(text.rstrip(b" ")) <= room
    names = {tensor.name for tensor in shard.tensors}
    for framework in ("pt", "numpy"):
        with safe_open(target / NATIVE, framework=framework) as file:
            assert set(file.keys()) == names
            assert file.metadata() == dict(shard.metadata)
    parsed = parse_local_safetensors_file_metadata(target / NATIVE)
    assert parsed.tensors.keys() == names
    assert parsed.metadata == dict(shard.metadata)
    with safe_open(target / NATIVE, framework="pt") as file:
        scale = file.get_tensor("layers.0.attention.wv.weight_scale")
    assert torch.equal(scale, load_file(source / builders.WEIGHTS)[SCALE])


def plain_header_of(shard: PlannedShard) -> dict[str, Any]:
    """What the JSON of a shard has to say."""
    body: dict[str, Any] = {"__metadata__": dict(shard.metadata)}
    end = 0
    for tensor in shard.tensors:
        start, end = end, end + tensor.length
        entry = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        body[tensor.name] = entry
    return body


LENGTHS = st.lists(st.tuples(st.booleans(), st.integers(0, 300).map(lambda n: 8 * n)), min_size=1)


@given(LENGTHS, st.integers(0, 700).map(lambda n: 8 * n))
def test_data_starts_where_most_bytes_keep_their_place(
    tensors: list[tuple[bool, int]], data_start: int
) -> None:
    """Some tensors of the source are left out, which moves those behind them."""
    place = data_start
    kept: list[Copy] = []
    for stays, length in tensors:
        kept += [Copy("a", place, length)] if stays else []
        place += length
    shard = PlannedShard(
        "x", tuple(PlannedTensor(str(n), "", "U8", (c.length,), (c,)) for n, c in enumerate(kept))
    )
    start, weights, position = shard.header.data_start, Counter({0: 0}), 0
    for copy in kept:
        weights[(copy.offset - position) % BLOCK] += copy.length
        position += copy.length
    assert start % 8 == 0
    assert weights[start % BLOCK] == max(weights.values())
