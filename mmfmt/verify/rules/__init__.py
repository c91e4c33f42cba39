"""The rules, by family; importing this package registers them."""

from importlib import import_module
from pkgutil import iter_modules

from mmfmt.verify.findings import REGISTRY, Rule

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def registered_rules() -> tuple[Rule, ...]:
    """Every rule, by id."""
    return tuple(REGISTRY[id] for id in sorted(REGISTRY))
