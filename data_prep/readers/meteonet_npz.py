"""MeteoNet of Meteo-France: rain or reflectivity of the north-west or south-east of France, 10 days a file.

An npz archive with ``data`` (frames, y, x), north first, and ``dates``, a pickled array of datetimes
(Larvor et al., "MeteoNet", Meteo-France 2020,
https://meteofrance.github.io/meteonet/english/data/rain-radar/). Rainfall is 0.01 mm in 5 minutes, -1 where
there is none. The older reflectivity product is the lower bound of a class in dBZ: 0 below 8 dBZ (-inf
here), 8, 16, 20, 21 and so on to 70; 255 is no data. Nothing in the file says which of the two it is, but
their numbers do. ``miss_dates`` names maps that are not there and is not read.

The documentation does not say whether a date is the start or the end of the 5 minutes. In the published
sample (north-west, 2016-08-21) rainfall correlates with the reflectivity of 5 minutes before at 0.67, of
the same date at 0.84 and of 5 minutes later at 0.56, so the date is taken for the end.

Beside the rainfall there may be the quality code, as a mean of each day in a file of its own. It becomes
the quality index of the rainfall of that day.
"""

from __future__ import annotations

import datetime
import gzip
import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import Reader, damaged, frame, incomplete, locate, open_content
from data_prep.readers.limits import BLOCK, refuse_large_file, refuse_many_frames, too_large, whole
from data_prep.schema import RefusedInput, map_coordinates

DATA, DATES = "data.npy", "dates.npy"
FIRST_CENTRES = {(565, 784): (51.891, -5.837), (515, 784): (46.245, 2.005)}
"""Latitude and longitude of the north-west cell's centre by shape, for NW and SE (``radar_coords_*.npz``)."""
SPACING = 0.01
"""Degrees."""
ACCUMULATION_MINUTES = 5.0
RAIN_STEP = 0.01
"""Millimetres."""
NO_RAIN_DATA = -1
NO_REFLECTIVITY = 255
REFLECTIVITY_CLASSES = (0, 8, 16, *range(20, 71))
"""Lower bounds, dBZ."""
LARGEST_DATES = 1_000_000
"""Bytes of the pickled dates; those of 11 days without a gap are 100 000."""
LONGEST_STATE = 16
"""Bytes of a pickled date; that of a datetime has ten."""
MOST_ENTRIES = 100
"""In an archive, each of which takes memory when it is opened; those of MeteoNet have three."""

_MAGIC, _END, _END_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"
_LONGEST_END = 22 + 65535 + 20
_YEARS = range(1900, 2262)


class _Array(NamedTuple):
    """Header of an array in the archive: shape, type, and the bytes before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class _Frames:
    """The maps in an archive, inflated one at a time."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.header = _array(archive, DATA, path)
        self.path = path
        shape, dtype = self.header.shape, self.header.dtype
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize + self.header.offset
        if dtype.kind not in "iu" or dtype.itemsize > 2 or shape[1:] not in FIRST_CENTRES:
            raise incomplete(path, f"{DATA} {shape} of {dtype}, not maps of {list(FIRST_CENTRES)} cells")
        if archive.getinfo(DATA).file_size != size:
            raise damaged(path, f"{DATA} has {archive.getinfo(DATA).file_size} bytes, not {size}")
        refuse_large_file(size, path)
        refuse_many_frames(shape[0], path)
        state = path.stat()
        _check_whole(path, state.st_size, state.st_mtime_ns)
        self._member = archive.open(DATA)

    def read(self, number: int) -> np.ndarray:
        """Pixels of one map, shape (Y, X); forwards is quick, backwards begins anew."""
        count, rows, columns = self.header.shape
        if number >= count:
            raise damaged(self.path, f"{count} frame(s), none of number {number}")
        size = rows * columns * self.header.dtype.itemsize
        self._member.seek(self.header.offset + number * size)
        content = self._member.read(size)
        if len(content) != size:
            raise damaged(self.path, f"frame {number} has {len(content)} bytes, not {size}")
        return np.frombuffer(content, dtype=self.header.dtype).reshape(rows, columns)


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is an npz archive of data with dates.

    Raises:
        RefusedInput: If it begins as one but cannot be opened, because it is cut short.
    """
    if not head.startswith(_MAGIC):
        return False
    try:
        with _open(path) as archive:
            return {DATA, DATES} <= set(archive.namelist())
    except RefusedInput:
        if head[30 : 30 + len(DATA)] in (DATA.encode(), DATES.encode()):
            raise
        return False


def read_times(path: Path) -> np.ndarray:
    """Times of the frames, UTC; those of rainfall are the ends of the accumulations.

    Raises:
        RefusedInput: If the file is damaged, or its dates are not those of frames.
    """
    with _open(path) as archive:
        dates, count = _dates(archive, path), _array(archive, DATA, path).shape[0]
    if len(dates) != count:
        raise damaged(path, f"{len(dates)} dates of {count} maps")
    if not all(isinstance(date, datetime.datetime) for date in dates):
        raise incomplete(path, "dates without a time of day, as of the quality code: not frames")
    return np.array(dates, dtype="datetime64[ns]")


def read_frames(path: Path, numbers: Sequence[int]) -> Iterator[xr.DataArray]:
    """Accumulated rainfall or reflectivity.

    Yields:
        Frames, dims (y, x), mm in ``accumulation_minutes``, with ``quality_index`` if there is a file of it
        for that day; or dBZ, -inf below 8 dBZ. NaN where there is no data.

    Raises:
        RefusedInput: If the file is damaged, or its values are neither rainfall nor reflectivity.
    """
    times = read_times(path)
    with _open(path) as archive:
        frames = _Frames(archive, path)
        convert = _product(frames, path)
        coordinates = locate(_coordinates, frames.header.shape[1:], path)
        for number in numbers:
            pixels = frames.read(number)
            values, attributes = convert(pixels, path)
            found = frame(values, time=times[number], coordinates=coordinates, attributes=attributes)
            quality = _quality(path, times[number], pixels.shape) if convert is _rainfall else None
            yield found if quality is None else found.assign_coords(quality_index=quality)


READER = Reader("meteonet_npz", detect, read_times, read_frames)


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_content(path) as content:
        try:
            packed = isinstance(content, gzip.GzipFile)
            source = whole(content, path) if packed else content
            _refuse_crowded(source, path)
            with zipfile.ZipFile(source) as archive:
                if any(entry.compress_type not in (0, 8) for entry in archive.infolist()):
                    raise damaged(path, "a compression that numpy does not write")
                yield archive
        except (RefusedInput, OSError, EOFError):
            raise
        except Exception as error:
            # What zipfile and numpy raise for damaged bytes depends on which byte is wrong.
            raise damaged(path, f"{type(error).__name__}: {error}") from error


def _refuse_crowded(content: BinaryIO, path: Path) -> None:
    """Refuse an archive by the number of entries that its end announces (PKWARE, "APPNOTE.TXT", 4.3.16)."""
    size = content.seek(0, io.SEEK_END)
    content.seek(max(0, size - _LONGEST_END))
    end = content.read(_LONGEST_END)
    # Where zipfile finds it: at the very end, else behind the last mark, as a comment may follow.
    at = len(end) - 22 if end[-22:].startswith(_END) and end.endswith(b"\0\0") else end.rfind(_END)
    entries = struct.unpack_from("<H", end, at + 10)[0] if 0 <= at <= len(end) - 22 else 0
    if entries > MOST_ENTRIES or end[: max(at, 0)][-20:].startswith(_END_64):
        raise too_large(path, f"an archive of {entries} entries, more than {MOST_ENTRIES}")
    content.seek(0)


@lru_cache(maxsize=64)
def _check_whole(path: Path, _size: int, _changed: int) -> None:
    """Inflate all maps once, since the checksum over them is compared at their end only.

    Args:
        path: The file.
        _size: Bytes.
        _changed: Time of its last change, ns: a file that changes is checked again.
    """
    with _open(path) as archive, archive.open(DATA) as member:
        while member.read(BLOCK):
            pass


def _array(archive: zipfile.ZipFile, name: str, path: Path) -> _Array:
    with archive.open(name) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise damaged(path, f"{name} is not of version 1.0 of numpy's format")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(member)
        if columns_first or not shape or min(shape) < 1:
            raise incomplete(path, f"{name} of shape {shape}, columns first: {columns_first}")
        return _Array(shape, dtype, member.tell())


def _dates(archive: zipfile.ZipFile, path: Path) -> list[datetime.datetime | datetime.date]:
    header = _array(archive, DATES, path)
    with archive.open(DATES) as member:
        member.seek(header.offset)
        content = member.read(LARGEST_DATES)
    if not header.dtype.hasobject:
        raise incomplete(path, f"{DATES} is of {header.dtype}, not a pickled array")
    dates = _unpickle(content)
    if (len(dates),) != header.shape or any(date.year not in _YEARS for date in dates):
        raise damaged(path, f"{DATES} holds {len(dates)} dates, not {header.shape}, or none of a radar")
    return dates


class _State:
    """Stands for an array or its type while they are unpickled: keeps what would be set on them."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DatesOnly(pickle.Unpickler):
    """Unpickles an array of dates, and calls nothing of numpy to do so; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle.

        Raises:
            pickle.UnpicklingError: If it is not one that an array of dates needs.
        """
        # Functions made anew: a pickle may set attributes on what it finds.
        found: dict[tuple[str, str], Callable] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _State(),
            ("numpy._core.multiarray", "_reconstruct"): lambda *_: _State(),
            ("numpy", "ndarray"): lambda *_: None,
            ("numpy", "dtype"): lambda *_: _State(),
            ("datetime", "datetime"): datetime.datetime,
            ("datetime", "date"): datetime.date,
            ("_codecs", "encode"): _encoded,
        }
        if (module, name) not in found:
            raise pickle.UnpicklingError(f"the dates refer to {module}.{name}")
        return found[module, name]


def _encoded(text: str, _encoding: str) -> bytes:
    """The state of one date, which protocols 0 to 2 keep as text.

    Raises:
        pickle.UnpicklingError: If it is longer: copies of a long text, called for often, fill the memory.
    """
    if len(text) > LONGEST_STATE:
        raise pickle.UnpicklingError(f"a date of {len(text)} characters")
    return text.encode("latin1")


def _unpickle(content: bytes) -> list[datetime.datetime | datetime.date]:
    """The dates of a pickled array.

    Raises:
        pickle.UnpicklingError: If there is anything else in it.
    """
    for operation, argument, _ in pickletools.genops(content):
        # Room is made for a memory of that number of entries before it is used.
        if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"the dates refer to entry {argument}")
    array = _DatesOnly(io.BytesIO(content), encoding="latin1").load()
    # As numpy has it: version, shape, type, columns first, values.
    dates = array.state[4] if isinstance(array, _State) and array.state is not None else None
    if not isinstance(dates, list) or not all(isinstance(date, datetime.date) for date in dates):
        raise pickle.UnpicklingError("the dates are no dates")
    return dates


def _product(frames: _Frames, path: Path) -> Callable[[np.ndarray, Path], tuple[np.ndarray, dict]]:
    """What the file holds, from the mark of no data in its first frame that has one."""
    for number in range(frames.header.shape[0]):
        pixels = frames.read(number)
        if (pixels == NO_RAIN_DATA).any():
            return _rainfall
        if (pixels == NO_REFLECTIVITY).any() and np.isin(pixels, (*REFLECTIVITY_CLASSES, 255)).all():
            return _reflectivity
    raise incomplete(path, f"no frame has cells without data, {NO_RAIN_DATA} or {NO_REFLECTIVITY}")


def _rainfall(pixels: np.ndarray, path: Path) -> tuple[np.ndarray, dict]:
    if pixels.min() < NO_RAIN_DATA:
        raise incomplete(path, f"values down to {pixels.min()}, which is no rainfall")
    values = pixels * np.float32(RAIN_STEP)
    values[pixels == NO_RAIN_DATA] = np.nan
    return values, {
        "long_name": "accumulated precipitation",
        "units": "mm",
        "accumulation_minutes": ACCUMULATION_MINUTES,
    }


def _reflectivity(pixels: np.ndarray, path: Path) -> tuple[np.ndarray, dict]:
    table = np.full(256, np.inf, dtype=np.float32)
    table[list(REFLECTIVITY_CLASSES)] = REFLECTIVITY_CLASSES
    table[0], table[NO_REFLECTIVITY] = -np.inf, np.nan
    if pixels.min() < 0 or pixels.max() > NO_REFLECTIVITY or np.isposinf(values := table[pixels]).any():
        raise incomplete(path, "values that are no class of reflectivity")
    return values, {"long_name": "radar reflectivity, lower bound of its class", "units": "dBZ"}


def _quality(path: Path, time: np.datetime64, shape: tuple[int, ...]) -> xr.DataArray | None:
    """Mean quality of the day from a file beside this one, 0 to 1, if there is one of the same region."""
    day = time.astype("datetime64[D]").item()
    for beside in sorted(path.parent.glob("*mean*quality*.npz")):
        number = _quality_days(beside).get((day, shape))
        if number is not None:
            return _quality_index(beside, number)
    return None


@lru_cache(maxsize=16)
def _quality_days(path: Path) -> dict[tuple[datetime.date, tuple[int, ...]], int]:
    """Numbers of the maps in a file of daily quality, by day and shape."""
    with _open(path) as archive:
        dates, shape = _dates(archive, path), _Frames(archive, path).header.shape
    if len(dates) != shape[0]:
        raise incomplete(path, f"{len(dates)} dates of {shape[0]} maps")
    daily = not any(isinstance(date, datetime.datetime) for date in dates)
    return {(date, shape[1:]): number for number, date in enumerate(dates) if daily}


@lru_cache(maxsize=8)
def _quality_index(path: Path, number: int) -> xr.DataArray:
    with _open(path) as archive:
        pixels = _Frames(archive, path).read(number)
    values = pixels / np.float32(100)
    values[pixels == 255] = np.nan
    if not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
        raise incomplete(path, "values that are neither 0 to 100 % nor 255")
    values.flags.writeable = False
    described = {"long_name": "mean quality code of the day", "units": "1"}
    return xr.DataArray(values, dims=("y", "x"), attrs=described)


@lru_cache(maxsize=2)
def _coordinates(shape: tuple[int, int]) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in degrees; the region is known by its shape."""
    rows, columns = shape
    north, west = FIRST_CENTRES[shape]
    y = north - np.arange(rows) * SPACING
    x = west + np.arange(columns) * SPACING
    return map_coordinates(x, y, pyproj.CRS.from_epsg(4326))
