"""Batches of frames become a store: cut to its shards, written by several workers, committed in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.frames import Batch, Head, Row, head_of
from data_prep.parallel import Tasks
from data_prep.quality import FrameSummary, Quality, mark_frame
from data_prep.report import Report
from data_prep.schema import RefusedInput, iso, missing_from_clock, open_frames, open_store
from data_prep.sources import Clock, Entry, Refusal
from data_prep.store import (
    Grid,
    clear_uncommitted,
    commit,
    grid_of,
    move_into_place,
    partial_path,
    reserve,
    shard_frames,
    shard_frames_for,
    write_marks,
    write_rates,
)

logger = logging.getLogger(__name__)

WRITTEN = np.empty((0, 0), dtype=np.uint16)
"""What a batch holds in place of a frame that was written."""


class Piece(NamedTuple):
    """Some frames of a batch: those of ``numbers``, with what is known of each."""

    batch: Any
    numbers: tuple[int, ...]
    rows: list[Row]
    marks: list[int]


@dataclass(frozen=True)
class Plan:
    """How a store is made.

    Attributes:
        create: Makes one without frames, from its folder, grid and first time.
        split: Split of frames, from their times.
        quality: When a frame is marked.
        name: What the store calls a frame's file.
        clock: Its regular clock.
        grid: The cells of a new store; those of the first frame where none is given.
        frames: How many frames there may be.
    """

    create: Callable[[Path, Grid, np.datetime64], None]
    split: Callable[[np.ndarray], np.ndarray]
    quality: Quality
    name: Callable[[Entry], str]
    clock: Clock
    grid: Grid | None
    frames: int


class Assembly:
    """Adds batches to a store, in order of time.

    A shard is written when all its frames are there, and by one worker; readers see it once all before it
    are committed. So a run that is killed loses what was under way, and the next writes the same.
    """

    def __init__(self, store: Path, plan: Plan, tasks: Tasks, report: Report) -> None:
        self._store, self._plan, self._tasks, self._report = store, plan, tasks, report
        self._pieces: deque[Piece] = deque()
        self._waiting = 0
        self._writing: deque[tuple[Any, int, list[Piece]]] = deque()
        self._count = 0
        self._grid = plan.grid
        self._last: np.datetime64 | None = None
        self._before: FrameSummary | None = None
        self._marked: np.datetime64 | None = None
        self._missing = np.array([], dtype="datetime64[ns]")
        self._shard = self._room = 0
        self._same: Grid | None = None
        if store.exists():
            self._continue()

    def _continue(self) -> None:
        stored, frames = open_store(self._store), open_frames(self._store)
        if frames is None:
            raise RefusedInput(
                "a store to append to tells where its frames came from",
                came=f"{self._store}, without a group frames",
                do="prepare it anew",
            )
        self._count, self._grid = stored.sizes["time"], grid_of(self._store)
        self._last, self._missing = stored["time"].values[-1], stored["missing_times"].values
        clear_uncommitted(self._store)
        last = frames.isel(time=-1)
        self._before = FrameSummary(*(last[name].item() for name in FrameSummary._fields))
        self._marked = self._last
        self._shard = shard_frames(self._store)

    def add(self, batch: Any) -> None:
        """Add a batch that a task is loading; frames on another grid are refused."""
        head: Head = self._tasks.fetch(batch, head_of)
        self._report.refuse(head.refused)
        numbers = tuple(n for n, row in enumerate(head.rows) if self._is_on_grid(row))
        if not numbers:
            return
        rows = [head.rows[n] for n in numbers]
        self._pieces.append(Piece(batch, numbers, rows, [self._mark(row) for row in rows]))
        self._waiting += len(rows)
        self._report.tally = sum((row.tally for row in rows), self._report.tally)
        while self._waiting >= (room := self._shard - self._next() % self._shard):
            self._write(room)

    def finish(self) -> int:
        """Write what does not fill a shard, and commit everything; the number of frames in the store."""
        if self._waiting:
            self._write(self._waiting)
        self._commit(down_to=0)
        if self._store.exists():
            clear_uncommitted(self._store)
        return self._count

    def _is_on_grid(self, row: Row) -> bool:
        """Whether a frame lies on the store's grid; refuses it if not."""
        if self._grid is None:
            self._grid = row.grid
        if row.grid is not self._same and not self._grid.same(row.grid):
            reason = f"it lies on another grid: {row.grid}; the archive on {self._grid}"
            self._report.refuse([Refusal(row.entry.path, iso(row.entry.stamp), reason)])
            return False
        self._same = row.grid
        self._shard = self._shard or shard_frames_for(self._grid)
        return True

    def _mark(self, row: Row) -> int:
        adjacent = self._marked is not None and row.entry.stamp - self._marked == self._plan.clock.step
        marks = mark_frame(row.summary, self._before if adjacent else None, self._plan.quality)
        self._before, self._marked = row.summary, row.entry.stamp
        self._report.mark(row.entry.stamp, marks)
        return marks

    def _next(self) -> int:
        """Number of the first frame that is not being written."""
        return self._count + sum(len(piece.rows) for _, _, pieces in self._writing for piece in pieces)

    def _take(self, count: int) -> list[Piece]:
        """The next frames, out of the batches they came in."""
        taken = []
        self._waiting -= count
        while count:
            piece = self._pieces.popleft()
            first = Piece(piece.batch, piece.numbers[:count], piece.rows[:count], piece.marks[:count])
            if len(piece.rows) > count:
                rest = Piece(piece.batch, piece.numbers[count:], piece.rows[count:], piece.marks[count:])
                self._pieces.appendleft(rest)
            taken.append(first)
            count -= len(first.rows)
        return taken

    def _write(self, count: int) -> None:
        start, pieces = self._next(), self._take(count)
        if not self._store.exists():
            self._create(pieces)
            return
        self._writing.append((self._start_writing(self._store, start, pieces), start, pieces))
        self._commit(down_to=self._tasks.parallel_writes)

    def _start_writing(self, path: Path, start: int, pieces: list[Piece]) -> Any:
        numbers = [piece.numbers for piece in pieces]
        if (end := start + sum(map(len, numbers))) > self._room:
            # For all that may come, because it takes as long as reading some frames.
            self._room = max(end, self._count + self._plan.frames)
            reserve(path, self._room)
        return self._tasks.submit(write_pieces, str(path), start, numbers, *(piece.batch for piece in pieces))

    def _create(self, pieces: list[Piece]) -> None:
        """Make the store with its first shard beside its place, so that it appears whole."""
        partial = partial_path(self._store)
        assert self._grid is not None
        self._plan.create(partial, self._grid, pieces[0].rows[0].entry.stamp)
        self._tasks.fetch(self._start_writing(partial, 0, pieces), bool)
        self._commit_pieces(partial, 0, pieces)
        move_into_place(partial, self._store)

    def _commit(self, *, down_to: int) -> None:
        while len(self._writing) > down_to:
            future, start, pieces = self._writing.popleft()
            self._tasks.fetch(future, bool)
            self._commit_pieces(self._store, start, pieces)

    def _commit_pieces(self, path: Path, start: int, pieces: list[Piece]) -> None:
        rows = [row for piece in pieces for row in piece.rows]
        times = np.array([row.entry.stamp for row in rows], dtype="datetime64[ns]")
        since = times if self._last is None else np.concatenate([[self._last], times])
        self._missing = np.concatenate([self._missing, missing_from_clock(since, self._plan.clock.step)])
        self._last = times[-1]
        table = {
            "time": times,
            "split": self._plan.split(times),
            "source": np.array([self._plan.name(row.entry) for row in rows], dtype=object),
            "reader": np.array([row.entry.reader for row in rows], dtype=object),
            **{name: np.array([getattr(row.summary, name) for row in rows]) for name in FrameSummary._fields},
            "marks": np.array([mark for piece in pieces for mark in piece.marks], dtype=np.uint8),
        }
        commit(path, start, table, self._missing)
        self._count = start + len(rows)
        self._report.written += len(rows)
        self._report.readers.update(row.entry.reader for row in rows)
        logger.info("%d frames, to %s", self._report.written, iso(times[-1]))


def write_pieces(path: str, start: int, numbers: list[tuple[int, ...]], *batches: Batch) -> bool:
    """Write the frames of the given numbers out of each batch, one after the other."""
    wanted = [(batch, n) for batch, which in zip(batches, numbers, strict=True) for n in which]
    grid = wanted[0][0].head.rows[wanted[0][1]].grid
    packed = np.empty((len(wanted), grid.y.size, grid.x.size), dtype=np.uint16)
    for frame, (batch, n) in zip(packed, wanted, strict=True):
        frame[:] = batch.packed[n]
        batch.packed[n] = WRITTEN  # a shard is large: it is not held twice
    write_rates(path, start, packed)
    del packed
    write_marks(path, start, [batch.cells[n] for batch, n in wanted])
    return True
