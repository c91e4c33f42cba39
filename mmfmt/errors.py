"""The one exception that a user ever sees: a single line that says what to do."""

# characters that a message takes over from a file
_LONGEST = 1000


class MmfmtError(Exception):
    """A checkpoint, config or request that cannot be worked with.

    `place` names the file, and the tensor or JSON path in it; `problem` says what was
    found and what was expected; `fix` what to do about it.
    """

    def __init__(self, place: str, problem: str, fix: str = "") -> None:
        self.place, self.problem, self.fix = map(brief, (place, problem, fix))
        text = f"{self.place}: {self.problem}" + (f" ({self.fix})" if fix else "")
        super().__init__(printable(text))

    def __reduce__(self) -> tuple[type["MmfmtError"], tuple[str, str, str]]:
        """To be raised in another process."""
        return type(self), (self.place, self.problem, self.fix)


class MissingPackageError(MmfmtError):
    """A check or conversion that needs a package which is not installed, or does not work."""


def brief(text: str) -> str:
    """Text that may quote a file, without the middle where it is too long for a message."""
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} ... ({len(text)} characters) ... {text[-half:]}"


def printable(text: str) -> str:
    """Text from a file made safe to print on one line: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
