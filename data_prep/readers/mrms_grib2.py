"""NOAA MRMS precipitation rate of the USA as GRIB2, mostly compressed with gzip.

The product is known by its numbers, discipline 209, category 6, number 1: the tables of decoders do not
have it. -3 is no coverage and -1 missing, both NaN here, and 0 is dry (NOAA/NSSL, "MRMS GRIB2 tables"). The
rate is that of the moment, every 2 minutes.

The header is read here as the WMO Manual on Codes (No. 306, I.2, FM 92 GRIB edition 2) lays it out: neither
the detection nor the time then needs ecCodes, and no message reaches ecCodes that does not fit together, at
which it would end the process.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import Reader, damaged, frame, in_nanoseconds, incomplete, locate, open_content
from data_prep.readers.limits import LARGEST_CONTENT, refuse_large_grid, refuse_many_frames
from data_prep.schema import RefusedInput, map_coordinates

PRECIPITATION_RATE = (209, 6, 1)
"""Discipline, category and number."""
LARGEST_HEADER = 4096
"""Bytes of a message within which its data section begins."""

_SIMPLE, _PNG = 0, 41
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_NO_BITMAP = 255
_INCREMENTS_GIVEN = 0x30
_SOUTH_FIRST = 0x40
_EARTH = {
    0: (6367470.0, 6367470.0),
    2: (6378160.0, 6356775.0),
    6: (6371229.0, 6371229.0),
}
"""Code table 3.2: major and minor axis, metres."""
_EARTH_EPSG = {4: 4019, 5: 4326, 8: 4326}
_EARTH_GIVEN = {3: 1000.0, 7: 1.0}
"""Codes with axes of their own: their unit in metres."""
# ecCodes is not thread-safe.
_lock = threading.Lock()


class _Grid(NamedTuple):
    """Geometry of the grid; microdegrees."""

    shape: tuple[int, int]
    earth: tuple[int, float, float]
    first: tuple[int, int]
    last: tuple[int, int]
    increment: tuple[int, int]
    south_first: bool


class _Message(NamedTuple):
    """Where a message lies in the file, and what its header says."""

    offset: int
    size: int
    time: np.datetime64
    grid: _Grid
    picture: int
    """Bytes of the message before a PNG, 0 if there is none."""


def detect(head: bytes, _path: Path) -> bool:
    """Whether a file is GRIB2 of the discipline that MRMS uses."""
    return head[:4] == b"GRIB" and head[6:8] == bytes([PRECIPITATION_RATE[0], 2])


def read_times(path: Path) -> np.ndarray:
    """Times of observation, UTC, one of each message.

    Raises:
        RefusedInput: If the file is damaged, or a message holds another quantity or another grid.
    """
    with open_content(path) as content:
        return np.array([message.time for message in _messages(content, path)], dtype="datetime64[ns]")


def read_frames(path: Path, numbers: Sequence[int]) -> Iterator[xr.DataArray]:
    """Precipitation rates of the moment.

    Yields:
        Frames, dims (y, x), mm h-1, NaN where there is no coverage or the value is missing.

    Raises:
        RefusedInput: If the file is damaged, a message holds another quantity or another grid, or eccodes is
            not installed.
    """
    for number in numbers:
        with open_content(path) as content:
            # To the end of the file, where the checksum of gzip is.
            for found, message in enumerate(_messages(content, path)):
                if found == number:
                    wanted = message
            if number > found:
                raise damaged(path, f"{found + 1} message(s), none of number {number}")
            message = wanted
            content.seek(message.offset)
            data = content.read(message.size)
        if len(data) != message.size or not data.endswith(b"7777") or not _intact(data, message):
            raise damaged(
                path, f"a message of {message.size} bytes, of which there are {len(data)}, is corrupt"
            )
        coordinates = locate(_coordinates, message.grid, path)
        attributes = {"long_name": "precipitation rate", "units": "mm h-1"}
        yield frame(
            _values(data, message.grid, path),
            time=message.time,
            coordinates=coordinates,
            attributes=attributes,
        )


READER = Reader("mrms_grib2", detect, read_times, read_frames)


def _messages(content: BinaryIO, path: Path) -> Iterator[_Message]:
    offset = 0
    for number in count():
        refuse_many_frames(number, path)
        content.seek(offset)
        head = content.read(LARGEST_HEADER)
        if not head and number:
            return
        try:
            message = _message(head, offset, path)
        except (struct.error, KeyError, IndexError) as error:
            raise damaged(path, f"the header of message {number} is cut short or corrupt") from error
        offset += message.size
        yield message


def _message(head: bytes, offset: int, path: Path) -> _Message:
    discipline, edition, size = struct.unpack_from(">BBQ", head, 6)
    if head[:4] != b"GRIB" or edition != 2 or size > LARGEST_CONTENT:
        raise damaged(path, f"no GRIB2 message at byte {offset}")
    sections = _sections(head)
    category, number = sections[4][9:11]
    if (discipline, category, number) != PRECIPITATION_RATE:
        raise incomplete(
            path, f"MRMS product {(discipline, category, number)}, not {PRECIPITATION_RATE}, PrecipRate"
        )
    grid = _grid(sections[3], path)
    _refuse_unfit(sections, grid, size, path)
    picture = len(sections[0]) + 5 if _PNG_START in sections[7] else 0
    return _Message(offset, size, _time(sections, path), grid, picture)


def _sections(head: bytes) -> dict[int, bytes]:
    """Sections by number: 7, the data, only as far as `head` goes; 0 is all that stands before it.

    Raises:
        struct.error, KeyError: If a section is missing, repeated or cut short.
    """
    sections: dict[int, bytes] = {}
    at = 16
    while 7 not in sections:
        size, number = struct.unpack_from(">IB", head, at)
        if size < 5 or number in sections:
            raise KeyError(number)
        sections[number] = head[at : at + size]
        at += size
    sections[0] = head[: at - size]
    return sections


def _time(sections: dict[int, bytes], path: Path) -> np.datetime64:
    year, month, day, hour, minute, second = struct.unpack_from(">H5B", sections[1], 12)
    (template,) = struct.unpack_from(">H", sections[4], 7)
    (ahead,) = struct.unpack_from(">I", sections[4], 18)
    if template or ahead:
        raise incomplete(path, f"product template {template}, {ahead} units ahead, not an observation")
    try:
        return in_nanoseconds(np.datetime64(datetime(year, month, day, hour, minute, second), "s"))
    except ValueError as error:
        raise incomplete(path, f"reference time: {error}") from error


def _grid(section: bytes, path: Path) -> _Grid:
    fields = struct.unpack_from(">BIBBHB5s5s5s6IB4IB", section, 5)
    source, points, listed, _, template, shape, radius, major, minor = fields[:9]
    columns, rows, basic, divisions, *first, flags, latitude, longitude, width, height, scanning = fields[9:]
    if source or listed or template:
        raise incomplete(path, f"grid template {template}, not latitude and longitude")
    if not 0 < rows * columns == points:
        raise incomplete(path, f"{points} points in a grid of {rows} x {columns}")
    refuse_large_grid((rows, columns), path)
    if (basic, divisions) not in {(1, 1_000_000), (0, 0), (0, 0xFFFFFFFF)}:
        raise incomplete(path, f"angles in {basic} / {divisions} degrees, not in microdegrees")
    if flags & _INCREMENTS_GIVEN != _INCREMENTS_GIVEN or scanning & ~_SOUTH_FIRST:
        raise incomplete(path, f"flags {flags:#x}, scanning {scanning:#x}, not row by row from the west")
    return _Grid(
        shape=(rows, columns),
        earth=_earth(shape, radius, major, minor, path),
        first=(_signed(first[0]), _signed(first[1])),
        last=(_signed(latitude), _signed(longitude)),
        increment=(height, width),
        south_first=bool(scanning & _SOUTH_FIRST),
    )


def _signed(value: int) -> int:
    """GRIB keeps the sign in the first bit, not as a complement of two."""
    return -(value & 0x7FFFFFFF) if value >> 31 else value


def _earth(shape: int, radius: bytes, major: bytes, minor: bytes, path: Path) -> tuple[int, float, float]:
    """Code of the shape of the earth with its axes in metres (0 where an EPSG code has them)."""
    if shape in _EARTH:
        return shape, *_EARTH[shape]
    if shape in _EARTH_EPSG:
        return shape, 0.0, 0.0
    unit = _EARTH_GIVEN.get(shape, 1.0)
    axes = [unit * _scaled(axis) for axis in ((radius, radius) if shape == 1 else (major, minor))]
    if shape not in {1, *_EARTH_GIVEN} or not all(6.3e6 < axis < 6.4e6 for axis in axes):
        raise incomplete(path, f"shape {shape} of the earth, with axes {axes} m")
    return shape, axes[0], axes[1]


def _scaled(number: bytes) -> float:
    factor, value = struct.unpack(">bI", number)
    return value / 10.0**factor


def _refuse_unfit(sections: dict[int, bytes], grid: _Grid, size: int, path: Path) -> None:
    """Refuse values that do not fit the grid, before they reach the decoder."""
    count, template = struct.unpack_from(">IH", sections[5], 5)
    (reference,), bits = struct.unpack_from(">f", sections[5], 11), sections[5][19]
    cells = grid.shape[0] * grid.shape[1]
    if count != cells or sections[6][5] != _NO_BITMAP or not np.isfinite(reference):
        raise incomplete(path, f"{count} values from {reference}, {cells} cells, bitmap {sections[6][5]}")
    (data,) = struct.unpack_from(">I", sections[7])
    if len(sections[0]) + data + 4 != size:
        raise damaged(path, f"a message of {size} bytes with {data} bytes of data")
    if template == _PNG:
        width, height, depth, colour = struct.unpack_from(">IIBB", sections[7], 5 + len(_PNG_START))
        fits = sections[7][5:].startswith(_PNG_START) and (height, width) == grid.shape
        fits &= depth * _PNG_CHANNELS.get(colour, 0) == bits
    elif template == _SIMPLE:
        fits = bits <= 32 and data == 5 + -(-cells * bits // 8)
    else:
        raise incomplete(path, f"packing template {template}, neither PNG ({_PNG}) nor simple ({_SIMPLE})")
    if not fits:
        raise damaged(path, f"{data} bytes of data for {grid.shape} cells of {bits} bits")


def _intact(data: bytes, message: _Message) -> bool:
    """Whether the chunks of a PNG in a message follow one another to its end, each with its checksum."""
    if not message.picture:
        return True
    view, at, kind = memoryview(data)[:-4], message.picture + 8, b""
    try:
        while kind != b"IEND":
            size, kind = struct.unpack_from(">I4s", view, at)
            (checksum,) = struct.unpack_from(">I", view, at + 8 + size)
            if zlib.crc32(view[at + 4 : at + 8 + size]) != checksum:
                return False
            at += size + 12
    except struct.error:
        return False
    return at == len(view)


def _values(data: bytes, grid: _Grid, path: Path) -> np.ndarray:
    """Rates, mm/h, float32, shape (Y, X), north first, NaN where there is none."""
    try:
        import eccodes  # type: ignore[import-untyped]
    except ImportError as error:
        raise RefusedInput(
            "ecCodes decodes GRIB2",
            came=f"{path}, and eccodes is not installed",
            do="pip install -e '.[grib]' in the checkout",
        ) from error
    # ecCodes decodes to eight bytes a cell: under the lock, so that there is one such array at a time.
    with _lock:
        try:
            handle = eccodes.codes_new_from_message(data)
            try:
                with np.errstate(over="ignore"):
                    values = eccodes.codes_get_values(handle).astype(np.float32)
            finally:
                eccodes.codes_release(handle)
        except (eccodes.CodesInternalError, MemoryError) as error:
            raise damaged(path, error) from error
    if values.size != grid.shape[0] * grid.shape[1] or not np.isfinite(values).all():
        raise damaged(path, f"{values.size} values, {np.isfinite(values).sum()} of them finite")
    values[values < 0] = np.nan
    values = values.reshape(grid.shape)
    return values[::-1] if grid.south_first else values


@lru_cache(maxsize=2)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in degrees; worked out once for an archive.

    Raises:
        ValueError: If the grid does not end where the header says, or crosses a pole or the date line.
    """
    (rows, columns), (north, west), (height, width) = grid.shape, grid.first, grid.increment
    west -= 360_000_000 if west >= 180_000_000 else 0
    y = north + np.arange(rows) * (height if grid.south_first else -height)
    x = west + np.arange(columns) * width
    miss = abs(y[-1] - grid.last[0]), abs(x[-1] - grid.last[1]) % 360_000_000
    if min(height, width) == 0 or miss[0] > height / 2 or min(miss[1], 360_000_000 - miss[1]) > width / 2:
        raise ValueError(f"the grid ends {miss} microdegrees away from its last point")
    if np.abs(y[[0, -1]]).max() > 90_000_000 or x[-1] > 180_000_000 or x[0] < -180_000_000:
        raise ValueError(f"latitude {y[0]} to {y[-1]}, longitude {x[0]} to {x[-1]} microdegrees")
    return map_coordinates(x / 1e6, (y[::-1] if grid.south_first else y) / 1e6, _crs(grid.earth))


def _crs(earth: tuple[int, float, float]) -> pyproj.CRS:
    code, major, minor = earth
    if code in _EARTH_EPSG:
        return pyproj.CRS.from_epsg(_EARTH_EPSG[code])
    return pyproj.CRS.from_user_input(f"+proj=longlat +a={major} +b={minor} +type=crs")
