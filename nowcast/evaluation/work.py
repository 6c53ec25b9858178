"""Work on many things alike: in this process, in several, or on a dask.distributed cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from data_prep.schema import RefusedInput

AHEAD = 2
"""Things that wait for each worker, so that results do not pile up before they are taken."""
_shared: Any = None


@contextmanager
def open_work(
    function: Callable[[Any, Any], Any], shared: Any, *, workers: int = 1, scheduler: str | None = None
) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Open a place that computes ``function(shared, thing)`` for many things.

    Args:
        function: Importable by its name.
        shared: What every call gets, sent to each worker once.
        workers: Processes; this one alone if 1 or less.
        scheduler: Address of a dask.distributed scheduler whose workers do it instead; they must be able to
            read the files that ``shared`` names.

    Yields:
        A function from things to an iterator of results in the order of the things.

    Raises:
        RefusedInput: If the package distributed is not installed or the scheduler does not answer.
    """
    if scheduler is not None:
        with _client(scheduler) as client:
            remote = client.scatter(shared, broadcast=True)
            count = max(1, sum(client.nthreads().values()))
            yield lambda things: _in_order(
                lambda thing: client.submit(function, remote, thing, pure=False), things, AHEAD * count
            )
    elif workers > 1:
        with _threads_per_process(workers):
            pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_keep, initargs=(function, shared)
            )

            def submit(thing: Any) -> Any:
                return pool.submit(_call, thing)

            try:
                yield lambda things: _in_order(submit, things, AHEAD * workers)
            finally:
                pool.shutdown(cancel_futures=True)
    else:
        yield lambda things: (function(shared, thing) for thing in things)


def _in_order(submit: Callable[[Any], Any], things: Iterable[Any], ahead: int) -> Iterator[Any]:
    waiting: deque[Any] = deque()
    for thing in things:
        waiting.append(submit(thing))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _keep(function: Callable[[Any, Any], Any], shared: Any) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    global _shared  # noqa: PLW0603 (one value for the life of a worker process)
    _shared = (function, shared)


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, whatever ended that."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(thing: Any) -> Any:
    function, shared = _shared
    return function(shared, thing)


@contextmanager
def _threads_per_process(workers: int) -> Iterator[None]:
    """Share the cores among processes that start now: their threads would else wait for one another."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise RefusedInput(
            "a cluster needs the package distributed", came="it is not installed",
            do="pip install -e '.[cluster]' in the checkout",
        ) from error  # fmt: skip
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise RefusedInput(
            "--scheduler is the address of a running dask.distributed scheduler",
            came=f"{scheduler} ({type(error).__name__})",
            do="start one with dask scheduler, or leave --scheduler out",
        ) from error
    with client:
        yield client
