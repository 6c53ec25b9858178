"""Which reference times are due, and what becomes of each: made, waited for, or skipped for a reason."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data_prep.live import LiveFrames
from data_prep.schema import RefusedInput, iso, minutes
from nowcast.service.inputs import CONTEXT_FRAMES, Context, context_of, window_of
from nowcast.service.journal import PUBLISHED, SKIPPED, Journal, Outcome
from nowcast.service.publishing import Publisher, time_of
from nowcast.service.settings import ServeSettings

logger = logging.getLogger(__name__)

NOT_RUNNING = "the service was not running"
HORIZON = np.timedelta64(1, "D")
"""How far back reference times are looked at one by one."""
LONGEST_RUN = 3
"""Reference times in a row without a frame that are named one by one."""
PATIENCE = np.timedelta64(1, "m")
"""How long a new service waits for files to stop growing before it says from when on it serves."""


class Due(NamedTuple):
    """A reference time whose forecast can be made now."""

    time: np.datetime64
    context: Context


class Schedule:
    """The reference times of a service.

    A reference time is due as soon as its frame and those before it are there; where one of those before is
    missing, once it need not be waited for any longer. It is skipped if it is stale, or if its frame has not
    come in time and a newer one is there. Each is decided once.

    Args:
        settings: Of the service.
        live: The frames.
        journal: What became of reference times so far.
        now: When the service starts.
    """

    def __init__(
        self, settings: ServeSettings, live: LiveFrames, journal: Journal, *, now: np.datetime64
    ) -> None:
        self._settings, self._live, self._journal = settings, live, journal
        self._began = now
        journal.reopen(now - settings.policy.stale)
        self._first: np.datetime64 | None = None
        if journal.newest is not None:
            times = journal.times
            self._first = live.floor(times[0] if times.size else journal.newest + live.step)
        self._obstacles: dict[np.datetime64, str] = {}

    def reconcile(self, publisher: Publisher) -> None:
        """Take up what was published and, because of a crash, is not in the journal."""
        for name, manifest in publisher.published.items():
            if not self._journal.decided(time_of(name)):
                logger.info("%s was published before a crash", name)
                outcome = Outcome(time_of(name), PUBLISHED, manifest["fallback"] or "", manifest["model"])
                self._journal.add(outcome)

    def due(self, now: np.datetime64) -> Due | None:
        """The newest reference time whose forecast can be made; none if there is none."""
        pending = self._pending(now)
        for time in pending[pending + self._settings.policy.stale >= now][::-1]:
            due = self.judge(time, now)
            if isinstance(due, Due):
                return due
            self._obstacles[time] = due
        return None

    def skipped(self, now: np.datetime64) -> list[Outcome]:
        """Reference times that need not be waited for any longer; they are to be put in the journal.

        Those that follow one another and were missed because the service was not running are one.
        """
        policy = self._settings.policy
        outcomes = self._beyond_horizon(now)
        pending = self._pending(now)
        missed = pending[pending + policy.stale < self._began]
        outcomes += [Outcome(run[0], SKIPPED, NOT_RUNNING, last=run[-1]) for run in self._runs(missed)]
        overdue = []
        for time in np.setdiff1d(pending, missed):
            given_up = not self._live.holds(time) or self._obstacles.get(time, "").startswith(UNUSABLE)
            overtaken = self._live.newest > time and now >= time + policy.wait and given_up
            if now > time + policy.stale or overtaken:
                overdue.append(time)
        for run in self._runs(np.array(overdue, dtype="datetime64[ns]")):
            if run.size > LONGEST_RUN and not any(map(self._live.holds, run)):
                outcomes.append(Outcome(run[0], SKIPPED, "no frame came", last=run[-1]))
            else:
                outcomes += [Outcome(time, SKIPPED, self._reason(time, now)) for time in run]
        return outcomes

    def _beyond_horizon(self, now: np.datetime64) -> list[Outcome]:
        """Go no further back than the horizon; all that was missed before it is one outcome."""
        horizon = self._live.floor(now - HORIZON)
        if self._first is None or self._first >= horizon:
            return []
        times = self._journal.times
        earlier = times[times < horizon]
        first = self._live.floor(earlier[-1] + self._live.step) if earlier.size else self._first
        self._first = horizon
        self._journal.forget_before(horizon)
        last = horizon - self._live.step
        return [Outcome(first, SKIPPED, NOT_RUNNING, last=last)] if first <= last else []

    def clock_was_ahead(self, now: np.datetime64) -> None:
        """The clock was set back: what was skipped as stale may be due yet."""
        self._journal.reopen(now - self._settings.policy.stale)

    def obstacle(self, time: np.datetime64, reason: str) -> None:
        """Remember why a forecast could not be made yet."""
        self._obstacles[time] = reason

    def judge(self, time: np.datetime64, now: np.datetime64) -> Due | str:
        """A reference time as it is due, or why it is not."""
        policy = self._settings.policy
        if not self._live.holds(time):
            return "no frame came yet"
        try:
            window = window_of(self._live, time, self._settings.input.doubted)
        except RefusedInput as error:
            return f"{UNUSABLE}: {error}"
        if window.reasons[-1]:
            return f"{UNUSABLE}: {window.reasons[-1]}"
        times = window.rain["time"].values[-CONTEXT_FRAMES:]
        waits = [
            iso(moment)
            for moment, reason in zip(times, window.reasons[-CONTEXT_FRAMES:], strict=True)
            if reason and now < moment + policy.wait
        ]
        if waits:
            return f"waiting for {', '.join(waits)}"
        return Due(time, context_of(window, policy))

    def _reason(self, time: np.datetime64, now: np.datetime64) -> str:
        """Why a reference time is skipped now."""
        obstacle = self._obstacles.pop(time, "")
        if not self._live.holds(time):
            return f"no frame came within {minutes(now - time):.0f} min"
        return obstacle or "it was not made before it was stale"

    def _pending(self, now: np.datetime64) -> np.ndarray:
        """Reference times of which nothing has become, oldest first."""
        newest = self._live.floor(now + np.timedelta64(round(self._settings.input.future_minutes * 60), "s"))
        if self._first is None:
            # A new service begins with the newest frame there is.
            newest_frame = self._live.newest
            if np.isnat(newest_frame) and self._live.waits and now < self._began + PATIENCE:
                return np.array([], "datetime64[ns]")
            self._first = self._live.floor(self._began) if np.isnat(newest_frame) else newest_frame
        times = np.arange(self._first, newest + self._live.step, self._live.step).astype("datetime64[ns]")
        return np.setdiff1d(times, self._journal.times)

    def _runs(self, times: np.ndarray) -> list[np.ndarray]:
        """Times that follow one another, together."""
        breaks = [n + 1 for n, (one, other) in enumerate(pairwise(times)) if other - one > self._live.step]
        return [run for run in np.split(times, breaks) if run.size]


UNUSABLE = "its frame cannot be used"
