"""Strict reader and writer of safetensors headers.

We need byte offsets, which the safetensors library does not give. Format, as its README
has it: 8 bytes little-endian header length, that many bytes of JSON (padded with spaces),
then the data; every byte of data belongs to exactly one tensor.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

from mmfmt import strict_json
from mmfmt.errors import MmfmtError
from mmfmt.storage import Storage

# bytes of a block of most file systems
BLOCK = 4096

# safetensors refuses longer headers (MAX_HEADER_SIZE in its tensor.rs)
MAX_HEADER_BYTES = 100_000_000
_MAX_U64 = 2**64 - 1
_MAX_DIGITS = len(str(_MAX_U64))

# dtype names of safetensors 0.8 and their width in bits
DTYPE_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a header; `start` and `end` count bytes from the data section's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def itemsize(self) -> int:
        """Bytes of one element, rounded up."""
        return -(-DTYPE_BITS[self.dtype] // 8)


@dataclass(frozen=True)
class Header:
    """A checked header. `data_start` is the data section's offset in the file, in bytes.

    `sha256` is the hex hash of these bytes as they were read.
    """

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)
    data_start: int = 0
    sha256: str = field(default="", compare=False)

    @property
    def data_bytes(self) -> int:
        return max((entry.end for entry in self.tensors.values()), default=0)

    def starting_at(self, place: int) -> "Header":
        """The same header with room for its JSON, its data `place` bytes into a block."""
        shortest = 8 + len(_json(self))
        return replace(self, data_start=shortest + (place - shortest) % BLOCK)

    def by_offset(self) -> list[tuple[str, Entry]]:
        """Tensors in the order in which their bytes lie in the file."""
        return sorted(self.tensors.items(), key=lambda item: (item[1].start, item[1].end))


def nbytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor; None if its bits do not fill whole bytes."""
    bits = DTYPE_BITS[dtype] * prod(shape)
    return None if bits % 8 else bits // 8


def read_header(storage: Storage, name: str) -> Header:
    """Read and check the header of a safetensors file.

    Raises MmfmtError for any departure from the format; the tensor data is not read.
    """
    prefix, size = storage.read(name, 0, 8), storage.sizes.get(name, 0)
    length = _checked_length(name, prefix, size)
    raw = storage.read(name, 8, 8 + length)
    return replace(_parse(name, raw, size), sha256=sha256(prefix + raw).hexdigest())


def encode_header(header: Header) -> bytes:
    """The length field and the JSON of a header, padded with spaces up to `data_start`.

    Where that is not set, to 8 bytes, as safetensors writes it.
    """
    text = _json(header)
    start = header.data_start or 8 + len(text) + -len(text) % 8
    return (start - 8).to_bytes(8, "little") + text.ljust(start - 8)


def _json(header: Header) -> bytes:
    body: dict[str, Any] = {"__metadata__": dict(header.metadata)} if header.metadata else {}
    for name, entry in header.tensors.items():
        offsets = [entry.start, entry.end]
        body[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _checked_length(file: str, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise MmfmtError(file, f"{size} bytes is too short for a safetensors file", _REFETCH)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise MmfmtError(file, f"header length {length} exceeds {MAX_HEADER_BYTES}", _REFETCH)
    if 8 + length > size:
        raise MmfmtError(file, f"header of {length} bytes in a file of {size}", _REFETCH)
    return length


_REFETCH = "the file is damaged or not safetensors: fetch or export it again"


def _parse(file: str, raw: bytes, size: int) -> Header:
    body = _parse_json(file, raw)
    metadata = _checked_metadata(file, body.pop("__metadata__", {}))
    tensors = {name: _entry(file, name, value) for name, value in body.items()}
    header = Header(tensors, metadata, 8 + len(raw))
    _check_offsets(file, header, size)
    return header


def _parse_json(file: str, raw: bytes) -> dict[str, Any]:
    try:
        body = strict_json.parse(raw, _integer, _unique)
    except ValueError as error:
        raise MmfmtError(file, f"header is not valid JSON: {error}", _REFETCH) from error
    if not isinstance(body, dict):
        raise MmfmtError(file, "header is not a JSON object", _REFETCH)
    return body


def _integer(digits: str) -> int:
    if digits == "-0" or len(digits) > _MAX_DIGITS or int(digits) > _MAX_U64:
        raise ValueError(f"{digits} is not an unsigned 64-bit number")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        twice = next(key for key in body if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return body


def _checked_metadata(file: str, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise MmfmtError(file, "__metadata__ must map strings to strings", _REFETCH)
    return metadata


def _entry(file: str, name: str, value: Any) -> Entry:
    fault = _entry_fault(value)
    if fault:
        raise MmfmtError(f"{file}: {name}", fault, _REFETCH)
    start, end = value["data_offsets"]
    return Entry(value["dtype"], tuple(value["shape"]), start, end)


def _entry_fault(value: Any) -> str | None:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        return "expected exactly the keys dtype, shape and data_offsets"
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPE_BITS:
        return f"unknown dtype {value['dtype']!r}"
    if not _is_sizes(value["shape"]):
        return f"shape {value['shape']!r} is not a list of sizes"
    if not _is_sizes(value["data_offsets"]) or len(value["data_offsets"]) != 2:
        return f"data_offsets {value['data_offsets']!r} are not two offsets"
    return _size_fault(value)


def _size_fault(value: dict[str, Any]) -> str | None:
    start, end = value["data_offsets"]
    # multiplied size by size, as safetensors does: 0 at the end does not help
    if any(count > _MAX_U64 for count in accumulate(value["shape"], mul)):
        return f"shape {value['shape']} overflows 64 bits"
    expected = nbytes(value["dtype"], tuple(value["shape"]))
    if expected is None:
        return f"{value['dtype']} {value['shape']} does not fill whole bytes"
    if end - start != expected:
        return (
            f"{value['dtype']} {value['shape']} takes {expected} bytes, offsets give {end - start}"
        )
    return None


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_offsets(file: str, header: Header, size: int) -> None:
    for fault in _offset_faults(header):
        raise MmfmtError(file, fault, _REFETCH)
    end = header.data_start + header.data_bytes
    if end != size:
        kind = "truncated" if size < end else "longer than its header says"
        raise MmfmtError(file, f"{kind}: {size} bytes, the header accounts for {end}", _REFETCH)


def _offset_faults(header: Header) -> Iterator[str]:
    reached = 0
    for name, entry in header.by_offset():
        if entry.start < reached:
            yield f"{name} overlaps the tensor before it at byte {entry.start}"
        if entry.start > reached:
            yield f"hole of {entry.start - reached} bytes before {name}"
        reached = entry.end
