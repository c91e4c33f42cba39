"""Byte counts in words."""


def format_bytes(count: float) -> str:
    """A byte count with a decimal unit: `4.7 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
