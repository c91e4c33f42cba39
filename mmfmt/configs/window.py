"""Sliding windows: sliding_window and layer_types of config.json, sliding_window of params.json.

A window is a number of tokens; params.json may give a list, one period of a pattern of layers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mmfmt.configs.hf import CONFIG, PARAMS, HfConfig
from mmfmt.errors import MmfmtError

_SLIDING, _FULL = "sliding_attention", "full_attention"
# AutoConfig takes a text-only mistral with layer_types for a ministral, whose attention heeds them
_PATTERNED = {"mistral", "ministral"}


def sliding_window(config: HfConfig, window: int | None) -> int | list[int | None] | None:
    """`sliding_window` of params.json, of a config whose windows are of this size if at all."""
    types = config.get("text.layer_types")
    return window if window is None or not types else _pattern(config, window, types)


def _pattern(config: HfConfig, window: int, types: list[str]) -> int | list[int | None] | None:
    place = f"{CONFIG}: {config.place('text.layer_types')}"
    if unknown := set(types) - {_FULL, _SLIDING}:
        raise MmfmtError(place, f"{unknown.pop()!r} cannot be carried to params.json")
    windows = [window if kind == _SLIDING else None for kind in types]
    if set(windows) == {window}:
        return window
    if config.model_type not in _PATTERNED:
        raise MmfmtError(place, f"readers of {config.model_type} disagree on whether it counts")
    return None if set(windows) == {None} else _shortest_period(windows)


def _shortest_period(windows: list[int | None]) -> list[int | None]:
    # native files give one period of the pattern, repeated over the layers
    count = len(windows)
    periods = (n for n in range(1, count + 1) if count % n == 0)
    return next(windows[:n] for n in periods if windows[:n] * (count // n) == windows)


def window_keys(params: Mapping[str, Any], text_type: str) -> Iterator[tuple[str, Any]]:
    """(table path, value) of what config.json says of the window, the inverse of `sliding_window`.

    An explicit null where there is none: the default of MistralConfig is 4096.
    """
    said = params.get("sliding_window")
    if not isinstance(said, list):
        yield "text.sliding_window", said
        return
    if text_type != "mistral" or {"vision_encoder", "multimodal"} & params.keys():
        problem = f"{said} is a pattern of layers, which this class of transformers does not heed"
        raise MmfmtError(f"{PARAMS}: sliding_window", problem)
    yield "text.sliding_window", _only(said)
    repeats, rest = divmod(params["n_layers"], len(said))
    if rest:
        raise MmfmtError(f"{PARAMS}: sliding_window", f"{said} does not divide the layers")
    yield "text.layer_types", [_FULL if w is None else _SLIDING for w in said * repeats]


def _only(windows: list[int | None]) -> int | None:
    sizes = set(windows) - {None}
    if len(sizes) > 1:
        problem = f"{windows} has several sizes, but config.json has one for all layers"
        raise MmfmtError(f"{PARAMS}: sliding_window", problem)
    return next(iter(sizes), None)
