"""What a folder of radar files holds: which frame is where and when, by the headers, and what is refused."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import readers
from data_prep.schema import RefusedInput, iso, minutes

FUTURE = np.timedelta64(15, "m")
"""How far ahead of this machine's clock a frame may be: clocks differ."""
MARKERS = ("zarr.json", ".zgroup", ".zattrs")
"""Files that make a folder a Zarr archive, which is one file to a reader."""


class Entry(NamedTuple):
    """One frame of an archive.

    Attributes:
        time: By the header, nanoseconds since 1970 (a number, because an archive has a million of them).
        path: The file.
        number: Of the frame in the file.
        reader: Name of the reader that knows the file.
    """

    time: int
    path: str
    number: int
    reader: str

    @property
    def stamp(self) -> np.datetime64:
        """The time, datetime64[ns]."""
        return np.datetime64(self.time, "ns")


class Refusal(NamedTuple):
    """A frame or a file that is not in the store.

    Attributes:
        file: Path below the source folder.
        time: ISO 8601 where the header gave one.
        reason: One line.
    """

    file: str
    time: str | None
    reason: str


class Clock(NamedTuple):
    """A regular clock: its step, and one of its times."""

    step: np.timedelta64
    origin: np.datetime64


def find_files(source: str | Path, pattern: str, *, store: Path | None = None) -> list[str]:
    """The files below a folder that match a pattern, sorted; a Zarr archive counts as one file.

    Hidden files and folders are left out, and the store that is made. Links to folders are not followed.

    Raises:
        RefusedInput: If there is no folder or no file matches.
    """
    source = Path(source)
    if not source.is_dir():
        raise RefusedInput("--source is a folder of radar files", came=source, do="give an existing folder")
    if _is_zarr(source):
        return [str(source)]
    try:
        found = set(_matching(source, pattern))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise RefusedInput(
            "pattern is a glob below the source, as **/*.h5", came=f"{pattern!r} ({error})", do="correct it"
        ) from error
    paths = sorted(path for path in found if store is None or Path(path).resolve() != store.resolve())
    if not paths:
        raise RefusedInput(
            f"one or more files in --source match the pattern {pattern}",
            came=f"none in {source}",
            do="correct --source or the pattern in the prep configuration",
        )
    return paths


def _matching(source: Path, pattern: str) -> Iterator[str]:
    archives: dict[Path, Path | None] = {source: None}

    def archive_of(folder: Path) -> Path | None:
        """The outermost Zarr archive that a folder is, or is a part of."""
        if folder not in archives:
            above = archive_of(folder.parent)
            archives[folder] = above or (folder if _is_zarr(folder) else None)
        return archives[folder]

    found = set()
    for path in source.glob(pattern):
        if any(part.startswith(".") for part in path.relative_to(source).parts):
            continue  # half-written files and locks
        archive = archive_of(path if path.is_dir() else path.parent)
        if archive is not None:
            found.add(str(archive))
        elif not path.is_dir():
            yield str(path)
    yield from found


def _is_zarr(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in MARKERS)


def read_headers(paths: Iterable[str], reader: str | None) -> tuple[list[Entry], list[Refusal]]:
    """The frames in some files, by their headers.

    Args:
        paths: The files.
        reader: Name of the reader; the content of each file decides where none is given.
    """
    entries, refused = [], []
    for path in paths:
        if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
            refused.append(Refusal(path, None, "it is neither a file nor a folder"))
            continue
        try:
            known = readers.get_reader(reader) if reader else readers.find_reader(path)
            times = known.read_times(Path(path)).astype("datetime64[ns]").astype(np.int64)
            entries += [Entry(int(time), path, n, reader or known.name) for n, time in enumerate(times)]
        except RefusedInput as error:
            refused.append(Refusal(path, None, str(error)))
        except Exception as error:  # noqa: BLE001 (one bad file must not end the preparation of a million)
            refused.append(Refusal(path, None, f"the reader failed: {type(error).__name__}: {error}"))
    return entries, refused


def choose(
    entries: list[Entry],
    *,
    step: np.timedelta64 | None,
    stored: np.ndarray,
    now: np.datetime64,
    longest_gap: np.timedelta64,
) -> tuple[list[Entry], list[Refusal], Clock]:
    """The frames that one regular clock can hold, one for each time, in order; the others are refused.

    Args:
        entries: All frames found.
        step: Step of the clock; the most frequent difference of neighbouring times where none is given.
        stored: Times that a store has already, datetime64[ns]; they set the clock.
        now: Frames later than this are refused.
        longest_gap: Frames that a longer gap separates from most others (or from the store) are refused.

    Raises:
        RefusedInput: If no step can be told.
    """
    refused: list[Refusal] = []

    def keep(those: list[Entry], good: Callable[[Entry], bool], reason: str) -> list[Entry]:
        refused.extend(Refusal(e.path, iso(e.stamp), reason) for e in those if not good(e))
        return [e for e in those if good(e)]

    limit = int((now + FUTURE).astype("datetime64[ns]").astype(np.int64))
    kept = keep(entries, lambda e: e.time <= limit, f"its time is in the future of {iso(now)}")
    beyond = _beyond_jump(kept, stored, longest_gap)
    days = f"{longest_gap / np.timedelta64(1, 'D'):g} days"
    kept = keep(kept, lambda e: e.time not in beyond, f"the clock jumps: more than {days} from the others")
    clock = _clock(kept, stored, step)
    origin, ticks = int(clock.origin.astype(np.int64)), int(clock.step / np.timedelta64(1, "ns"))
    off = f"it lies off the clock of {minutes(clock.step):g} min that holds {iso(clock.origin)}"
    kept = keep(kept, lambda e: (e.time - origin) % ticks == 0, off)
    single: list[Entry] = []
    for _, group in groupby(sorted(kept), key=lambda e: e.time):
        first, *more = group
        single.append(first)
        refused += [
            Refusal(
                e.path, iso(e.stamp),
                f"{'the same bytes as' if _same(e, first) else 'a second file for the time of'} "
                f"{Path(first.path).name}, which is kept",
            )
            for e in more
        ]  # fmt: skip
    return single, refused, clock


def readable_name(path: str) -> str:
    """A path as text that can be printed and stored, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries are of files with the same bytes."""
    if one.number != other.number:
        return False
    try:
        return filecmp.cmp(one.path, other.path, shallow=False)
    except OSError:
        return False


def _beyond_jump(entries: list[Entry], stored: np.ndarray, longest: np.timedelta64) -> set[int]:
    """Times that a jump of the clock separates from the store, or else from most frames."""
    times = np.unique(np.array([entry.time for entry in entries], dtype=np.int64))
    known = stored.astype("datetime64[ns]").astype(np.int64)
    if times.size == 0:
        return set()
    every = np.union1d(times, known)
    cluster = np.concatenate([[0], np.cumsum(np.diff(every) > int(longest / np.timedelta64(1, "ns")))])
    votes = cluster[np.isin(every, known)] if known.size else cluster
    good = int(np.bincount(votes).argmax())
    return set(every[cluster != good].tolist()) & set(times.tolist())


def _clock(entries: list[Entry], stored: np.ndarray, step: np.timedelta64 | None) -> Clock:
    """The clock of a store, or of most of the frames."""
    times = np.unique(np.array([entry.time for entry in entries], dtype=np.int64))
    known = stored.astype("datetime64[ns]").astype(np.int64)
    every = np.union1d(times, known)
    usual = Counter(np.diff(every).tolist()).most_common(1)
    found = np.timedelta64(usual[0][0], "ns") if usual else None
    step = step or found
    if step is None:
        raise RefusedInput(
            "the time step of an archive is known from two or more frames, or from time_step_minutes",
            came=f"{every.size} frame(s)",
            do="set time_step_minutes in the prep configuration",
        )
    if found is not None and found < step and not known.size:
        raise RefusedInput(
            f"frames follow one another at the time step of {minutes(step):g} min",
            came=f"mostly {minutes(found):g} min",
            do="correct time_step_minutes or the pattern in the prep configuration",
        )
    ticks = int(step / np.timedelta64(1, "ns"))
    if known.size:
        return Clock(step, np.datetime64(int(known[0]), "ns"))
    phase = Counter((times % ticks).tolist()).most_common(1)[0][0] if times.size else 0
    return Clock(step, np.datetime64(int(times[times % ticks == phase][0]) if times.size else 0, "ns"))
