"""Modules as the rules on quantization look at them."""

from collections.abc import Iterable, Iterator

from mmfmt.checkpoint import LINEAR_KINDS, Module
from mmfmt.model import Model
from mmfmt.quantization import Scheme
from mmfmt.verify.findings import Problem


def quantized_modules(model: Model) -> list[Module]:
    """Every module with a parameter that only quantized ones have."""
    return [module for module in model.checkpoint.modules.values() if module.quantized]


def schemed_modules(model: Model) -> Iterator[tuple[Module, Scheme]]:
    """Quantized linear modules, each with the scheme that the config gives it."""
    for module in quantized_modules(model):
        scheme = model.scheme(module)
        if scheme and module.row.kind in LINEAR_KINDS:
            yield module, scheme


def shard_of(module: Module) -> str:
    """The shard of a module's first parameter."""
    return next(iter(module.parameters.values())).shard


def problems(found: Iterable[tuple[str, str, str]], fix: str) -> Iterator[Problem]:
    """One problem for each message, at the first (shard, location) that it holds for.

    A model has thousands of modules alike.
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for shard, location, message in found:
        alike.setdefault(message, []).append((shard, location))
    for message, places in alike.items():
        more = f", and so {len(places) - 1} more" if len(places) > 1 else ""
        yield Problem(*places[0], f"{message}{more}", fix)
