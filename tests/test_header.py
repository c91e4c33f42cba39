"""mmfmt.header against the safetensors library, and every fault it must refuse."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from mmfmt.errors import MmfmtError
from mmfmt.header import MAX_HEADER_BYTES, Entry, Header, encode_header, read_header
from mmfmt.storage import Folder
from tests import builders

NAME = "damaged.safetensors"
# every dtype that torch can write through safetensors
TORCH_DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16),
    *(torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)


def entry(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> Any:
    """One entry of a raw header; by default the U8 vector that fills its offsets."""
    size = [end - start] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [start, end]}


def read(path: Path) -> Header:
    """The header of a local file."""
    return read_header(Folder(path.parent), path.name)


def raw_file(header: Mapping[str, Any] | str | bytes, data: bytes = b"") -> bytes:
    """A file of a header (an object, or its text) and data."""
    if isinstance(header, Mapping):
        return builders.encode(header) + data
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def refused(tmp_path: Path, content: bytes) -> str:
    """The message with which a file is refused; it names the file and is one line."""
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(MmfmtError) as refusal:
        read(path)
    assert str(refusal.value).startswith(NAME)
    assert len(str(refusal.value).splitlines()) == 1
    return str(refusal.value)


def safetensors_takes(path: Path) -> bool:
    """Whether the safetensors library opens a file."""
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except SafetensorError:
        return False
    return True


GOOD = {"a": entry(0, 4), "b": entry(4, 6)}

FAULTS = {
    "empty": (b"", "0 bytes is too short"),
    "seven bytes": (b"1234567", "7 bytes is too short"),
    "header longer than file": ((99).to_bytes(8, "little") + b"{}", "99 bytes in a file of 10"),
    "over the limit": (
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
        f"header length {MAX_HEADER_BYTES + 1} exceeds",
    ),
    "no JSON": (raw_file("{"), "not valid JSON"),
    "no UTF-8": (raw_file(b"\xff\xfe{}"), "not valid JSON"),
    "deep JSON": (raw_file("[" * 100_000), "not valid JSON"),
    "a list": (raw_file("[]"), "not a JSON object"),
    "key twice": (
        raw_file(f'{{"a": {json.dumps(entry(0, 1))}, "a": {json.dumps(entry(0, 1))}}}', b"x"),
        "'a' stands twice",
    ),
    "key of an entry twice": (
        raw_file('{"a": {"dtype": "U8", "dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'),
        "'dtype' stands twice",
    ),
    "metadata not an object": (raw_file({"__metadata__": ["pt"]}), "__metadata__ must map"),
    "metadata not strings": (raw_file({"__metadata__": {"a": 1}}), "__metadata__ must map"),
    "entry not an object": (raw_file({"a": 3}), "damaged.safetensors: a: expected exactly"),
    "key missing": (raw_file({"a": {"dtype": "U8", "shape": []}}), "expected exactly the keys"),
    "key too many": (raw_file({"a": {**entry(0, 1), "x": 1}}, b"x"), "expected exactly the keys"),
    "unknown dtype": (raw_file({"a": entry(0, 1, "Q8")}, b"x"), "unknown dtype 'Q8'"),
    "dtype not a string": (raw_file({"a": {**entry(0, 1), "dtype": []}}), "unknown dtype []"),
    "shape not a list": (raw_file({"a": {**entry(0, 1), "shape": 1}}, b"x"), "shape 1 is not"),
    "negative size": (raw_file({"a": entry(0, 1, shape=[-1])}, b"x"), "shape [-1] is not"),
    "size not an integer": (raw_file({"a": entry(0, 1, shape=[True])}, b"x"), "shape [True]"),
    "one offset": (raw_file({"a": {**entry(0, 1), "data_offsets": [0]}}), "[0] are not two"),
    "offset not an integer": (
        raw_file({"a": {**entry(0, 1), "data_offsets": [0, 1.0]}}, b"x"),
        "[0, 1.0] are not two offsets",
    ),
    "backwards": (raw_file({"a": entry(4, 2, shape=[2])}, b"1234"), "takes 2 bytes, offsets"),
    "size mismatch": (raw_file({"a": entry(0, 4, "I32", [2])}, b"1234"), "takes 8 bytes"),
    "half a byte": (raw_file({"a": entry(0, 2, "F4", [3])}, b"12"), "not fill whole bytes"),
    "six bits": (raw_file({"a": entry(0, 1, "F6_E2M3", [1])}, b"1"), "not fill whole bytes"),
    "hole": (raw_file({"a": entry(0, 2), "b": entry(3, 4)}, b"1234"), "hole of 1 bytes before b"),
    "hole at the start": (raw_file({"a": entry(1, 2)}, b"12"), "hole of 1 bytes before a"),
    "overlap": (raw_file({"a": entry(0, 3), "b": entry(2, 4)}, b"1234"), "b overlaps"),
    "same place twice": (raw_file({"a": entry(0, 2), "b": entry(0, 2)}, b"12"), "b overlaps"),
    "truncated": (raw_file(GOOD, b"12345"), "truncated"),
    "trailing bytes": (raw_file(GOOD, b"1234567"), "longer than its header says"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_error_that_names_the_file(tmp_path: Path, fault: str) -> None:
    """Safetensors refuses the file as well, except for what it reads more leniently."""
    content, message = FAULTS[fault]
    assert message in refused(tmp_path, content)
    # checked so that no "fault" here is a file that the rest of the world takes
    if fault not in ("key twice", "key too many"):
        assert not safetensors_takes(tmp_path / NAME)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """The operating system's reason is part of the message."""
    with pytest.raises(MmfmtError, match=r"gone\.safetensors: cannot be read: No such file"):
        read(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("F4", [2, 3], 3), ("F4", [], 0), ("F6_E2M3", [4], 3), ("F6_E3M2", [2, 4], 6)],
)
def test_dtypes_below_a_byte(tmp_path: Path, dtype: str, shape: list[int], size: int) -> None:
    """Sizes as safetensors counts them: bits over all elements, whole bytes only."""
    path = tmp_path / NAME
    path.write_bytes(raw_file({"a": entry(0, size, dtype, shape)}, bytes(size)))
    if dtype == "F4" and not shape:
        # one F4 value is half a byte
        assert "not fill whole bytes" in refused(tmp_path, path.read_bytes())
        return
    assert read(path).tensors["a"].nbytes == size
    assert safetensors_takes(path)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_reads_what_safetensors_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    """Name, dtype, shape and the very bytes, for every dtype that torch can save."""
    tensors = {
        "matrix": torch.arange(30).reshape(3, 10).to(dtype),
        "scalar": torch.ones([], dtype=dtype),
        "empty": torch.empty([0, 4], dtype=dtype),
    }
    path = tmp_path / "written.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read(path)
    assert header.metadata == {"format": "pt"}
    assert header.tensors.keys() == tensors.keys()
    with safe_open(path, framework="pt") as file:
        for name, tensor in tensors.items():
            found = header.tensors[name]
            part = file.get_slice(name)
            assert (found.dtype, list(found.shape)) == (part.get_dtype(), part.get_shape())
            data = path.read_bytes()[header.data_start :][found.start : found.end]
            assert data == builders.bits_of(tensor)[2]


def test_order_of_bytes(tmp_path: Path) -> None:
    """`by_offset` follows the data, not the JSON."""
    path = tmp_path / NAME
    body = {"late": entry(4, 6), "none": entry(4, 4), "early": entry(0, 4)}
    path.write_bytes(raw_file(body, bytes(6)))
    assert [name for name, _ in read(path).by_offset()] == ["early", "none", "late"]


names = st.text(max_size=12).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=3)


@st.composite
def raw_headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A valid header and the size of its data."""
    widths = {"U8": 1, "F8_E4M3": 1, "BF16": 2, "I32": 4, "F64": 8}
    body: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(names, max_size=5, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(widths))), draw(shapes)
        start, end = end, end + widths[dtype] * int(torch.tensor(shape).prod())
        body[name] = entry(start, end, dtype, shape)
    if draw(st.booleans()):
        body["__metadata__"] = draw(st.dictionaries(names, st.text(max_size=5), max_size=2))
    return body, end


@given(raw_headers())
def test_written_headers_are_read_by_safetensors(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, Any], int]
) -> None:
    """encode_header: the library sees the same tensors, and the data starts 8-aligned."""
    body, size = made
    path = tmp_path_factory.getbasetemp() / "encoded.safetensors"
    metadata = body.pop("__metadata__", {})
    entries = {n: Entry(e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for n, e in body.items()}
    encoded = encode_header(Header(entries, metadata))
    assert len(encoded) % 8 == 0
    builders.rewrite(path, encoded + bytes(size))
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(entries)
        assert (file.metadata() or {}) == metadata
        for name, expected in entries.items():
            assert file.get_slice(name).get_shape() == list(expected.shape)
            assert file.get_slice(name).get_dtype() == expected.dtype
    found = read(path)
    assert (found.tensors, found.metadata) == (entries, metadata)


def test_header_bytes_as_safetensors_writes_them() -> None:
    """The same tensor and metadata give the same bytes as the library's own writer."""
    theirs = save({"a": torch.zeros(2, 3)}, metadata={"format": "pt"})
    ours = encode_header(Header({"a": Entry("F32", (2, 3), 0, 24)}, {"format": "pt"}))
    assert ours == theirs[: len(ours)]
    assert len(theirs) == len(ours) + 24


def check_agrees(path: Path, content: bytes) -> None:
    """Read a file: nothing but MmfmtError may come, and what we take safetensors takes."""
    builders.rewrite(path, content)
    try:
        header = read(path)
    except MmfmtError as refusal:
        assert str(refusal).startswith(path.name)
        return
    assert safetensors_takes(path), content
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(header.tensors)


@settings(max_examples=300)
@given(st.binary(max_size=64), st.booleans())
def test_random_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, framed: bool
) -> None:
    """Noise, and noise behind a length field that fits it."""
    path = tmp_path_factory.getbasetemp() / NAME
    check_agrees(path, len(content).to_bytes(8, "little") + content if framed else content)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@settings(max_examples=300)
@given(raw_headers(), st.data())
def test_mutated_headers(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, Any], int], data: st.DataObject
) -> None:
    """A valid header with one value replaced, or with a few bytes changed."""
    body, size = made
    path = tmp_path_factory.getbasetemp() / NAME
    if data.draw(st.booleans()) and body:
        holder: dict[str, Any] = body
        key = data.draw(st.sampled_from(sorted(body)))
        if data.draw(st.booleans()) and isinstance(body[key], dict) and body[key]:
            holder, key = body[key], data.draw(st.sampled_from(sorted(body[key])))
        holder[key] = data.draw(values)
    content = bytearray(raw_file(body, bytes(size)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check_agrees(path, bytes(content))


def _empty(shape: str, name: str = "a") -> str:
    """The text of a header with one tensor of no bytes."""
    return f'{{"{name}": {{"dtype": "U8", "shape": {shape}, "data_offsets": [0, 0]}}}}'


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(_empty("[0]", "\\ud800"), id="half a surrogate pair in a name"),
        pytest.param('{"__metadata__": {"a": "\\udfff"}}', id="half a surrogate pair in metadata"),
        pytest.param(_empty("[-0]"), id="minus zero"),
        pytest.param(_empty("[0, 99999999999999999999]"), id="size beyond 64 bits"),
        pytest.param(_empty("[4294967296, 4294967296, 0]"), id="product beyond 64 bits"),
        pytest.param(" " + _empty("[0]"), id="space before"),
        pytest.param("\ufeff" + _empty("[0]"), id="byte order mark before"),
        pytest.param("{}", id="no tensors"),
    ],
)
def test_no_more_lenient_than_safetensors(tmp_path: Path, header: str) -> None:
    """What Python's JSON and integers would let through, and the library does not."""
    check_agrees(tmp_path / NAME, raw_file(header))


@given(st.binary(max_size=40))
@example(b"")
def test_cut_off_anywhere(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Every prefix of a good file is refused, and so is junk behind it."""
    path = tmp_path_factory.getbasetemp() / NAME
    whole = save({"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.int8)})
    for length in range(0, len(whole), 7):
        builders.rewrite(path, whole[:length])
        with pytest.raises(MmfmtError, match=NAME):
            read(path)
    builders.rewrite(path, whole + junk)
    if junk:
        with pytest.raises(MmfmtError, match="longer than its header says"):
            read(path)
    else:
        assert read(path).tensors.keys() == {"a", "b"}
