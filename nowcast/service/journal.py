"""What became of each reference time: a line of JSON for each, published or not made and why."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nowcast.files import written_whole
from nowcast.service.clock import of_stamp, stamp

logger = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
LONGEST = 20_000
"""Lines from which the older half is left out when the service starts."""

PUBLISHED: Literal["published"] = "published"
SKIPPED: Literal["skipped"] = "skipped"


class Outcome(NamedTuple):
    """What became of a reference time, or of several that follow one another.

    Attributes:
        time: Reference time; the first of several.
        outcome: ``published`` or ``skipped``.
        reason: Why it was skipped, or made by a fallback; else nothing.
        model: That made it; nothing if skipped.
        last: The last of several.
    """

    time: np.datetime64
    outcome: str
    reason: str = ""
    model: str = ""
    last: np.datetime64 | None = None

    def as_text(self) -> str:
        """One line of JSON."""
        told = {
            "reference_time": stamp(self.time),
            "outcome": self.outcome,
            "reason": self.reason or None,
            "model": self.model or None,
        }
        if self.last is not None:
            told["last"] = stamp(self.last)
        return json.dumps(told)

    @classmethod
    def of_text(cls, line: str) -> Outcome:
        """From a line of JSON.

        Raises:
            ValueError: If it is none of ours.
        """
        try:
            told = json.loads(line)
            last = of_stamp(told["last"]) if "last" in told else None
            if np.isnat(of_stamp(told["reference_time"])) or (last is not None and np.isnat(last)):
                raise ValueError("no time")
            outcome, reason, model = (str(told[name] or "") for name in ("outcome", "reason", "model"))
            return cls(of_stamp(told["reference_time"]), outcome, reason, model, last)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no outcome: {line[:80]!r}") from error


class Journal:
    """Outcomes in a file that only grows, each brought to disk; one process uses it.

    Args:
        folder: Where the file is.
        step: Between reference times.
        since: What is older is in the file alone.

    Attributes:
        last: What became of the last reference time.
        newest: The last reference time that something became of.
    """

    def __init__(self, folder: Path, step: np.timedelta64, since: np.datetime64) -> None:
        self._path, self._step, self._since = folder / JOURNAL, step, since
        self._unsaved: list[Outcome] = []
        self._decided: dict[np.datetime64, str] = {}
        self._times: np.ndarray | None = None
        self._failing = False
        self.last: Outcome | None = None
        self.newest: np.datetime64 | None = None
        for outcome in self._read():
            self._take(outcome)

    def decided(self, time: np.datetime64) -> bool:
        """Whether something became of a reference time."""
        return time in self._decided

    @property
    def times(self) -> np.ndarray:
        """All reference times that something became of, in order."""
        if self._times is None:
            self._times = np.array(sorted(self._decided), dtype="datetime64[ns]")
        return self._times

    def forget_before(self, since: np.datetime64) -> None:
        """Have what is older in the file alone."""
        self._since = since
        if self.times.size and self.times[0] < since:
            self._decided = {time: outcome for time, outcome in self._decided.items() if time >= since}
            self._times = None

    def reopen(self, since: np.datetime64) -> None:
        """Forget that later reference times were skipped: the clock was ahead then."""
        self._decided = {
            time: outcome for time, outcome in self._decided.items() if time <= since or outcome == PUBLISHED
        }
        self._times = None

    def add(self, *outcomes: Outcome) -> None:
        """Keep outcomes; what cannot be written now is written with the next, or by `save`."""
        for outcome in outcomes:
            self._take(outcome)
            self._unsaved.append(outcome)
        self.save()

    def save(self) -> None:
        """Write what could not be written before."""
        if not self._unsaved:
            return
        text = "".join(f"{outcome.as_text()}\n" for outcome in self._unsaved)
        try:
            _append(self._path, text.encode())
        except OSError as error:
            if not self._failing:
                logger.error("%s cannot be written: %s; what is decided is kept in memory", JOURNAL, error)
            self._failing = True
            return
        if self._failing:
            logger.info("%s is written again", JOURNAL)
        self._unsaved, self._failing = [], False

    def _take(self, outcome: Outcome) -> None:
        last = outcome.time if outcome.last is None else outcome.last
        if self.newest is None or last > self.newest:
            self.newest = last
        steps = max(0, int(np.ceil((self._since - outcome.time) / self._step)))  # that are too old
        times = np.arange(outcome.time + steps * self._step, last + self._step, self._step)
        self._decided |= dict.fromkeys(times.astype("datetime64[ns]"), outcome.outcome)
        self._times = None
        if self.last is None or last >= (self.last.last or self.last.time):
            self.last = outcome

    def _read(self) -> Iterable[Outcome]:
        """What the file holds; a line that a crash cut short is taken off its end."""
        if not self._path.is_file():
            return []
        lines = self._path.read_bytes().splitlines(keepends=True)
        if not lines:
            return []
        kept = lines[-LONGEST // 2 :] if len(lines) > LONGEST else lines
        outcomes = []
        for line in kept:
            try:
                outcomes.append(Outcome.of_text(line.decode()))
            except ValueError as error:
                logger.warning("%s: %s", self._path.name, error)
        if len(outcomes) < len(lines) or not lines[-1].endswith(b"\n"):
            with written_whole(self._path) as partial:
                Path(partial).write_text("".join(f"{outcome.as_text()}\n" for outcome in outcomes))
        return outcomes


def _append(path: Path, data: bytes) -> None:
    """Add to a file and bring it to disk, all or nothing.

    Raises:
        OSError: If the disk is full or cannot be written to.
    """
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        end = os.fstat(handle).st_size
        try:
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)
