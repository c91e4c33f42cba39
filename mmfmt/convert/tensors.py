"""Plan the tensors of a conversion: from one layout's names, rows and suffixes to another's."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mmfmt.checkpoint import Module, Parameter
from mmfmt.convert.carry import (
    Carried,
    Repacking,
    carry,
    check_blocks,
    repacking,
    row_action,
)
from mmfmt.convert.plan import Copy, Dropped, PlannedTensor, Sinusoids
from mmfmt.convert.segments import segment
from mmfmt.convert.stacking import Stacks
from mmfmt.convert.steps import Order, Pack, Reciprocal, Reorder, Step, Unpack
from mmfmt.errors import MmfmtError
from mmfmt.header import Entry, nbytes
from mmfmt.model import Model
from mmfmt.naming import Naming
from mmfmt.quantization import Scheme, packing_of
from mmfmt.quantization.scheme import PADDED
from mmfmt.reader import Reader

_MADE = "native readers compute it"
_TIED = "the config ties it to the embeddings, and loaders follow the config"


@dataclass(frozen=True)
class Layout:
    """A way to name modules and to order rows. `reader` is None in the HF layout."""

    naming: Naming
    reader: Reader | None = None

    @property
    def label(self) -> str:
        return "native" if self.reader else "hf"

    def suffix(self, module: Module, carried: Carried) -> str:
        """The suffix under which the layout's readers know a carried parameter."""
        return (
            self.reader.suffix(module, carried.suffix, carried.shape)
            if self.reader
            else carried.suffix
        )

    def order(self, module: Module, suffix: str) -> Order:
        """The row order of a parameter of a rotary module."""
        native = self.reader is not None and self.reader.wants_native_rows(module.row, suffix)
        return "native" if native else "hf"


@dataclass(frozen=True)
class Transfer:
    """A model on its way from one layout to another.

    `repack` writes old padded packings of 3, 5, 6 and 7 bits densely.
    """

    model: Model
    source: Layout
    target: Layout
    repack: bool = False

    @property
    def renames(self) -> bool:
        """Whether the names change too; where they do not, every tensor is kept."""
        return self.source.naming is not self.target.naming

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Tensors of the source that the target layout has no use for."""
        if not self.renames:
            return ()
        checkpoint = self.model.checkpoint
        extras = [Dropped(extra.name, extra.reason) for extra in checkpoint.extras]
        parameters = (p for shard in checkpoint.weights.shards for p in checkpoint.shard(shard))
        idle = [Dropped(p.name, reason) for p in parameters if (reason := self._needless(p))]
        return (*extras, *idle)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the target's readers will not do with it."""
        return (*self._unread(), *self._padded())

    def _unread(self) -> Iterator[str]:
        unread, label = self.target.naming.family.unread, self.target.label
        cases = (label, f"{label}-quantized") if self.model.quantization else (label,)
        yield from (unread[case] for case in cases if case in unread)

    def _padded(self) -> Iterator[str]:
        for module in self.model.checkpoint.modules.values():
            scheme = self.model.scheme_of_quantized(module)
            old = scheme and packing_of(module, scheme, self.model.symbols) == PADDED
            if old and not self.repack:
                problem = "has the padded packing of compressed-tensors <= 0.17"
                yield f"{module.name}.weight_packed {problem}; --repack writes today's"
                return

    def groups(self) -> list[list[PlannedTensor]]:
        """The output tensors, shard by shard as in the source, in the order of its bytes."""
        stacks = Stacks(self.target.naming, self.model.weights.storage)
        groups = [list(self._shard(stacks, shard)) for shard in self.model.weights.shards]
        groups[-1] += self._made()
        return stacks.joined(groups)

    def _shard(self, stacks: Stacks, shard: str) -> Iterator[PlannedTensor]:
        for name, entry in self.model.weights.headers[shard].by_offset():
            parameters = list(self.model.checkpoint.parameters(shard, name, entry))
            yield from (self._part(stacks, p) for p in parameters if not self._needless(p))
            if not parameters and not self.renames:
                yield PlannedTensor(
                    name, name, entry.dtype, entry.shape, (self._copy(shard, entry),)
                )

    def _made(self) -> Iterator[PlannedTensor]:
        """Tensors that the source's layout does not store."""
        naming, symbols = self.target.naming, self.model.symbols
        rows = (row for row in naming.family.rows if row.made and naming.has(row))
        for row in (row for row in rows if not self.source.naming.has(row)):
            dtype = Counter(e.dtype for e in self.model.weights.tensors.values()).most_common(1)[0][
                0
            ]
            positions, size = row.weight_shape(symbols)
            values = Sinusoids(positions, size, dtype, nbytes(dtype, (positions, size)) or 0)
            name = f"{naming.module(row, ())}.weight"
            yield PlannedTensor(name, row.made, dtype, (positions, size), (values,))

    def _part(self, stacks: Stacks, parameter: Parameter) -> PlannedTensor:
        """An output tensor, or the stack that it is a part of."""
        match = parameter.match
        scheme = self.model.scheme_of_quantized(
            self.model.checkpoint.modules[match.row, match.slots]
        )
        planned = self.tensor(parameter)
        # compressed-tensors has no form of stacked experts
        stacked = scheme is None or (scheme.format == "fp8" and not scheme.block)
        return stacks.add(parameter, planned) if stacked else planned

    def _needless(self, parameter: Parameter) -> str:
        """Why the target has no use for a parameter; empty for all but a few."""
        row = parameter.match.row
        if not self.renames:
            return ""
        if row.absent and self.model.symbols.get(row.absent):
            return _TIED
        return _MADE if row.made and not self.target.naming.has(row) else ""

    def tensor(self, parameter: Parameter) -> PlannedTensor:
        """One output tensor; MmfmtError where it has no exact image in the target layout."""
        match = parameter.match
        module = self.model.checkpoint.modules[match.row, match.slots]
        scheme = self.model.scheme_of_quantized(module)
        carried = carry(parameter, scheme, self.target.label)
        suffix = self.target.suffix(module, carried)
        repack = self._repacking(module, parameter, scheme)
        steps = [*self._row_steps(module, parameter, suffix, scheme)]
        steps = _packed_anew(steps, repack) if repack else steps
        if carried.reciprocal:
            steps.append(Reciprocal())
        stored, shape = parameter.entry, repack.shape if repack else carried.shape
        length = nbytes(stored.dtype, shape) or 0
        copy = self._copy(parameter.shard, stored)
        return PlannedTensor(
            name=f"{self.target.naming.module(match.row, match.slots)}.{suffix}",
            source_name=parameter.name,
            dtype=stored.dtype,
            shape=shape,
            segments=(segment(copy, stored, steps, length),),
        )

    def check(self) -> None:
        """MmfmtError for the first module that the target layout cannot hold."""
        for module in self.model.checkpoint.modules.values():
            self._check_module(module)

    def _check_module(self, module: Module) -> None:
        if not self.target.naming.has(module.row) and not module.row.made:
            raise MmfmtError(module.name, f"has no name in the {self.target.label} layout")
        if module.quantized and self.target.reader and module.row.unquantized:
            problem = f"is quantized, which cannot be carried: {module.row.unquantized}"
            raise MmfmtError(module.name, problem)
        scheme = self.model.scheme_of_quantized(module)
        if scheme and module.row.rotary and self._moves(module, "weight"):
            check_blocks(module, scheme, self.model.symbols)

    def _moves(self, module: Module, suffix: str) -> bool:
        return self.source.order(module, suffix) != self.target.order(module, suffix)

    def _copy(self, shard: str, entry: Entry) -> Copy:
        weights = self.model.weights
        start = weights.headers[shard].data_start + entry.start
        return Copy(shard, start, entry.nbytes)

    def _repacking(
        self, module: Module, parameter: Parameter, scheme: Scheme | None
    ) -> Repacking | None:
        return repacking(module, parameter, scheme, self.model.symbols) if self.repack else None

    def _row_steps(
        self, module: Module, parameter: Parameter, suffix: str, scheme: Scheme | None
    ) -> Iterator[Step]:
        """Steps that bring the rows of a rotary module from the source's order to the target's."""
        to = self.target.order(module, suffix)
        if not module.row.rotary or self.source.order(module, parameter.suffix) == to:
            return
        heads, head_dim = module.row.heads(self.model.symbols)
        action = row_action(module, parameter, scheme, self.model.symbols)
        if action.kind == "none":
            return
        reorder = Reorder(action.axis, heads, to)
        if action.kind == "gather":
            yield reorder
            return
        yield Unpack(action.axis, action.bits, heads * head_dim, action.packing)
        yield reorder
        yield Pack(action.axis, action.bits, action.packing)


def _packed_anew(steps: list[Step], repack: Repacking) -> list[Step]:
    """The steps on rows, with words packed densely: an old pack at the end gives way."""
    dense = Pack(repack.axis, repack.bits, "dense")
    if steps and isinstance(steps[-1], Pack):
        return [*steps[:-1], dense]
    return [*steps, Unpack(repack.axis, repack.bits, repack.count, "padded"), dense]
