"""Work on many tensors in a few threads: reading and comparing leave Python's lock free."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# more than a disk or the memory bus rewards
_MOST_THREADS = 8


def parallel(
    work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order; what has not begun is dropped if the caller stops."""
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        listed = list(items)
        yield from zip(listed, pool.map(work, listed), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
