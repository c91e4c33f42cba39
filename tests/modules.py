"""The modules and parameters that the layout tables give a model, for tests to compare with."""

from collections.abc import Iterable, Iterator

from mmfmt.layout import Row, Slots, Symbols
from mmfmt.naming import Naming

ENCODER = "multimodal.whisper_model_args.encoder_args"
# two of everything that is counted, so that every slot takes part
COUNTS = {
    **{"n_layers": 2, "vision_encoder.num_hidden_layers": 2, f"{ENCODER}.n_layers": 2},
    **{"moe.num_experts": 2, "moe.first_k_dense_replace": 1},
}


def instances(naming: Naming, symbols: Symbols) -> Iterator[tuple[Row, Slots, str]]:
    """Every module that a naming has a name for, with the name."""
    return _instances(naming, naming.family.rows, symbols)


def _instances(
    naming: Naming, rows: Iterable[Row], symbols: Symbols
) -> Iterator[tuple[Row, Slots, str]]:
    for row in rows:
        if naming.has(row):
            for slots in row.instances(symbols):
                yield row, slots, naming.module(row, slots)


def required(naming: Naming, symbols: Symbols) -> Iterator[tuple[Row, Slots, str]]:
    """The modules that a model with these params cannot be without."""
    rows = (row for row in naming.family.rows if row.required and row.expected(symbols))
    return _instances(naming, rows, symbols)


def parameters(naming: Naming, symbols: Symbols) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an unquantized model."""
    return {
        f"{module}.{suffix}": shape
        for row, _, module in required(naming, symbols)
        for suffix, shape in row.parameters(symbols).items()
    }


def pattern(naming: Naming, row: Row) -> str:
    """The name of a row with its slots still open."""
    slots = tuple((slot, "{" + slot + "}") for slot, _ in row.slots)
    return str(naming.module(row, slots))  # type: ignore[arg-type]
