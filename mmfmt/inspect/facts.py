"""What `inspect` tells of a repo, as data that can be written as JSON."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

Shares = tuple[tuple[str, int], ...]
"""(scheme, how many modules have it), most first."""

# of what the config asks for in a cell: all there; modules or parameters missing; all missing; a
# module that it does not ask for; nothing asked for
State = Literal["there", "partial", "missing", "unexpected", "none"]


@dataclass(frozen=True)
class Size:
    """Stored tensors, parameters of the unquantized model, and bytes.

    `parameters` is None where the shape of a packed module is not known.
    """

    tensors: int = 0
    parameters: int | None = 0
    bytes: int = 0

    @property
    def bits(self) -> float | None:
        """Bits a parameter, scales included."""
        return self.bytes * 8 / self.parameters if self.parameters else None

    def __add__(self, other: "Size") -> "Size":
        known = self.parameters is not None and other.parameters is not None
        return Size(
            self.tensors + other.tensors,
            (self.parameters or 0) + (other.parameters or 0) if known else None,
            self.bytes + other.bytes,
        )


def total(sizes: Iterable[Size]) -> Size:
    """The sum of sizes."""
    return sum(sizes, Size())


@dataclass(frozen=True)
class Scheme:
    """One way in which modules of a layout are stored; `glyph` stands for it in maps.

    `name` is a dtype for unquantized modules; `label` says the scheme in full.
    """

    name: str
    label: str
    quantized: bool
    glyph: str
    modules: int
    size: Size


@dataclass(frozen=True)
class Cell:
    """One module of one layer (None outside layers), or all its experts together.

    `stored` tells the tensors of the first of them: `weight_packed I32 [256, 32]`.
    """

    layer: int | None
    state: State
    schemes: Shares
    size: Size
    stored: tuple[str, ...]

    @property
    def modules(self) -> int:
        return sum(count for _, count in self.schemes)


@dataclass(frozen=True)
class Line:
    """A module of the layout table over the layers.

    `pattern` is its whole name with slots as `{layer}`, `name` what follows the layer's number.
    """

    name: str
    pattern: str
    part: str
    cells: tuple[Cell, ...]

    @property
    def size(self) -> Size:
        return total(cell.size for cell in self.cells)


@dataclass(frozen=True)
class Grid:
    """One stack of layers, by module and layer. Without layers: modules that stand alone."""

    name: str
    layers: tuple[int, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Part:
    """A part of the model (attention, experts, vision) and its bytes by scheme."""

    name: str
    size: Size
    bytes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Node:
    """A module name's part in the tree; `count` is how often it is repeated (layers, experts)."""

    name: str
    count: int
    size: Size
    schemes: Shares
    children: tuple["Node", ...]


@dataclass(frozen=True)
class Other:
    """A tensor that belongs to no module of the layout table."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class Group:
    """A config group: what it targets, and with which scheme."""

    name: str
    scheme: str
    label: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Quantized:
    """What the config file says of quantization; `place` is where."""

    method: str
    place: str
    groups: tuple[Group, ...]
    ignore: tuple[str, ...]
    kv_cache: str


@dataclass(frozen=True)
class LayoutFacts:
    """One layout of a repo. `row_order` tells for which reader packed Q and K are laid out.

    `faults` say in a line each what could not be understood.
    """

    key: str
    label: str
    naming: str
    config_file: str
    row_order: str
    quantized: Quantized | None
    size: Size
    schemes: tuple[Scheme, ...]
    parts: tuple[Part, ...]
    grids: tuple[Grid, ...]
    tree: tuple[Node, ...]
    others: tuple[Other, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file of the repo; `layout` and `tensors` of weight files that are read."""

    name: str
    bytes: int
    layout: str = ""
    tensors: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Inspection:
    """Everything that `inspect` tells of a repo."""

    repo: str
    layouts: tuple[LayoutFacts, ...]
    files: tuple[File, ...]
    faults: tuple[str, ...]


def to_json(inspection: Inspection) -> str:
    """The facts as JSON: every dataclass an object, sizes with their bits."""
    body = {"version": 1, **_fields(inspection)}
    return json.dumps(body, default=_fields, indent=1, ensure_ascii=False)


def _fields(value: Any) -> dict[str, Any]:
    body = {field.name: getattr(value, field.name) for field in fields(value)}
    return {**body, "bits": value.bits} if isinstance(value, Size) else body
