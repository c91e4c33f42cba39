"""Executors that run shards on other machines."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from mmfmt.errors import MissingPackageError, MmfmtError

DASK = "dask://"
_SECONDS = 30


@contextmanager
def executor_at(address: str) -> Iterator[Executor]:
    """The executor at `dask://host:port`, a Dask scheduler whose workers see the same folders.

    Raises MmfmtError where there is none, MissingPackageError without dask.distributed.
    """
    if not address.startswith(DASK):
        raise MmfmtError(address, "is no executor", "write dask://host:port")
    try:
        from distributed import Client
    except ImportError as error:
        fix = "pip install 'mmfmt[dask]'"
        raise MissingPackageError(address, "needs dask.distributed", fix) from error
    try:
        client = Client(f"tcp://{address.removeprefix(DASK)}", timeout=_SECONDS)
    except (OSError, ValueError) as error:
        problem = f"no scheduler answers within {_SECONDS} s"
        raise MmfmtError(address, problem, "start one, or check host and port") from error
    with client:
        # equal tasks of two runs are two tasks
        yield client.get_executor(pure=False)
