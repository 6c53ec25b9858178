"""Training windows cut out once: packed, in one file that is mapped into memory.

A cache is a folder ``<store>-<split>-<digest>`` with ``windows.npy``, (N, T, H, W) in the numbers of the
store, and ``about.json``. The digest is that of the windows (their times and places) and of what the store
says of itself, so a store that was prepared anew, or other windows, get a cache of their own; older ones stay
until somebody removes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.schema import RefusedInput, iso
from nowcast.training.packed import PackedArchive

logger = logging.getLogger(__name__)

GIB = 2**30
LARGEST_BOX = 2**28
"""Cells read at once at most (half a GiB of uint16)."""


@dataclass(frozen=True)
class Windows:
    """Where windows lie in their store, all of one size.

    Attributes:
        time: Of the first frame, datetime64, (N,).
        start: Number of that frame, (N,).
        row: First row, (N,).
        column: First column, (N,).
        frames: Frames of a window.
        height: Rows of a window.
        width: Columns of a window.
    """

    time: np.ndarray
    start: np.ndarray
    row: np.ndarray
    column: np.ndarray
    frames: int
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.start)

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a window."""
        return self.frames, self.height, self.width

    def box(self, number: int) -> tuple[slice, slice, slice]:
        """The cells of a window in its store."""
        corner = (int(axis[number]) for axis in (self.start, self.row, self.column))
        frames, rows, columns = (slice(a, a + n) for a, n in zip(corner, self.size, strict=True))
        return frames, rows, columns


class CropCache:
    """The windows in a cache, mapped on first use and anew in every process.

    Args:
        folder: The cache.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "windows.npy"
        self._windows: np.ndarray | None = None

    def __getitem__(self, number: int) -> np.ndarray:
        """A window (T, H, W), mapped."""
        return self.windows[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_windows": None}

    @property
    def windows(self) -> np.ndarray:
        """All of them, (N, T, H, W), mapped."""
        if self._windows is None:
            self._windows = np.load(self.file, mmap_mode="r").view(np.ndarray)
        return self._windows


def crop_cache(folder: str | Path, *, archive: PackedArchive, windows: Windows, split: str) -> CropCache:
    """The cache of some windows, which are cut now if there is none.

    One process cuts, others wait. A cache appears whole; what a killed process left is not taken for one.

    Args:
        folder: Where caches lie: a local disk, best a fast one.
        archive: The rates.
        windows: Which windows.
        split: What they are for.

    Raises:
        RefusedInput: If the disk has no room, the folder cannot be written, or the cache is not what the
            store holds.
    """
    about = _about(archive, windows)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]
    place = Path(folder) / f"{Path(archive.store).stem}-{split}-{digest}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            if not place.exists():
                _cut(place, archive, windows, about={"store": str(Path(archive.store).resolve()), **about})
    except OSError as error:
        raise RefusedInput(
            "data.cache is a folder on a local disk that can be written",
            came=f"{folder} ({error})",
            do="choose another data.cache, or train without one",
        ) from error
    cache = CropCache(place)
    _refuse_other_windows(cache, archive, windows)
    return cache


def _about(archive: PackedArchive, windows: Windows) -> dict[str, Any]:
    """What a cache depends on, in plain values."""
    table = np.stack([windows.time.astype("datetime64[s]").astype(np.int64), windows.row, windows.column])
    return {
        "windows": len(windows),
        "size": windows.size,
        "first": iso(windows.time[0]),
        "last": iso(windows.time[-1]),
        "index": hashlib.sha256(np.ascontiguousarray(table, dtype="<i8").tobytes()).hexdigest(),
        "archive": archive.description(),
    }


def _cut(place: Path, archive: PackedArchive, windows: Windows, *, about: dict[str, Any]) -> None:
    """Write beside the place, and move there what is complete."""
    shape, dtype = (len(windows), *windows.size), archive.dtype
    size = prod(shape) * dtype.itemsize
    _refuse_full_disk(place.parent, size, about=f"{len(windows)} windows")
    logger.info("cutting %d windows into %s (%.1f GiB)", len(windows), place, size / GIB)
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with (partial / "windows.npy").open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for number, window in enumerate(_read(archive, windows), start=1):
                # Written and not mapped: a full disk is then an error, and not the end of the process.
                file.write(np.ascontiguousarray(window).data)
                if number * 10 // len(windows) > (number - 1) * 10 // len(windows):
                    logger.info("%d of %d windows", number, len(windows))
            file.flush()
            os.fsync(file.fileno())
        text = json.dumps({"software": f"nowcast {version('nowcast')}", **about}, indent=1, default=str)
        (partial / "about.json").write_text(text)
        os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(archive: PackedArchive, windows: Windows) -> Iterator[np.ndarray]:
    """All windows in order; neighbours of one time in one go where that is less to read."""
    for _, group in groupby(range(len(windows)), key=lambda number: windows.start[number]):
        numbers = list(group)
        boxes = [windows.box(number) for number in numbers]
        around = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis))
                       for axis in zip(*boxes, strict=True))  # fmt: skip
        cells = prod(side.stop - side.start for side in around)
        if cells > min(LARGEST_BOX, len(boxes) * prod(windows.size)):
            yield from (archive[box] for box in boxes)
            continue
        rates = archive[around]  # type: ignore[index]
        for _, rows, columns in boxes:
            row, column = rows.start - around[1].start, columns.start - around[2].start
            yield rates[:, row : row + windows.height, column : column + windows.width]


def _refuse_full_disk(folder: Path, needed: int, *, about: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RefusedInput(
            f"the cache of {about} needs {needed / GIB:.1f} GiB",
            came=f"{free / GIB:.1f} GiB free in {folder}",
            do="choose another data.cache, prepare fewer windows, or train without a cache",
        )


def _refuse_other_windows(cache: CropCache, archive: PackedArchive, windows: Windows) -> None:
    """Compare the first, the middle and the last window with the store."""
    try:
        fits = cache.windows.shape == (len(windows), *windows.size) and cache.windows.dtype == archive.dtype
    except (OSError, EOFError, ValueError):
        fits = False
    for number in {0, len(windows) // 2, len(windows) - 1} if fits else ():
        fits &= cache[number].tobytes() == archive[windows.box(number)].tobytes()
    if not fits:
        raise RefusedInput(
            f"a crop cache holds the windows of its store, {archive.store}",
            came=f"{cache.file}, which is damaged or of other data",
            do="remove that folder; it is made anew",
        )


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait for other processes that are at the same cache. The lock of a killed one is free."""
    with place.with_name(f".{place.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            logger.info("waiting for another process that cuts %s", place)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
