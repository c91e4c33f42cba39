"""Names of every family, in every naming: each leads back to one row, and to no other."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfmt.layout import Family, Row, Slots, families
from mmfmt.naming import Naming, detect_hf, detect_native, hf_namings, native
from mmfmt.schemas import table
from tests.modules import COUNTS, instances, pattern

NAMINGS = [naming for each in families() for naming in (native(each), *hf_namings(each))]
every_naming = pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: naming.label)
every_family = pytest.mark.parametrize("each", families(), ids=lambda each: each.label)
ROWS = [(naming, row) for naming in NAMINGS for row in naming.family.rows if naming.has(row)]


@every_naming
def test_names_are_bijective(naming: Naming) -> None:
    """Each name leads back to its row, slots and suffix; no two modules share one."""
    seen: set[str] = set()
    for row, slots, module in instances(naming, COUNTS):
        assert module not in seen
        seen.add(module)
        for suffix in table("suffixes"):
            match = naming.match(f"{module}.{suffix}")
            assert match is not None
            assert (match.row, match.slots, match.suffix) == (row, slots, suffix)
    assert len(seen) >= 17


@every_naming
def test_no_two_rows_take_one_name(naming: Naming) -> None:
    """Every pattern against every name, without the lookup that `match` takes first."""
    rows = [row for row in naming.family.rows if naming.has(row)]
    opened = (re.escape(pattern(naming, row)) for row in rows)
    patterns = [re.compile(re.sub(r"\\\{\w+\\\}", r"\\d+", each)) for each in opened]
    for _, _, module in instances(naming, COUNTS):
        assert sum(each.fullmatch(module) is not None for each in patterns) == 1


@every_family
def test_native_to_hf_to_native(each: Family) -> None:
    """Every module that both layouts name, there and back, in every generation."""
    for naming in hf_namings(each):
        for row, slots, module in instances(native(each), COUNTS):
            match = naming.match(f"{naming.module(row, slots)}.weight")
            assert match is not None
            assert native(each).module(match.row, match.slots) == module


@every_family
def test_other_spellings(each: Family) -> None:
    """They lead to their row, whose own name is another."""
    for row in each.rows:
        for name in row.native_also:
            spelled = name.format(layer=1, expert=0)
            match = native(each).match(f"{spelled}.weight")
            assert match is not None
            assert match.row is row
            assert native(each).module(row, match.slots) != spelled


@every_family
def test_detected_by_its_own_names(each: Family) -> None:
    """Of all families, the one that the names were made from; in any order."""
    names = [f"{module}.weight" for _, _, module in instances(native(each), COUNTS)]
    assert detect_native(names) is detect_native(reversed(names)) is native(each)
    for naming in hf_namings(each):
        names = [f"{module}.weight" for _, _, module in instances(naming, COUNTS)]
        assert detect_hf(names).family is detect_hf(reversed(names)).family is each


def slots_of(row: Row, number: int) -> Slots:
    """The slots in a row's name, all with one value."""
    return tuple((slot, number) for slot, _ in row.slots if f"{{{slot}}}" in row.native)


@given(st.sampled_from(ROWS), st.integers(0, 999_999))
def test_any_number(where: tuple[Naming, Row], number: int) -> None:
    """Layers and experts of up to six digits survive in every naming."""
    naming, row = where
    slots = slots_of(row, number)
    match = naming.match(f"{naming.module(row, slots)}.weight")
    assert match is not None
    assert (match.row, match.slots) == (row, slots)


# with a superscript two and an Arabic one, which are digits to Python
NO_NUMBERS = ("00", "01", "-1", "+1", " 1", "1_0", "1000000", "9" * 30, "\u00b2", "\u0661", "")


@given(st.sampled_from(ROWS), st.sampled_from(NO_NUMBERS))
def test_other_spellings_of_a_number(where: tuple[Naming, Row], number: str) -> None:
    """A tensor name has exactly one spelling: anything else would be carried twice."""
    naming, row = where
    for slot, _ in slots_of(row, 0):
        name = pattern(naming, row).replace(f"{{{slot}}}", number)
        assert naming.match(re.sub(r"\{\w+\}", "0", name) + ".weight") is None


TEXT = st.text(max_size=40) | st.from_regex(
    r"(model\.)?layers\.\w+\.[a-z_.0-9{}]{1,20}", fullmatch=True
)


@given(TEXT)
def test_arbitrary_names(name: str) -> None:
    """Any text matches a row that spells it again, or nothing; `nearest` always answers."""
    for naming in NAMINGS:
        match = naming.match(name)
        if match is not None and not match.row.also and not match.row.native_also:
            assert f"{naming.module(match.row, match.slots)}.{match.suffix}" == name
        assert naming.nearest(name)
