"""The ways to name a family's modules, and what a tensor name matches."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from mmfmt.layout import Family, Row, Slots, Stack, families
from mmfmt.schemas import table

NATIVE = "native"


@dataclass(frozen=True)
class Match:
    """What a tensor name says: the row, its slot values, and the parameter's suffix."""

    row: Row
    slots: Slots
    suffix: str


class Naming:
    """One way to name a family's modules: natively, or with the prefixes of one generation.

    Patterns match whole names; a name is looked up by its shape (numbers made `#`), then
    checked against the few patterns of that shape.
    """

    def __init__(
        self,
        family: Family,
        generation: str,
        patterns: Mapping[Row, str],
        also: Iterable[tuple[Row, str]] = (),
        stacks: Mapping[Stack, str] | None = None,
    ) -> None:
        self.family = family
        self.generation = generation
        self._patterns = dict(patterns)
        self.stacks = dict(stacks or {})
        # compiled when a name of the shape is seen: of most families none is
        self._by_shape: dict[str, list[tuple[Row, str]]] = {}
        for row, pattern in (*self._patterns.items(), *also):
            self._by_shape.setdefault(_name_shape(pattern), []).append((row, pattern))

    @property
    def label(self) -> str:
        """For messages: `native mixtral`, `legacy HF pixtral`."""
        return f"{self.generation}{'' if self.generation == NATIVE else ' HF'} {self.family.label}"

    def has(self, row: Row) -> bool:
        """Whether this naming has a name for the row (text models have no vision rows)."""
        return row in self._patterns

    def pattern(self, row: Row) -> str:
        """The names of a row's modules, slots as `{layer}`."""
        return self._patterns[row]

    def module(self, row: Row, slots: Slots) -> str:
        """The module's name; slots as in `Match`."""
        return self._patterns[row].format(**dict(slots))

    def match(self, name: str) -> Match | None:
        """The row that a tensor name belongs to, or None."""
        module, _, suffix = name.rpartition(".")
        if suffix not in table("suffixes"):
            return None
        for row, pattern in self._by_shape.get(_name_shape(module), ()):
            if found := compile_pattern(pattern).fullmatch(module):
                slots = tuple((slot, int(value)) for slot, value in found.groupdict().items())
                return Match(row, slots, suffix)
        return None

    def knows(self, modules: Mapping[str, str]) -> int:
        """How many modules, by the shapes of their names, belong to a row."""
        found = ((self._by_shape.get(shape, ()), name) for shape, name in modules.items())
        return sum(
            any(compile_pattern(pattern).fullmatch(name) for _, pattern in candidates)
            for candidates, name in found
        )

    def nearest(self, name: str) -> str:
        """The known tensor name most like an unknown one, slots as `{layer}`."""
        module, _, suffix = name.rpartition(".")
        if self.match(f"{module}.weight"):
            known = [f"{module}.{suffix}" for suffix in table("suffixes")]
        else:
            suffix = suffix if suffix in table("suffixes") else "weight"
            known = [f"{pattern}.{suffix}" for pattern in self._patterns.values()]
        return difflib.get_close_matches(name, known, n=1, cutoff=0)[0]


def _name_shape(pattern: str) -> str:
    parts = pattern.split(".")
    return ".".join("#" if part.isdigit() or part.startswith("{") else part for part in parts)


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A whole-name pattern; slots become named groups of digits."""
    escaped = re.escape(pattern)
    # no leading zeros: a name has exactly one spelling
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>0|[1-9][0-9]{0,5})", escaped))


@cache
def native(family: Family) -> Naming:
    """Mistral's own names."""
    also = [(row, name) for row in family.rows for name in row.native_also]
    return Naming(family, NATIVE, {row: row.native for row in family.rows if row.native}, also)


@cache
def naming(family: Family, group: str, generation: str) -> Naming:
    """HF-style names with the prefixes of `generations.toml` (`hf`/`new`, `vllm`/`text`, ...)."""
    prefixes = table("generations")[group][generation]
    own = {row: row.vllm for row in family.rows if group == "vllm" and row.vllm}
    patterns = {row: _fill(own.get(row, row.hf), prefixes) for row in family.rows}
    named = {row: pattern for row, pattern in patterns.items() if pattern}
    also = [(row, _fill(name, prefixes)) for row in named for name in row.also]
    stacks = {stack: _fill(stack.hf, prefixes) for stack in family.stacks}
    return Naming(family, generation, named, also, {s: name for s, name in stacks.items() if name})


def _fill(pattern: str, prefixes: Mapping[str, str]) -> str:
    """A pattern with its prefix, if it names one; empty where the generation has no such."""
    if not pattern.startswith("{"):
        return pattern
    prefix, _, rest = pattern[1:].partition("}")
    return prefixes[prefix] + rest if prefix in prefixes else ""


@cache
def hf_namings(family: Family) -> tuple[Naming, ...]:
    """The namings of every HF generation of a family."""
    return tuple(naming(family, "hf", generation) for generation in family.generations)


def detect_hf(names: Iterable[str]) -> Naming:
    """The HF naming that knows most of the tensor names (the first in table order if equal)."""
    return _detect(names, [naming for family in families() for naming in hf_namings(family)])


def detect_native(names: Iterable[str]) -> Naming:
    """The family whose native names know most of the tensor names."""
    return _detect(names, [native(family) for family in families()])


def _detect(names: Iterable[str], known: list[Naming]) -> Naming:
    # one module of each shape says as much as thousands
    parts = (name.rpartition(".") for name in names)
    modules = {_name_shape(m): m for m, _, suffix in parts if suffix in table("suffixes")}
    return max(known, key=lambda naming: naming.knows(modules))
