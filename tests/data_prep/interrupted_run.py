"""A preparation in a process of its own, for tests that kill it or slow it down."""

import importlib
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import forked

from data_prep import store as store_module
from data_prep.pipeline import Recipe, prepare
from data_prep.sampling import Sampling
from data_prep.splits import Splits

RECIPE = Recipe(
    pattern="**/RAD_NL25_RAP_5min_2010082600*.h5",
    reader="knmi_hdf5",
    sampling=Sampling(frames=4, height=256, width=256, stride=128, q_min=0.5),
    splits=Splits(cycle=("train",)),
)
FRAMES = 12
SHARD = 4
"""Frames in a shard here, so that a dozen frames are three commits."""


class Run:
    """A run of its own, disturbed as by `_disturb` if a place is given."""

    def __init__(self, source: Path, store: Path, place: str = "", number: int = 0) -> None:
        self._written, result = forked.CONTEXT.Pipe(duplex=False)
        self.process = forked.start(_prepare, source, store, place, number, result)
        result.close()

    def ends_with(self) -> int | None:
        """Wait for its exit status."""
        return forked.exit_status(self.process)

    def written(self) -> int:
        """Wait for the number of frames that it wrote."""
        assert self.ends_with() == 0
        return self._written.recv()


def _prepare(source: Path, store: Path, place: str, number: int, result: Connection) -> None:
    store_module.SHARD_FRAMES = store_module.CHUNK_FRAMES = SHARD
    if place:
        _disturb(place, number)
    result.send(prepare(source, store, RECIPE).written)


def _disturb(place: str, number: int) -> None:
    """Kill this process at the given call of a function ('module:name'), or delay every call if it is 0."""
    module, name = place.split(":")
    original, calls = getattr(importlib.import_module(module), name), []

    def disturbed(*arguments, **named):
        calls.append(name)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 0:
            time.sleep(0.3)
        return original(*arguments, **named)

    setattr(importlib.import_module(module), name, disturbed)
