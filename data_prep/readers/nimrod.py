"""Met Office Nimrod: rain rate composites and accumulations of the United Kingdom.

Big-endian Fortran records, each between two copies of its length in bytes: a header of 512 bytes (31 int16,
28 and 45 float32, 8 + 24 + 24 characters, 51 int16), then the values (Met Office, "Nimrod System
Documentation Paper No. 2: Nimrod format for image and model field files", version 1.7, 2012).

The units say how rain is packed: ``mm/h*32`` are steps of 1/32 mm/h. The header's own scaling factor serves
the conversion to MKS units and is not used (it may be 0). Header elements that were not set hold -32767.

The origin of the grid is the centre of the north-west cell: the outer corners in the header lie half a cell
outside, and the Met Office's netCDF of the same composite has its coordinates there.
"""

from __future__ import annotations

import datetime
import gzip
import re
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import damaged, frame, incomplete, locate, open_content, single_frame_reader
from data_prep.readers.limits import refuse_large_grid
from data_prep.schema import map_coordinates

NATIONAL_GRID = "EPSG:27700"
HEADER_SIZE = 512
"""Bytes of the header, without the record lengths around it."""
NOT_SET = -32767
FIRST_YEAR, LAST_YEAR = 1980, 2200
"""Between which a validity time is credible."""
CORNER_TOLERANCE = 1.0
"""Metres by which the corners in the header may miss the origin and the extent of the grid."""

_RECORD_LENGTH = np.dtype(">u4")
_MARK = HEADER_SIZE.to_bytes(4, "big")
_DTYPES = {(0, 4): ">f4", (1, 2): ">i2", (1, 4): ">i4"}
"""By type and bytes of a value."""
_UNITS = re.compile(r"(mm|mm/h|mm/hr|mm/hour|mm h-1)(?:\*(\d{1,6}))?", re.IGNORECASE)
_PROJECTION = (49.0, -2.0, 400000.0, -100000.0, 0.9996012717)
"""Of the National Grid: true origin in degrees north and east, false easting and northing in m, scale."""
_PROJECTION_IN_KM = (49.0, -2.0, 400.0, -100.0, 0.9996012717)
"""As some files have it."""


class _Grid(NamedTuple):
    """Geometry as in the header; metres, north before east."""

    shape: tuple[int, int]
    origin: tuple[float, float]
    spacing: tuple[float, float]
    corners: tuple[float, ...]
    """Top left, top right, bottom right, bottom left; `NOT_SET` where the header does not say."""


class _Header(NamedTuple):
    """The header by type of its elements, which are numbered from 0 within it."""

    integers: np.ndarray
    reals: np.ndarray
    specific_reals: np.ndarray
    units: str
    title: str


def detect(head: bytes, _path: Path) -> bool:
    """Whether a file is Nimrod: it begins with a record of 512 bytes."""
    return head.startswith(_MARK) and head[4 + HEADER_SIZE : 8 + HEADER_SIZE] in (_MARK, b"")


def read_time(path: Path) -> np.datetime64:
    """Validity time, UTC; of an accumulation its end.

    Raises:
        RefusedInput: If the file is damaged, its header does not say it, or it holds a forecast.
    """
    with open_content(path) as content:
        return _time(_header(content, path), path)


def read(path: Path) -> xr.DataArray:
    """Rain rate, or accumulated rain.

    Returns:
        A frame, dims (y, x), mm h-1 or mm, with ``accumulation_minutes`` where the header says it, NaN where
        there is no data.

    Raises:
        RefusedInput: If the file is damaged, holds another quantity, a forecast or several fields, lies on
            another grid, or lacks something in its header.
    """
    with open_content(path) as content:
        header = _header(content, path)
        time, grid = _time(header, path), _grid(header, path)
        attributes, divisor = _quantity(header, path)
        values = _values(header, content, path) / np.float32(divisor)
    return frame(values, time=time, coordinates=locate(_coordinates, grid, path), attributes=attributes)


READER = single_frame_reader("nimrod", detect, read_time, read)


def _header(content: BinaryIO, path: Path) -> _Header:
    data = content.read(HEADER_SIZE + 8)
    if len(data) != HEADER_SIZE + 8 or not data.startswith(_MARK) or not data.endswith(_MARK):
        raise damaged(path, f"no header record of {HEADER_SIZE} bytes")
    words = data[354 + 4 : 410 + 4].decode("ascii", "replace")
    units, title = (text.partition("\0")[0].strip() for text in (words[:8], words[32:]))
    return _Header(
        integers=np.frombuffer(data, ">i2", 31, offset=4),
        reals=np.frombuffer(data, ">f4", 28, offset=4 + 62),
        specific_reals=np.frombuffer(data, ">f4", 45, offset=4 + 174),
        units=units,
        title=title,
    )


def _time(header: _Header, path: Path) -> np.datetime64:
    """Validity time, unless it lies in the future of the data time."""
    year, month, day, hour, minute, second = (int(number) for number in header.integers[:6])
    valid = _datetime((year, month, day, hour, minute, 0 if second == NOT_SET else second), path)
    year, month, day, hour, minute = (int(number) for number in header.integers[6:11])
    if year not in (NOT_SET, 0):
        period = datetime.timedelta(minutes=_period(header) or 0)
        # The data time of an accumulation may be the beginning of its period.
        if valid - period > _datetime((year, month, day, hour, minute, 0), path):
            raise incomplete(path, f"a forecast for {valid}, which is no observation")
    return np.datetime64(valid, "ns")


def _datetime(numbers: tuple[int, ...], path: Path) -> datetime.datetime:
    year, month, day, hour, minute, second = numbers
    try:
        time = datetime.datetime(year, month, day, hour, minute, second)
    except ValueError as error:
        raise incomplete(path, f"time {numbers}: {error}") from error
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise incomplete(path, f"a time in the year {year}")
    return time


def _period(header: _Header) -> int | None:
    """Minutes over which the values are accumulated or averaged, where the header says it."""
    minutes, missing = int(header.integers[25]), int(header.integers[24])
    return minutes if minutes > 0 and minutes not in (missing, -NOT_SET) else None


def _quantity(header: _Header, path: Path) -> tuple[dict[str, str | float], float]:
    """The attributes of the frame, and what its values are to be divided by."""
    match = _UNITS.fullmatch(header.units)
    divisor = float(match[2] or 1) if match else 0.0
    if not match or divisor == 0:
        raise incomplete(path, f"units {header.units!r}, not mm or mm/h, or a multiple such as mm/h*32")
    offset = float(header.reals[8])
    if offset not in (0, NOT_SET):
        raise incomplete(path, f"an offset of {offset:g}, with which no rain is known to be packed")
    minutes, rate = _period(header), match[1].lower() != "mm"
    if not rate and minutes is None:
        raise incomplete(path, "an accumulation in mm without its period")
    attributes: dict[str, str | float] = {
        "long_name": header.title or ("rain rate" if rate else "accumulated precipitation"),
        "units": "mm h-1" if rate else "mm",
    }
    if minutes is not None:
        attributes["accumulation_minutes"] = float(minutes)
    return attributes, divisor


def _values(header: _Header, content: BinaryIO, path: Path) -> np.ndarray:
    """Values as packed, float32, shape (Y, X), NaN where there is no data."""
    kind = (int(header.integers[11]), int(header.integers[12]))
    if kind not in _DTYPES:
        raise incomplete(path, f"values of type {kind[0]} in {kind[1]} bytes; known are {list(_DTYPES)}")
    shape = _shape(header, path)
    size = shape[0] * shape[1] * kind[1]
    if not isinstance(content, gzip.GzipFile) and size > path.stat().st_size:
        raise damaged(path, f"a grid of {shape[0]} x {shape[1]} needs {size} bytes")
    data = content.read(size + 8)
    marks = data[:4] + data[size + 4 :]
    if len(data) != size + 8 or (np.frombuffer(marks, _RECORD_LENGTH) != size).any():
        raise damaged(path, f"no record of {size} bytes for a grid of {shape[0]} x {shape[1]}")
    if content.read(1):
        raise incomplete(path, "more than one field; this reader handles one a file")
    raw = np.frombuffer(data, _DTYPES[kind], shape[0] * shape[1], offset=4).reshape(shape)
    values = raw.astype(np.float32)
    missing = header.reals[6] if kind[0] == 0 else header.integers[24]
    # Nothing is known that a negative rain would say, whether the header names it or not.
    values[(raw == missing) | (raw < 0) | ~np.isfinite(values)] = np.nan
    return values


def _shape(header: _Header, path: Path) -> tuple[int, int]:
    rows, columns = int(header.integers[15]), int(header.integers[16])
    refuse_large_grid((rows, columns), path)
    return rows, columns


def _grid(header: _Header, path: Path) -> _Grid:
    grid_type, corner, ellipsoid = (int(header.integers[number]) for number in (14, 23, 27))
    if grid_type != 0 or ellipsoid not in (0, NOT_SET):
        raise incomplete(path, f"grid type {grid_type} on ellipsoid {ellipsoid}, not the National Grid, 0")
    if corner != 0:
        raise incomplete(path, f"the first value in corner {corner} of the grid, not top left, 0")
    projection = header.reals[11:16]
    known = [
        np.isclose(projection, numbers, rtol=1e-6) | (projection == NOT_SET)
        for numbers in (_PROJECTION, _PROJECTION_IN_KM)
    ]
    if not any(agrees.all() for agrees in known):
        raise incomplete(path, f"a projection of {projection.tolist()}, not that of the National Grid")
    y, row_step, x, column_step = (float(number) for number in header.reals[2:6])
    if not (np.isfinite([y, x]).all() and 0 < row_step < 1e6 and 0 < column_step < 1e6):
        raise incomplete(path, f"a grid from {x:g}, {y:g} in steps of {column_step:g} and {row_step:g} m")
    corners = tuple(float(number) for number in header.specific_reals[:8])
    return _Grid(_shape(header, path), (y, x), (row_step, column_step), corners)


@lru_cache(maxsize=8)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres; worked out once for an archive.

    Raises:
        ValueError: If the corners in the header are not half a cell outside the outermost cell centres.
    """
    y, x = (
        first + sign * step * np.arange(count)
        for first, step, count, sign in zip(grid.origin, grid.spacing, grid.shape, (-1, 1), strict=True)
    )
    half_y, half_x = grid.spacing[0] / 2, grid.spacing[1] / 2
    north, south, west, east = y[0] + half_y, y[-1] - half_y, x[0] - half_x, x[-1] + half_x
    expected = np.array([north, west, north, east, south, east, south, west])
    given = np.array(grid.corners)
    known = given != NOT_SET
    if not (np.abs(given - expected)[known] <= CORNER_TOLERANCE).all():
        raise ValueError(f"the grid ends at {expected.tolist()}, the header says {given.tolist()}")
    return map_coordinates(x, y, pyproj.CRS.from_user_input(NATIONAL_GRID))
