"""A file on the Hub whose bytes are streamed: one request for each range that will be read."""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

from mmfmt.errors import MmfmtError
from mmfmt.hub_requests import check_range, hub_errors, stream_range
from mmfmt.storage import Range

# seconds before each further attempt to get on where a connection was cut or stalls
_WAITS = (0, 1, 2, 4, 8)


class HubFile:
    """A file of `size` bytes at a URL, as mmfmt.storage.OpenFile; for one thread at a time.

    `place` is how messages name it. `ranges` [start, stop) ascend and do not touch: a request
    goes to the end of the one it starts in, and is continued from where its connection broke.
    """

    def __init__(
        self, place: str, url: str, commit: str, size: int, ranges: Sequence[Range]
    ) -> None:
        self._place, self._url, self._commit, self._size = place, url, commit, size
        self._starts, self._stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        self._response = ExitStack()
        self._pieces: Iterator[bytes] = iter(())
        # what came and was not read yet; where that lies in the file; where the response ends
        self._rest, self._position, self._stop = memoryview(b""), 0, 0

    @property
    def signature(self) -> tuple[str, int]:
        """The hash of the commit, and bytes of the file."""
        return self._commit, self._size

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill the whole view with the bytes from `offset` on.

        Raises MmfmtError where the file ends before, or the Hub gives nothing for several
        attempts in a row.
        """
        if offset + len(view) > self._size:
            asked = f"bytes {offset}-{offset + len(view) - 1} were asked for"
            raise MmfmtError(self._place, f"ends at byte {self._size}: {asked}")
        if offset != self._position:
            self.close()
            self._position = self._stop = offset
        with hub_errors(self._place):
            while len(view):
                view = view[self._some(view) or self._again(view) :]

    def close(self) -> None:
        """Hang up. Reading on opens a new connection."""
        self._response.close()
        self._pieces, self._rest, self._stop = iter(()), memoryview(b""), self._position

    def _again(self, view: memoryview) -> int:
        """Fill the start of the view from another connection; how many bytes of it."""
        for wait in _WAITS:
            self.close()
            time.sleep(wait)
            if count := self._some(view):
                return count
        problem = f"was cut off {len(_WAITS) + 1} times in a row at byte {self._position}"
        raise MmfmtError(self._place, problem, "check the connection and try again")

    def _some(self, view: memoryview) -> int:
        """Fill the start of the view; how many bytes of it, 0 if the connection broke."""
        if not self._rest:
            # another thread that cannot connect closes huggingface_hub's client for all
            with suppress(RuntimeError):
                self._rest = self._piece(len(view))
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._position += count
        if self._position == self._stop:
            self._finish()
        return count

    def _piece(self, wanted: int) -> memoryview:
        """The next bytes of the response, or of a new one if there is none; empty if it broke."""
        from huggingface_hub.errors import HTTPError

        if self._position == self._stop:
            self._open(self._end(wanted))
        with suppress(HTTPError, OSError):
            return memoryview(next(self._pieces, b""))[: self._stop - self._position]
        return memoryview(b"")

    def _end(self, wanted: int) -> int:
        """Where a response from the position on is to end."""
        before = bisect_right(self._starts, self._position)
        stop = min(self._stops[before - 1], self._size) if before else 0
        return stop if self._position < stop else self._position + wanted

    def _open(self, stop: int) -> None:
        asked = stream_range(self._url, self._position, stop)
        response = self._response.enter_context(asked)
        check_range(response, self._place, self._position, stop)
        self._pieces, self._stop = response.iter_bytes(), stop

    def _finish(self) -> None:
        """Read the end of a whole response, so that its connection can be used again."""
        from huggingface_hub.errors import HTTPError

        with suppress(HTTPError, OSError):
            next(self._pieces, None)
        self.close()
