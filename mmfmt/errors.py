"""The one exception that a user ever sees: a single line that says what to do."""


class MmfmtError(Exception):
    """A checkpoint, config or request that cannot be worked with.

    `place` names the file, and the tensor or JSON path in it; `problem` says what was
    found and what was expected; `fix` what to do about it.
    """

    def __init__(self, place: str, problem: str, fix: str = "") -> None:
        self.place, self.problem, self.fix = place, problem, fix
        super().__init__(printable(f"{place}: {problem}" + (f" ({fix})" if fix else "")))


class MissingPackageError(MmfmtError):
    """A check or conversion that needs a package which is not installed, or does not work."""


def printable(text: str) -> str:
    """Text from a file made safe to print on one line: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
