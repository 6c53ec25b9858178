"""Radar files become frames: one module per file format, found by content.

A *frame* is an `xarray.DataArray` with dims ``(y, x)``, north first, float32, in the unit of the file:
``units`` is ``mm`` (with ``accumulation_minutes``), ``dBZ`` or ``mm h-1`` (with ``accumulation_minutes``
where the header says over which time the rate is a mean). NaN is no data; dry is 0 mm, 0 mm h-1 or -inf dBZ.
Its coordinates are those of `data_prep.schema.map_coordinates`, a scalar ``time`` (UTC; the end of an
accumulation) from the header, not from the file name, and, where the provider gives one, ``quality_index (y,
x)``: float32, 0 worst to 1 best, NaN unknown.

Another package adds a format by an entry point of the group ``nowcast.readers`` that names a `Reader`. One of
no package is called by its place: ``my_radar:READER`` is the `Reader` of that name in a module.
"""

from __future__ import annotations

import gzip
import logging
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import xarray as xr
from pyproj.exceptions import ProjError

from data_prep.readers.limits import LimitedGzip, refuse_large_file
from data_prep.schema import RefusedInput

GROUP = "nowcast.readers"
BUILT_IN = tuple(
    EntryPoint(name, f"data_prep.readers.{name}:READER", GROUP)
    for name in (
        "knmi_hdf5", "odim_hdf5", "fmi_pgm", "fmi_geotiff", "mch_gif", "radolan", "nimrod", "mrms_grib2",
        "meteonet_npz", "cf_grid", "deepmind_tfrecord",
    )
)  # fmt: skip
"""In the order in which they are asked whether a file is their own: the general ones last."""
HEAD_BYTES = 4096
"""How much of a file's content a reader sees when it is asked whether the file is its own."""

logger = logging.getLogger(__name__)


class Reader(NamedTuple):
    """One file format. Readers run in several threads at once: what is not safe there takes a lock.

    Attributes:
        name: Name of the format.
        detect: Whether a file is of this format, from the first `HEAD_BYTES` of its content (decompressed)
            and its path. Refuses a file that it knows but that is damaged. A folder (Zarr) has no head.
        read_times: Times of the frames in the file, datetime64[ns] of shape (frames,), from the header alone.
        read_frames: The frames of the given numbers, in that order, one at a time. Both refuse a file with
            `RefusedInput`.
    """

    name: str
    detect: Callable[[bytes, Path], bool]
    read_times: Callable[[Path], np.ndarray]
    read_frames: Callable[[Path, Sequence[int]], Iterator[xr.DataArray]]


def single_frame_reader(
    name: str,
    detect: Callable[[bytes, Path], bool],
    read_time: Callable[[Path], np.datetime64],
    read: Callable[[Path], xr.DataArray],
) -> Reader:
    """The reader of a format whose files hold one frame each, from the functions for that frame."""

    def read_times(path: Path) -> np.ndarray:
        return np.array([read_time(path)], dtype="datetime64[ns]")

    def read_frames(path: Path, numbers: Sequence[int]) -> Iterator[xr.DataArray]:
        return (read(path) for _ in numbers)

    return Reader(name, detect, read_times, read_frames)


def find_reader(path: str | Path) -> Reader:
    """The reader for a file, found by its content.

    Raises:
        RefusedInput: If there is no such file, it is empty or damaged, or no reader knows its content.
    """
    path = Path(path)
    head = b""
    if not path.is_dir():
        with open_content(path) as content:
            head = content.read(HEAD_BYTES)
    if not head and not path.is_dir():
        raise RefusedInput("a radar file has content", came=f"{path} is empty", do="fetch the file again")
    for reader in _readers().values():
        if reader.detect(head, path):
            return reader
    raise RefusedInput(
        f"a radar file is of a known format ({', '.join(_readers())})",
        came=f"{path}, which begins with {head[:16]!r}",
        do="leave it out, or name a reader of your own, module:NAME, in the prep configuration",
    )


def get_reader(name: str) -> Reader:
    """The reader of a name; ``pysteps:`` and an importer make one of `data_prep.readers.pysteps_bridge`.

    Args:
        name: Of a built-in or installed reader, or ``module:NAME`` for any other.

    Raises:
        RefusedInput: If there is none of that name.
    """
    if name.startswith("pysteps:"):
        # It builds on this module.
        from data_prep.readers.pysteps_bridge import pysteps_reader

        return pysteps_reader(name)
    if ":" in name:
        return _reader_at(name)
    if name not in _readers():
        raise RefusedInput(
            f"a reader is one of {', '.join(_readers())}, or module:NAME", came=name, do="choose one of them"
        )
    return _readers()[name]


def read(path: str | Path, number: int = 0) -> xr.DataArray:
    """Read one frame of a radar file of any known format.

    Args:
        path: The file.
        number: Of the frame in the file, counted from 0.

    Returns:
        A frame, dims (y, x), in the unit of the file.

    Raises:
        RefusedInput: If the file is absent, damaged, of an unknown format, or its header lacks something.
    """
    return next(iter(find_reader(path).read_frames(Path(path), [number])))


@contextmanager
def open_content(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, looking through gzip; whatever goes wrong inside is refused by name.

    Raises:
        RefusedInput: If the file cannot be opened, is no plain file or too large, or its compressed content
            is cut short, damaged, or more than `limits.LARGEST_FILE` bytes.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            # To open a pipe would wait for somebody to write to it.
            raise damaged(path, "it is no plain file")
        refuse_large_file(state.st_size, path)
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield cast(BinaryIO, LimitedGzip(raw, path)) if compressed else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise RefusedInput(
            "a radar file can be opened", came=f"{path} ({error.strerror or error})", do="check the path"
        ) from error


def damaged(path: Path, finding: object) -> RefusedInput:
    """The refusal of a file that is cut short or corrupt."""
    return RefusedInput(
        "a radar file is complete", came=f"{path} ({finding})", do="fetch the file again, or leave it out"
    )


def incomplete(path: Path, finding: object) -> RefusedInput:
    """The refusal of a file whose header lacks something or says what this reader does not handle."""
    return RefusedInput(
        "the header of a radar file says what the reader needs",
        came=f"{path} ({finding})",
        do="compare it with a file that is read, or leave it out",
    )


def in_nanoseconds(times: Any) -> Any:
    """Times as datetime64[ns], in which numpy lets those of other centuries come out as times of this one.

    Args:
        times: numpy.datetime64 in seconds or the like, of any shape.

    Raises:
        ValueError: If one lies beyond what nanoseconds reach, the years 1678 to 2261.
    """
    exact = times.astype("datetime64[ns]")
    if ((exact.astype(times.dtype) != times) & ~np.isnat(times)).any():
        raise ValueError("a time that is not of the years 1678 to 2261")
    return exact


def frame(
    values: np.ndarray, *, time: np.datetime64, coordinates: dict[str, xr.DataArray], attributes: dict
) -> xr.DataArray:
    """Dress the values of one file as a frame.

    Args:
        values: float32, shape (Y, X), north first.
        time: Time of the frame, UTC.
        coordinates: Of `data_prep.schema.map_coordinates`.
        attributes: With ``units`` and, for ``mm``, ``accumulation_minutes``.
    """
    stamp = xr.DataArray(time.astype("datetime64[ns]"), attrs={"standard_name": "time"})
    bare = xr.DataArray(values, dims=("y", "x"), attrs={**attributes, "grid_mapping": "crs"})
    # Not by the constructor, which copies latitude and longitude for every frame.
    return bare.assign_coords({"time": stamp, **coordinates})


def locate(
    coordinates_of: Callable[[Any], dict[str, xr.DataArray]], grid: Any, path: Path
) -> dict[str, xr.DataArray]:
    """The coordinates of a grid for one file, from a function that remembers them for the next.

    Args:
        coordinates_of: Cached; makes the coordinates, or raises ValueError with its finding.
        grid: Its argument, the geometry in the header.
        path: The file, for the refusal.

    Raises:
        RefusedInput: If PROJ or the function finds the geometry contradictory.
    """
    try:
        return coordinates_of(grid)
    except (ValueError, ProjError) as error:
        raise incomplete(path, error) from error


def _reader_at(place: str) -> Reader:
    """The reader in a module."""
    try:
        found = EntryPoint(place, place, GROUP).load()
    except (ImportError, AttributeError, ValueError) as error:
        raise RefusedInput(
            "a reader module:NAME can be imported",
            came=f"{place} ({error})",
            do="correct it, or set PYTHONPATH",
        ) from error
    if not isinstance(found, Reader):
        raise RefusedInput(
            "module:NAME is a data_prep.readers.Reader", came=f"{place}, {found!r}", do="make one"
        )
    return found


@lru_cache(maxsize=1)
def _readers() -> dict[str, Reader]:
    """Readers by name; a plug-in that cannot be loaded is named in the log and left out."""
    readers = {}
    for entry in (*BUILT_IN, *entry_points(group=GROUP)):
        try:
            readers[entry.name] = entry.load()
        except (ImportError, AttributeError) as error:
            logger.warning("reader %s (%s) cannot be loaded: %s", entry.name, entry.value, error)
    return readers
