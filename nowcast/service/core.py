"""The service: what it does each time that it is woken, and once for a schedule of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import numpy as np

from data_prep.live import LiveFrames
from data_prep.schema import RefusedInput, iso, minutes
from nowcast.options import read_recipe
from nowcast.products.write import require
from nowcast.service.clock import Clock, ClockFrom, JumpWatch, SystemClock, stamp
from nowcast.service.cycle import Cycle, NotMade, Stopping
from nowcast.service.health import Health
from nowcast.service.journal import PUBLISHED, Journal, Outcome
from nowcast.service.logs import about
from nowcast.service.models import Models
from nowcast.service.publishing import Publisher, locked, name_of
from nowcast.service.scheduler import HORIZON, Due, Schedule
from nowcast.service.settings import ServeSettings
from nowcast.service.verifying import Verifier

logger = logging.getLogger(__name__)

LONGEST_RETRY_SECONDS = 300.0


class Exit(IntEnum):
    """Exit status of a single run."""

    PUBLISHED = 0
    REFUSED = 1
    BY_FALLBACK = 3
    NOTHING = 4
    BUSY = 5


class OutputGone(Exception):
    """The folder that forecasts are published in is not the one that is locked any more."""


class Service:
    """A service on a folder that nobody else publishes to; see `opened`.

    Args:
        settings: Of the service.
        clock: The time.
        at: Make the forecast of this reference time alone, as if all its frames had come that will.
        stopping: Whether the service is asked to end.
        still_ours: Whether the output folder is the one that is locked.
    """

    def __init__(
        self,
        settings: ServeSettings,
        *,
        clock: Clock,
        at: np.datetime64 | None = None,
        stopping: Callable[[], bool] = lambda: False,
        still_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self.settings, self.clock = settings, clock
        self._stopping, self._still_ours = stopping, still_ours
        recipe = read_recipe(settings.input.prep)
        told = settings.input
        self.live = LiveFrames(
            told.source,
            recipe,
            settle_seconds=told.settle_seconds,
            newest_files=told.newest_files if at is None else None,
            offset_minutes=told.offset_minutes,
            future_minutes=told.future_minutes,
            until=at,
        )
        self.models = Models(settings.forecast)
        self.publisher = Publisher(settings.output, settings.retention)
        since = self.live.floor(clock.now() - HORIZON)
        self._journal = Journal(self.publisher.forecasts.parent, self.live.step, since)
        self._schedule = Schedule(settings, self.live, self._journal, now=clock.now())
        self._schedule.reconcile(self.publisher)
        self.health = Health(clock, settings.policy)
        self.health.latest_is(self.publisher.latest, self._journal.last)
        self._cycle = Cycle(
            settings,
            settings.digest(recipe),
            self.models,
            self.publisher,
            clock,
            stopping=stopping,
            stage=self.health.stage,
            beat=self.health.beat,
            hurry=at is None,
        )
        self._verifier = Verifier(settings, self.live, self.publisher)
        self._jumps = JumpWatch(clock)
        self._retry_at, self._retry_after = 0.0, settings.policy.retry_seconds
        self._greeted = False

    def tick(self) -> float:
        """Do what is to be done now.

        Returns:
            Seconds after which there may be more to do, without a new file.

        Raises:
            Stopping: If the service is asked to end.
            OutputGone: If the output folder was taken away.
        """
        if not self._still_ours():
            raise OutputGone(f"{self.settings.output} was taken away, and with it the lock")
        self._look()
        while self.clock.elapsed() >= self._retry_at and (due := self._schedule.due(self.clock.now())):
            self._make(due)
            self._look()
        self._name_skipped()
        if not self.live.waits and self._verifier.step(self.clock.now()):
            self.health.verified(self._verifier.skill)
        self.health.beat()
        return self.settings.input.settle_seconds if self.live.waits else self.settings.poll_seconds

    def make_one(self, time: np.datetime64) -> tuple[Exit, str]:
        """Make the forecast of one reference time with the frames there are.

        Returns:
            The exit status, and a line on what became of it.
        """
        self._look()
        if (done := self.publisher.published.get(name_of(time))) is not None:
            return _exit(done), f"the forecast of {iso(time)} was published before, by {done['model']}"
        if self.live.floor(time) != time:
            raise RefusedInput(
                f"a reference time is one of every {minutes(self.live.step):g} min", came=iso(time),
                do=f"as {iso(self.live.floor(time))}, or set input.offset_minutes",
            )  # fmt: skip
        due = self._schedule.judge(time, self.clock.now())
        if not isinstance(due, Due):
            due = due if self.live.holds(time) else "there is no frame of it"
            logger.warning("no forecast of %s: %s", iso(time), due)
            return Exit.NOTHING, f"no forecast of {iso(time)}: {due}"
        self._make(due)
        if (done := self.publisher.published.get(name_of(time))) is None:
            return Exit.NOTHING, f"no forecast of {iso(time)}: the log says why"
        return _exit(done), _line(done)

    def make_newest(self, wait: Callable[[float], None]) -> tuple[Exit, str]:
        """Make what is due, waiting for the frame of the present step as long as the policy says.

        Args:
            wait: Sleeps for some seconds.

        Returns:
            The exit status, and a line on what became of it.
        """
        wanted = self.live.floor(self.clock.now())
        before = self.publisher.latest
        logger.info(
            "the frame of %s is waited for until %s", iso(wanted), iso(wanted + self.settings.policy.wait)
        )
        while True:
            seconds = self.tick()
            latest = self.publisher.latest
            if (done := self.publisher.published.get(name_of(wanted))) is not None:
                before_now = f"the forecast of {iso(wanted)} was published before, by {done['model']}"
                return _exit(done), before_now if done is before else _line(done)
            if self.clock.now() >= wanted + self.settings.policy.wait:
                if latest is not None and latest is not before:
                    return _exit(latest), _line(latest)
                return Exit.NOTHING, f"no forecast of {iso(wanted)} could be made; the log says why"
            if self._stopping():
                raise Stopping
            wait(seconds)

    def _look(self) -> None:
        """See which frames and which model there are."""
        self._heed_jumps()
        refused = self.live.look(self.clock.now(), self.clock.elapsed())
        if self.live.came_too_old:
            logger.warning(
                "%s is of %s, more than 6 h ago: it is too old to forecast from, or a clock is wrong",
                _printable(Path(self.live.came_too_old.path).name), iso(self.live.came_too_old.stamp),
            )  # fmt: skip
        for refusal in refused:
            logger.warning("left out: %s (%s)", _printable(refusal.file), _printable(refusal.reason))
        self.models.refresh()
        self._journal.save()
        if self.publisher.mend():
            self.health.latest_is(self.publisher.latest)
        if not (self._greeted or self.live.waits):
            self._greet()
        self.health.input_is(self.live.newest, model_problem=self.models.problem, refused=len(refused))

    def _greet(self) -> None:
        """Say once what there is to begin with."""
        self._greeted = True
        source, newest = self.settings.input.source, self.live.newest
        if np.isnat(newest):
            logger.info("no frame of the last 6 hours in %s; --at forecasts from older ones", source)
        elif newest + self.settings.policy.stale < self.clock.now():
            logger.warning("the newest frame in %s is of %s: too old to forecast from", source, iso(newest))
        else:
            logger.info("the newest frame in %s is of %s", source, iso(newest))

    def _heed_jumps(self) -> None:
        seconds = self._jumps.jumped()
        if not seconds:
            return
        logger.warning("the clock of this machine was set by %+.0f s, to %s", seconds, iso(self.clock.now()))
        self.health.clock_jumped()
        self.live.forget_future()
        if seconds < 0:
            self._schedule.clock_was_ahead(self.clock.now())

    def _make(self, due: Due) -> None:
        """Make a forecast that is due; what cannot be written is tried again later."""
        time = due.time
        with about(reference_time=stamp(time)):
            try:
                self.publisher.make_room(self.clock.now())
            except OSError as error:
                logger.error("old forecasts cannot be removed: %s", error)
            logger.info("the forecast of %s begins", iso(time))
            try:
                manifest = self._cycle.make(time, due.context, since_arrival=self._waited(due))
            except (NotMade, OSError) as error:
                self._retry_at = self.clock.elapsed() + self._retry_after
                logger.error("no forecast of %s: %s; next try in %.0f s", iso(time), error, self._retry_after)
                self._retry_after = min(2 * self._retry_after, LONGEST_RETRY_SECONDS)
                self._schedule.obstacle(time, str(error))
                self.health.failed()
                return
            self._retry_after = self.settings.policy.retry_seconds
            with about(run_id=manifest["run_id"]):
                logger.info("%s", _line(manifest))
            self.health.published(manifest)
            self.health.latest_is(self.publisher.latest)
            outcome = Outcome(time, PUBLISHED, manifest["fallback"] or "", manifest["model"])
            self._journal.add(outcome)
            self.health.decided(outcome)

    def _waited(self, due: Due) -> float:
        """Seconds since the last frame of a context came."""
        times = due.context.rain["time"].values
        return min(self.live.waited(time) for time in times if self.live.holds(time))

    def _name_skipped(self) -> None:
        skipped = self._schedule.skipped(self.clock.now())
        for outcome in skipped:
            last = outcome.time if outcome.last is None else outcome.last
            until = f" to {iso(last)}" if last != outcome.time else ""
            with about(reference_time=stamp(outcome.time)):
                logger.warning("no forecast of %s%s: %s", iso(outcome.time), until, outcome.reason)
            self.health.decided(outcome, 1 + int((last - outcome.time) / self.live.step))
        self._journal.add(*skipped)


@contextmanager
def opened(
    settings: ServeSettings,
    *,
    clock: Clock | None = None,
    at: np.datetime64 | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Service]:
    """A service that has its output folder for itself.

    Raises:
        AnotherInstance: If another service publishes to the folder.
        RefusedInput: If a setting cannot be used.
    """
    if clock is None:
        clock = SystemClock() if at is None else ClockFrom(at + settings.policy.wait)
    require(settings.products)
    with locked(settings.output) as still_ours:
        yield Service(settings, clock=clock, at=at, stopping=stopping, still_ours=still_ours)


def _printable(text: str) -> str:
    """Text on one line, whatever a file is called."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _exit(manifest: dict) -> Exit:
    return Exit.BY_FALLBACK if manifest["fallback"] else Exit.PUBLISHED


def _line(manifest: dict) -> str:
    by = f"{manifest['model']}, in place of {manifest['asked_model']}: {manifest['fallback']}"
    return (
        f"published the forecast of {manifest['reference_time']} by "
        f"{by if manifest['fallback'] else manifest['model']}, {manifest['members']} member(s), "
        f"{manifest['seconds']['total']:.1f} s after its last frame was seen"
    )


__all__ = ["Exit", "OutputGone", "Service", "Stopping", "opened"]
