"""The service as a process: woken by new files and by the clock, until it is told to end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from apscheduler.schedulers.background import BackgroundScheduler
from watchfiles import watch

from nowcast.service.clock import Clock
from nowcast.service.core import Exit, OutputGone, Service, Stopping, opened
from nowcast.service.settings import ServeSettings
from nowcast.service.web import serving

logger = logging.getLogger(__name__)

LONGEST_SLEEP = 60.0
CHATTERERS = ("apscheduler", "watchfiles")
"""Packages that say at every turn that they turn."""


class Alarm:
    """Wakes the service and tells it to end; signals and other threads use it."""

    def __init__(self) -> None:
        self._woken, self.stopped = threading.Event(), threading.Event()

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def stop(self) -> None:
        """The service is to end."""
        self.stopped.set()
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Sleep until woken, but no longer."""
        self._woken.wait(min(seconds, LONGEST_SLEEP))
        self._woken.clear()


def serve(settings: ServeSettings, *, clock: Clock | None = None) -> Exit:
    """Serve until told to end.

    Returns:
        0 once it was told to.

    Raises:
        AnotherInstance: If another service publishes to the folder.
        OutputGone: If the output folder was taken away.
        RefusedInput: If a setting cannot be used.
    """
    alarm = Alarm()
    for name in CHATTERERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with (
        _signals(alarm),
        opened(settings, clock=clock, stopping=alarm.stopped.is_set) as service,
        serving(settings.http, service.health, service.publisher) as address,
    ):
        if address:
            logger.info("page, metrics and probes at http://%s:%d/", *address)
        logger.info("waiting for frames in %s", settings.input.source)
        try:
            _run(service, alarm)
        except Stopping:
            logger.info("the forecast that was under way is rolled back")
    logger.info("ended")
    return Exit.PUBLISHED


def serve_once(settings: ServeSettings, *, at: np.datetime64 | None = None) -> tuple[Exit, str]:
    """Make one forecast, for a schedule of one's own.

    Args:
        settings: Of the service.
        at: Reference time; the newest if it is not given.

    Returns:
        The exit status, and a line on what became of it.

    Raises:
        AnotherInstance: If another service publishes to the folder.
        RefusedInput: If a setting cannot be used.
    """
    alarm = Alarm()
    with _signals(alarm), opened(settings, at=at, stopping=alarm.stopped.is_set) as service:
        try:
            if at is None:
                return service.make_newest(alarm.wait)
            service.live.look(service.clock.now(), service.clock.elapsed())
            if service.live.waits:
                alarm.wait(settings.input.settle_seconds)
            return service.make_one(at)
        except Stopping:
            return Exit.NOTHING, "told to end before the forecast was made; nothing was published"


def _run(service: Service, alarm: Alarm) -> None:
    """Look whenever woken."""
    told = ""
    with _watching(service.settings.input.source, alarm), _ticking(service.settings.poll_seconds, alarm):
        while not alarm.stopped.is_set():
            try:
                seconds, told = service.tick(), ""
            except (Stopping, OutputGone):
                raise
            except Exception as error:  # noqa: BLE001 (whatever it is, the next look may do better)
                if told != repr(error):
                    logger.exception("a look at the frames failed; it is tried again")
                told = repr(error)
                service.health.failed()
                seconds = service.settings.poll_seconds
            alarm.wait(seconds)


@contextmanager
def _ticking(seconds: float, alarm: Alarm) -> Iterator[None]:
    """Wake by the clock."""
    scheduler = BackgroundScheduler(timezone="UTC")
    scheduler.add_job(alarm.wake, "interval", seconds=seconds, max_instances=1, coalesce=True)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)


@contextmanager
def _watching(source: str, alarm: Alarm) -> Iterator[None]:
    """Wake when a file comes or changes; where the system does not tell, the clock does."""

    def look() -> None:
        try:
            for _ in watch(source, stop_event=alarm.stopped, rust_timeout=1000, raise_interrupt=False):
                alarm.wake()
        except (OSError, RuntimeError) as error:
            logger.warning("%s cannot be watched (%s): it is looked at by the clock", source, error)

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        alarm.stop()
        thread.join(timeout=5)


@contextmanager
def _signals(alarm: Alarm) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the service in good order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:  # noqa: ARG001
        logger.info("told to end by %s", signal.Signals(number).name)
        alarm.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
