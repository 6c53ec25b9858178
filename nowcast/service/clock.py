"""The time, as an argument: tests and replays have clocks of their own."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from data_prep.schema import iso

JUMP_SECONDS = 30.0
"""By which the time may differ from what has elapsed before it counts as a jump."""


def stamp(time: np.datetime64) -> str:
    """A time as the service writes it, ``2010-08-26T05:00Z``."""
    return f"{iso(time)}Z"


def of_stamp(text: str) -> np.datetime64:
    """The time that `stamp` wrote.

    Raises:
        ValueError: If it is none.
    """
    return np.datetime64(str(text).removesuffix("Z"), "ns")


class Clock(Protocol):
    """What the service asks for the time."""

    def now(self) -> np.datetime64:
        """The time, UTC."""
        ...

    def elapsed(self) -> float:
        """Seconds since anything, by a clock that never jumps."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> np.datetime64:
        """See `Clock`."""
        return np.datetime64(time.time_ns(), "ns")

    def elapsed(self) -> float:
        """See `Clock`."""
        return time.monotonic()


class ClockFrom:
    """A clock that starts at a time of one's choice and goes as fast as any other.

    Args:
        start: The time now.
    """

    def __init__(self, start: np.datetime64) -> None:
        self._start, self._began = start.astype("datetime64[ns]"), time.monotonic()

    def now(self) -> np.datetime64:
        """See `Clock`."""
        return self._start + np.timedelta64(int(self.elapsed() * 1e9), "ns")

    def elapsed(self) -> float:
        """See `Clock`."""
        return time.monotonic() - self._began


class JumpWatch:
    """Tells when a clock was set.

    Args:
        clock: The clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._difference()

    def jumped(self) -> float:
        """Seconds by which the clock was set since the last call; 0 if it was not."""
        offset = self._difference()
        change, self._offset = offset - self._offset, offset
        return change if abs(change) > JUMP_SECONDS else 0.0

    def _difference(self) -> float:
        return int(self._clock.now().astype("datetime64[ns]").astype(np.int64)) / 1e9 - self._clock.elapsed()
