"""Targets of config groups: which scheme a config gives a module."""

from collections.abc import Callable, Sequence

from mmfmt.entries import REGEX, by_name
from mmfmt.quantization.scheme import Scheme

CLASS = "Linear"


class Targets:
    """The targets of some schemes: names first, then expressions, then the class.

    `rewrite` puts a target into the module names of one reader.
    """

    def __init__(
        self, schemes: Sequence[Scheme], rewrite: Callable[[str], str] = lambda target: target
    ) -> None:
        pairs = [(rewrite(target), scheme) for scheme in schemes for target in scheme.targets]
        self._names: dict[str, Scheme] = {}
        for target, scheme in pairs:
            self._names.setdefault(target, scheme)
        self._expressions = [(by_name([t]), s) for t, s in pairs if t.startswith(REGEX)]
        self._class = next((scheme for target, scheme in pairs if target == CLASS), None)
        self.all_alike = len(schemes) == 1 and self._class is not None

    def scheme(self, *names: str) -> Scheme | None:
        """The scheme of a linear module with these names."""
        exact = (self._names[name] for name in names if name in self._names)
        matched = (s for test, s in self._expressions if any(map(test, names)))
        return next(exact, None) or next(matched, None) or self._class
