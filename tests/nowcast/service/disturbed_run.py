"""Services in processes of their own, for tests that kill them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replay import World

from nowcast.forecasters.baselines import Extrapolation
from nowcast.service import core, cycle, journal, loop, publishing

STEPS = (
    (cycle.Cycle, "_go_on"),
    (publishing, "_sync"),
    (publishing.os, "rename"),
    (publishing, "_write_synced"),
    (publishing, "written_whole"),
    (publishing.shutil, "rmtree"),
    (journal, "_append"),
)
"""What a cycle does between two of which it may be killed."""


def kill_at(step: int) -> None:
    """Have this process be killed before one of its steps."""
    count = 0

    def counted(inner: Callable) -> Callable:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return inner(*arguments, **named)

        return wrapper

    for place, name in STEPS:
        setattr(place, name, counted(getattr(place, name)))


def one_cycle(folder: Path, number: int, step: int) -> None:
    """Forecast from a frame, and be killed before a step."""
    world = World(folder)
    world.be_at(number + 0.2)
    with world.service() as service:
        service.tick()
        kill_at(step)
        world.clock.go(2)
        service.tick()


def serve(folder: Path, settings: dict[str, Any], member_seconds: float) -> None:
    """Serve until told to end; the exit status is that of the service."""
    if member_seconds:
        Extrapolation.deterministic = False
        inner = Extrapolation.stream

        def slow(self, context, **asked):
            for member in inner(self, context, **asked):
                time.sleep(member_seconds)
                yield member

        Extrapolation.stream = slow
    os._exit(loop.serve(World(folder, **settings).settings))


def hold(folder: Path, held: Any) -> None:
    """Use the output of a world until killed."""
    with core.opened(World(folder).settings):
        held.set()
        time.sleep(60)
