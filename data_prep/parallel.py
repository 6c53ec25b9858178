"""Work on several cores: threads of this process, or the workers of a dask.distributed cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from data_prep.schema import RefusedInput


class Tasks(Protocol):
    """Where work is done.

    Attributes:
        workers: How many tasks run at once.
        parallel_writes: How many finished pieces of work may wait for the next step.
    """

    workers: int
    parallel_writes: int

    def submit(self, function: Callable, *arguments: Any) -> Any:
        """Start a task; arguments that are results still to come are passed as what they will be."""
        ...

    def fetch(self, future: Any, function: Callable) -> Any:
        """Wait for a result and bring ``function(result)`` here; the result itself stays where it is."""
        ...


class Threads:
    """Threads of this process."""

    def __init__(self, pool: ThreadPoolExecutor, workers: int) -> None:
        self.workers = workers
        self.parallel_writes = 1  # what waits is held in the memory of this process
        self._pool = pool

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """See `Tasks`."""
        # Waits for other results here and not in a thread, where all could wait for one another.
        known = [argument.result() if isinstance(argument, Future) else argument for argument in arguments]
        return self._pool.submit(function, *known)

    def fetch(self, future: Future, function: Callable) -> Any:
        """See `Tasks`."""
        return function(future.result())


class Cluster:
    """Workers of a dask.distributed cluster."""

    def __init__(self, client: Any) -> None:
        self.workers = max(1, sum(client.nthreads().values()))
        self.parallel_writes = self.workers
        self._client = client

    def submit(self, function: Callable, *arguments: Any) -> Any:
        """See `Tasks`."""
        return self._client.submit(function, *arguments, pure=False)

    def fetch(self, future: Any, function: Callable) -> Any:
        """See `Tasks`."""
        return self._client.submit(function, future, pure=False).result()


@contextmanager
def open_tasks(scheduler: str | None = None, *, threads: int | None = None) -> Iterator[Tasks]:
    """Open a place to work.

    Args:
        scheduler: Address of a dask.distributed scheduler; threads of this process where none is given.
        threads: How many; as many as cores that this process may use where none is given.

    Raises:
        RefusedInput: If the package distributed is not installed or the scheduler does not answer.
    """
    if scheduler is None:
        workers = threads or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(workers, thread_name_prefix="prep") as pool:
            try:
                yield Threads(pool, workers)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise RefusedInput(
            "--scheduler needs the package distributed",
            came=error,
            do="pip install -e '.[cluster]' in the checkout",
        ) from error
    try:
        client = Client(scheduler, timeout="30s")
    except (OSError, TimeoutError, ValueError) as error:
        raise RefusedInput(
            "--scheduler is the address of a running dask scheduler",
            came=f"{scheduler} ({error})",
            do="start one with: dask scheduler",
        ) from error
    with client:
        yield Cluster(client)
