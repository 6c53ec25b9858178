"""Frames of a folder that radar files come into: what a forecast is made from, with the values of a store.

Files are read by the very steps that prepare an archive. What differs is that they come one by one, late or
not at all, and may still be growing: a file counts once it has stopped changing, and is read again when it
changes. Nothing is kept but what was read of headers, and the frames that were looked at last.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.frames import Batch, Row, load, most_common_grid, rain_on
from data_prep.pipeline import Recipe
from data_prep.quality import FRAME_MARKS, FrameSummary, mark_frame
from data_prep.schema import RefusedInput, iso
from data_prep.sources import Entry, Refusal, choose, find_files, read_headers
from data_prep.store import Grid, unpack

COMPARED_STEPS = 2
"""Time steps over which a frame is compared with an earlier one; beyond, rain may have changed by itself."""
KEPT_STEPS = 8
"""Time steps, counted back from the newest frame, of which the values are kept."""
RETRY_SECONDS = 60.0
MOST_TRIES = 5
"""How often a file that cannot be read is read, unless it changes."""
REACH = np.timedelta64(6, "h")
"""How far back of the present frames are of use."""


class Stamp(NamedTuple):
    """What tells that a file has changed."""

    written: int
    size: int
    inode: int


class Loaded(NamedTuple):
    """A frame as a store would hold it."""

    row: Row
    packed: np.ndarray


@dataclass(frozen=True)
class Window:
    """Frames at consecutive times of the clock, some of which may be missing.

    Attributes:
        rain: Rain array, mm/h, (time, y, x), with the attributes of the recipe; a missing frame is all NaN.
        reasons: By time, why a frame is missing; nothing for one that is there.
        files: By time, the name of the frame's file; nothing for a missing one.
    """

    rain: xr.DataArray
    reasons: tuple[str, ...]
    files: tuple[str, ...]


class Retries:
    """Which files that could not be read are to be read again: the disk or their rights may have been it."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[float, int]] = {}

    def note(self, path: str, elapsed: float, *, failed: bool) -> None:
        """A file was read, or could not be."""
        if failed:
            self._failed[path] = (elapsed, self._failed.get(path, (0.0, 0))[1] + 1)
        else:
            self._failed.pop(path, None)

    def is_due(self, path: str, elapsed: float) -> bool:
        """Whether a file is to be read again."""
        when, times = self._failed.get(path, (0.0, 0))
        return 0 < times < MOST_TRIES and elapsed - when >= RETRY_SECONDS


class LiveFrames:
    """Frames of a folder, as they come.

    Args:
        source: Folder of radar files.
        recipe: How they are prepared; it says the time step.
        settle_seconds: A file counts once it has not changed for so long.
        newest_files: Of more files than this, those that were written last are looked at.
        offset_minutes: Of the times of the frames from full steps since midnight.
        future_minutes: How far ahead of the clock a frame may be.
        until: Frames later than this are passed over without a word.

    Attributes:
        step: Time step of the frames.
        came_too_old: Where all frames are out of reach, the newest that came since the last look.

    Raises:
        RefusedInput: If the source is no folder, or the recipe does not say the time step.
    """

    def __init__(
        self,
        source: str | Path,
        recipe: Recipe,
        *,
        settle_seconds: float = 1.0,
        newest_files: int | None = None,
        offset_minutes: float = 0.0,
        future_minutes: float = 2.0,
        until: np.datetime64 | None = None,
    ) -> None:
        if not Path(source).is_dir():
            raise RefusedInput("source is a folder of radar files", came=source, do="give an existing folder")
        if recipe.step is None:
            raise RefusedInput(
                "the recipe of a live source says time_step_minutes", came="none", do="set it in the recipe"
            )
        self.step = recipe.step
        self._source, self._recipe = Path(source), recipe
        self._settle, self._newest_files = settle_seconds, newest_files
        self._offset, self._future = _minutes(offset_minutes), _minutes(future_minutes)
        self._until = until
        self._seen: dict[str, tuple[Stamp, float]] = {}
        self._read: dict[str, Stamp] = {}
        self._entries: dict[str, list[Entry]] = {}
        self._ahead: set[tuple[Entry, Stamp]] = set()
        self._named: set[Refusal] = set()
        self._frames: dict[int, Entry] = {}
        self.came_too_old: Entry | None = None
        self._newest_old = 0
        self._loaded: dict[tuple[Entry, Stamp], Loaded | str] = {}
        self._unreadable, self._damaged = Retries(), Retries()  # files without a header, and without values
        self._elapsed = 0.0

    def look(self, now: np.datetime64, elapsed: float) -> list[Refusal]:
        """See which frames there are.

        Args:
            now: Time of the clock, UTC.
            elapsed: Seconds since anything, by a clock that never jumps.

        Returns:
            What is refused and was not before.
        """
        stamps, self._elapsed = self._stamps(), elapsed
        self._seen = {
            path: (stamp, self._seen[path][1] if self._is_as_seen(path, stamp) else elapsed)
            for path, stamp in stamps.items()
        }
        settled = [
            path
            for path, (stamp, since) in self._seen.items()
            if (self._read.get(path) != stamp or self._unreadable.is_due(path, elapsed))
            and (elapsed - since >= self._settle or self._is_old(stamp, now))
        ]
        gone = self._read.keys() - stamps.keys()
        for path in (*gone, *settled):
            self._entries.pop(path, None)
            self._read.pop(path, None)
        for path in gone:
            self._unreadable.note(path, elapsed, failed=False)
            self._damaged.note(path, elapsed, failed=False)
        entries, refused = read_headers(settled, self._recipe.reader)
        self._read |= {path: stamps[path] for path in settled}
        failed = {refusal.file for refusal in refused}
        for path in settled:
            self._unreadable.note(path, elapsed, failed=path in failed)
        for entry in entries:
            self._entries.setdefault(entry.path, []).append(entry)
        refused += self._choose(now)
        self.came_too_old = None if self._frames or self._until else self._newest_too_old(entries, now)
        fresh = [refusal for refusal in refused if refusal not in self._named]
        self._named = {refusal for refusal in self._named if refusal.file in stamps} | set(fresh)
        return fresh

    def floor(self, time: np.datetime64) -> np.datetime64:
        """The last time of the frames' clock that is not after a time."""
        since = time.astype("datetime64[ns]") - self._offset - np.datetime64(0, "ns")
        return np.datetime64(0, "ns") + since // self.step * self.step + self._offset

    @property
    def waits(self) -> bool:
        """Whether a file has changed lately and is not read yet."""
        return any(self._read.get(path) != stamp for path, (stamp, _) in self._seen.items())

    @property
    def newest(self) -> np.datetime64:
        """Time of the newest frame, or NaT."""
        return np.datetime64(max(self._frames), "ns") if self._frames else np.datetime64("NaT", "ns")

    def holds(self, time: np.datetime64) -> bool:
        """Whether there is a file with the frame of a time."""
        return _nanoseconds(time) in self._frames

    def waited(self, time: np.datetime64) -> float:
        """Seconds between the arrival of the file of a frame, as far as it was watched, and the last look."""
        return self._elapsed - self._seen[self._frames[_nanoseconds(time)].path][1]

    def forget_future(self) -> None:
        """Judge frames anew that were refused for being ahead of the clock: the clock was wrong."""
        self._ahead.clear()

    def window(self, time: np.datetime64, count: int, *, doubted: Sequence[str] = ()) -> Window:
        """The frames at some times of the clock.

        A frame counts as missing if its file is absent or cannot be read, if it lies on another grid than
        most, or carries a mark that is doubted, compared with the last good frame up to two steps earlier.

        Args:
            time: Of the last of them.
            count: How many.
            doubted: Of `quality.FRAME_MARKS`: frames with one of these count as missing.

        Raises:
            RefusedInput: If none of them can be read.
        """
        times = time - self.step * np.arange(count - 1, -1, -1)
        frames = [self._frame(moment) for moment in times]
        grids = [frame.row.grid for frame in frames if isinstance(frame, Loaded)]
        if not grids:
            raise RefusedInput(
                f"one or more of {count} frames can be read", came=str(frames[-1]), do="look at the source"
            )
        grid = most_common_grid(grids)
        bits = sum(FRAME_MARKS[name] for name in doubted)
        frames = _without_doubted(_on_grid(frames, grid), self._recipe, bits)
        missing = [frame if isinstance(frame, str) else "" for frame in frames]
        files = [Path(frame.row.entry.path).name if isinstance(frame, Loaded) else "" for frame in frames]
        rain = self._as_rain(frames, grid, times)
        self._forget_old()
        return Window(rain, tuple(missing), tuple(files))

    def _newest_too_old(self, entries: list[Entry], now: np.datetime64) -> Entry | None:
        """Of frames that came now, the newest that is out of reach, unless a newer one was told before."""
        old = [entry for entry in entries if self._newest_old < entry.time < _nanoseconds(now - REACH)]
        newest = max(old, key=lambda entry: entry.time, default=None)
        self._newest_old = newest.time if newest else self._newest_old
        return newest

    def _is_old(self, stamp: Stamp, now: np.datetime64) -> bool:
        return _nanoseconds(now) - stamp.written >= self._settle * 1e9

    def _is_as_seen(self, path: str, stamp: Stamp) -> bool:
        return path in self._seen and self._seen[path][0] == stamp

    def _stamps(self) -> dict[str, Stamp]:
        """The files there are, in order of their paths; one may go while they are listed."""
        try:
            paths = find_files(self._source, self._recipe.pattern)
        except RefusedInput:
            return {}  # an empty folder, or one that is out of reach for now
        found = {}
        for path in paths:
            try:
                told = Path(path).stat()
            except OSError:
                continue
            found[path] = Stamp(told.st_mtime_ns, told.st_size, told.st_ino)
        if self._newest_files is None or len(found) <= self._newest_files:
            return found
        newest = set(heapq.nlargest(self._newest_files, found, key=lambda path: found[path].written))
        return {path: stamp for path, stamp in found.items() if path in newest}

    def _choose(self, now: np.datetime64) -> list[Refusal]:
        """One frame for each time of the clock, within reach of the present."""
        least, limit = _nanoseconds(now - REACH), _nanoseconds(now + self._future)
        until = limit if self._until is None else _nanoseconds(self._until)
        refused: list[Refusal] = []
        kept: list[Entry] = []
        for path, entries in self._entries.items():
            for entry in entries:
                key = (entry, self._read[path])
                if entry.time > limit and self._until is None:
                    self._ahead.add(key)
                if key in self._ahead and entry.time >= least:
                    refused.append(Refusal(path, iso(entry.stamp), "its time was in the future when it came"))
                elif least <= entry.time <= until:
                    kept.append(entry)
        anchor = np.array([self.floor(now)])
        chosen, more, _ = choose(kept, step=self.step, stored=anchor, now=now, longest_gap=2 * REACH)
        self._ahead = {key for key in self._ahead if self._read.get(key[0].path) == key[1]}
        self._frames = {entry.time: entry for entry in chosen}
        # The clock is named without the time that it is counted from here, which moves.
        return refused + [one._replace(reason=one.reason.partition(" that holds ")[0]) for one in more]

    def _frame(self, time: np.datetime64) -> Loaded | str:
        """The frame of a time, or why there is none."""
        entry = self._frames.get(_nanoseconds(time))
        if entry is None:
            return "no file"
        key = (entry, self._read[entry.path])
        if key not in self._loaded or self._damaged.is_due(entry.path, self._elapsed):
            found = self._loaded[key] = _single(load([entry], self._recipe.conversion))
            self._damaged.note(entry.path, self._elapsed, failed=isinstance(found, str))
        return self._loaded[key]

    def _forget_old(self) -> None:
        """Keep the values of the newest frames alone: the next window holds them again."""
        least = _nanoseconds(self.newest - KEPT_STEPS * self.step)
        self._loaded = {key: frame for key, frame in self._loaded.items() if key[0].time >= least}

    def _as_rain(self, frames: list[Loaded | str], grid: Grid, times: np.ndarray) -> xr.DataArray:
        shape = (len(frames), grid.y.size, grid.x.size)
        values = np.full(shape, np.nan, np.float32)
        for value, frame in zip(values, frames, strict=True):
            if isinstance(frame, Loaded):
                value[:] = unpack(frame.packed)
        return rain_on(grid, values, times, self._recipe.about)


def _single(batch: Batch) -> Loaded | str:
    if batch.head.refused:
        return batch.head.refused[0].reason
    return Loaded(batch.head.rows[0], batch.packed[0])


def _on_grid(frames: list[Loaded | str], grid: Grid) -> list[Loaded | str]:
    return [
        f"it lies on another grid: {frame.row.grid}"
        if isinstance(frame, Loaded) and not frame.row.grid.same(grid)
        else frame
        for frame in frames
    ]


def _without_doubted(frames: list[Loaded | str], recipe: Recipe, doubted: int) -> list[Loaded | str]:
    """Frames with a doubted mark become the reason why they are missing."""
    good: tuple[int, FrameSummary] | None = None
    judged: list[Loaded | str] = []
    for number, frame in enumerate(frames):
        if isinstance(frame, str):
            judged.append(frame)
            continue
        near = good is not None and number - good[0] <= COMPARED_STEPS
        marks = mark_frame(frame.row.summary, good[1] if good is not None and near else None, recipe.quality)
        names = [name for name, bit in FRAME_MARKS.items() if marks & doubted & bit]
        judged.append(f"it is marked {', '.join(names)}" if names else frame)
        if not names:
            good = (number, frame.row.summary)
    return judged


def _nanoseconds(time: np.datetime64) -> int:
    return int(time.astype("datetime64[ns]").astype(np.int64))


def _minutes(count: float) -> np.timedelta64:
    return np.timedelta64(round(count * 60), "s")
