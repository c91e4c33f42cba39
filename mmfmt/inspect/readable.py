"""A weight set as far as it can be read, for a look at broken repos."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from mmfmt.errors import MmfmtError
from mmfmt.header import Header
from mmfmt.repo import HEADERS_AT_ONCE, WeightSet


@dataclass(frozen=True)
class ReadableSet(WeightSet):
    """The shards of a `whole` set whose headers can be read and repeat no tensor of another."""

    whole: WeightSet

    @cached_property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.headers)

    @cached_property
    def headers(self) -> Mapping[str, Header]:
        return self._read[0]

    @property
    def faults(self) -> Mapping[str, str]:
        """Why the other files cannot be read, by name."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Mapping[str, Header], Mapping[str, str]]:
        headers: dict[str, Header] = {}
        holders: dict[str, str] = {}
        named, faults = self._named()
        with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
            read = dict(zip(named, pool.map(self._attempt, named), strict=True))
        for shard, header in read.items():
            if isinstance(header, str):
                faults[shard] = header
            elif twice := next((name for name in header.tensors if name in holders), None):
                faults[shard] = f"{shard}: {twice} stands in {holders[twice]} too"
            else:
                headers[shard] = header
                holders |= dict.fromkeys(header.tensors, shard)
        return headers, faults

    def _named(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """The shards to read: those of the index, or all on disk where it cannot be read."""
        try:
            return self.whole.shards, {}
        except MmfmtError as error:
            return self.on_disk, {self.index_name: str(error)}

    def _attempt(self, shard: str) -> Header | str:
        """A header, or why it cannot be read."""
        try:
            self.whole.check_shard(shard)
            return self.whole.header(shard)
        except MmfmtError as error:
            return str(error)


def readable(whole: WeightSet) -> ReadableSet:
    """A weight set as far as it can be read."""
    return ReadableSet(whole.storage, whole.stem, whole)
