"""What is worked out on first use and kept: of a bad file, what is wrong with it."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar, overload

from mmfmt.errors import MmfmtError

Value = TypeVar("Value", covariant=True)
Read = TypeVar("Read")


class settled(cached_property[Value], Generic[Value]):  # noqa: N801, as its base
    """A cached_property that keeps a MmfmtError too: many rules ask, and each would try again."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> "settled[Value]": ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> Value: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        failed = f"{self.attrname} failed"
        if failed in instance.__dict__:
            raise instance.__dict__[failed].with_traceback(None)
        try:
            return super().__get__(instance, owner)
        except MmfmtError as error:
            instance.__dict__[failed] = error
            raise


def once(read: Callable[[str], Read]) -> Callable[[str], Read]:
    """A function of a name that works each out once, and raises its MmfmtError again."""
    found: dict[str, Read | MmfmtError] = {}

    def kept(name: str) -> Read:
        if name not in found:
            try:
                found[name] = read(name)
            except MmfmtError as error:
                found[name] = error
        if isinstance(known := found[name], MmfmtError):
            raise known.with_traceback(None)
        return known

    return kept
