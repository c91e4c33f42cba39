"""The layer x module map: which module of which layer is stored how."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from mmfmt.inspect.facts import Cell, Grid, Line, Shares, State, total
from mmfmt.inspect.modules import Placed, Survey
from mmfmt.layout import Row, Slots
from mmfmt.naming import Naming

LAYER = "layer"
# many times what any model has: names that claim more make no map
_MOST_LAYERS = 1000
Place = tuple[Row, int | None]
"""A row of the layout table and the layer, None outside layers."""


def grids(survey: Survey) -> tuple[Grid, ...]:
    """A grid for each stack of layers in table order; last the modules that stand alone."""
    stacks: dict[str, list[Line]] = defaultdict(list)
    for stack, line in _Lines(survey).lines():
        stacks[stack].append(line)
    alone = stacks.pop("", [])
    made = [_grid(name, lines, survey) for name, lines in stacks.items()]
    return (*made, Grid("", (), tuple(alone))) if alone else tuple(made)


def shares(placed: Iterable[Placed]) -> Shares:
    """How many modules are stored in each way."""
    return tuple(Counter(item.named.name for item in placed).most_common())


def _grid(name: str, lines: list[Line], survey: Survey) -> Grid:
    """Lines of equal length: a layer that one of them lacks becomes an empty cell."""
    layers = sorted({c.layer for line in lines for c in line.cells if c.layer is not None})
    if len(layers) > _MOST_LAYERS:
        survey.faults.append(f"{name}: {len(layers)} layers, mapped are {_MOST_LAYERS}")
        del layers[_MOST_LAYERS:]
    return Grid(name, tuple(layers), tuple(_filled(line, layers) for line in lines))


def _filled(line: Line, layers: list[int]) -> Line:
    cells = {cell.layer: cell for cell in line.cells}
    empty = (cells.get(layer) or _empty(layer, "none") for layer in layers)
    return Line(line.name, line.pattern, line.part, tuple(empty))


def _empty(layer: int | None, state: State) -> Cell:
    return Cell(layer, state, (), total(()), ())


@dataclass(frozen=True)
class _Lines:
    """The lines of a model, from the modules found and those that the config asks for."""

    survey: Survey

    @property
    def naming(self) -> Naming:
        return self.survey.model.checkpoint.naming

    @cached_property
    def found(self) -> Mapping[Place, list[Placed]]:
        found: dict[Place, list[Placed]] = defaultdict(list)
        for (row, slots), placed in self.survey.placed.items():
            found[_place(row, slots)].append(placed)
        return found

    @cached_property
    def required(self) -> Counter[Place]:
        """How many modules the config asks for, place by place."""
        expected = self.survey.expected or ()
        return Counter(_place(row, slots) for row, slots in expected if row.required)

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Every row with a cell, in table order, with the name of its stack of layers."""
        layers: dict[Row, set[int | None]] = defaultdict(set)
        for row, layer in (*self.found, *self.required):
            layers[row].add(layer)
        for row in (row for row in self.naming.family.rows if row in layers):
            pattern = self.naming.pattern(row)
            stack, _, name = pattern.rpartition(f".{{{LAYER}}}.")
            cells = tuple(self._cell((row, layer)) for layer in sorted(layers[row], key=_number))
            yield stack, Line(re.sub(r"\{\w+\}", "*", name), pattern, row.part, cells)

    def _cell(self, place: Place) -> Cell:
        found = self.found.get(place)
        if not found:
            return _empty(place[1], "missing")
        size = total(placed.size for placed in found)
        return Cell(place[1], self._state(place, found), shares(found), size, _stored(found[0]))

    def _state(self, place: Place, found: list[Placed]) -> State:
        expected = self.survey.expected
        strange = expected is not None and any(
            (placed.module.row, placed.module.slots) not in expected for placed in found
        )
        # an output head beside tied embeddings is there, but loaders ignore it
        if strange and not place[0].absent:
            return "unexpected"
        whole = len(found) >= self.required[place] and all(placed.whole for placed in found)
        return "there" if whole else "partial"


def _place(row: Row, slots: Slots) -> Place:
    return row, dict(slots).get(LAYER)


def _number(layer: int | None) -> int:
    return -1 if layer is None else layer


def _stored(placed: Placed) -> tuple[str, ...]:
    parameters = placed.module.parameters.items()
    return tuple(f"{suffix} {p.entry.dtype} {list(p.entry.shape)}" for suffix, p in parameters)
