"""Processes for tests that kill a run or need several, forked from one that has imported what they need.

Importing torch and Lightning takes longer than most of what such a run does. The process that is forked has
done nothing but import, so no thread, lock or state of the tests reaches its children.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = [
    "data_prep.pipeline", "h5py", "dask.array", "distributed",
    "nowcast.training.callbacks", "nowcast.training.checkpoint_io", "nowcast.training.datamodule",
    "nowcast.training.gan", "zarrs",
    "nowcast.service.loop", "nowcast.forecasters.gan_forecaster",
]  # fmt: skip
SECONDS = 120
"""After which a run counts as hanging."""


def warm() -> None:
    """Start the process to fork from, unless it is there."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    forkserver.ensure_running()


def start(function: Callable[..., object], *arguments: object, **named: object) -> BaseProcess:
    """Call a function in a process of its own, which ends with this one."""
    warm()
    process = CONTEXT.Process(target=function, args=arguments, kwargs=named, daemon=True)
    process.start()
    return process


def exit_status(process: BaseProcess) -> int | None:
    """Wait for a process: 0 after success, minus the signal that killed it, None if it hangs."""
    process.join(SECONDS)
    return process.exitcode
