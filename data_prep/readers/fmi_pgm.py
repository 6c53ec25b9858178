"""FMI radar composites as PGM: reflectivity of Finland, 8 bits, mostly compressed with gzip.

A binary PGM (P5) whose comments are the header. Reflectivity is ``dBZ = (value - 64) / 2``; 255 is no data
and 0 no echo, both kept apart here as NaN and -inf (Finnish Meteorological Institute, open data, "Radar
data").

The header names no ellipsoid. A sphere of radius 6371288 m turns ``bottomleft`` and ``topright``, the outer
corners of the grid, into the stated metres per pixel to 1e-5 m; one of 6371000 m misses by 0.05 m, WGS84 by
4 m. Latitude and longitude are therefore on that sphere.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import (
    damaged,
    frame,
    in_nanoseconds,
    incomplete,
    locate,
    open_content,
    single_frame_reader,
)
from data_prep.readers.limits import refuse_large_grid
from data_prep.schema import map_coordinates

SPHERE_RADIUS = 6371288.0
"""Metres."""
LARGEST_HEADER = 65536
"""Bytes within which a header ends."""
NO_DATA = 255
NO_ECHO = 0
SPACING_TOLERANCE = 1e-3
"""Relative difference allowed between the spacing from the corners and the stated metres per pixel."""

_GAP = rb"(?:\s+(?:#[^\n]*\n\s*)*)"
_PGM = re.compile(rb"P5" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")
_COMMENT = re.compile(rb"#[ \t]*(\w+)[ \t]*([^\n\r]*)")


class _Header(NamedTuple):
    """What stands before the pixels."""

    comments: dict[str, str]
    shape: tuple[int, int]
    largest: int
    size: int


class _Grid(NamedTuple):
    """Geometry of the grid as in the header; degrees and metres."""

    shape: tuple[int, int]
    centre: tuple[float, ...]
    true_latitude: float
    bottom_left: tuple[float, ...]
    top_right: tuple[float, ...]
    spacing: tuple[float, ...]


def detect(head: bytes, _path: Path) -> bool:
    """Whether a file is an FMI composite: a binary PGM, observation time and projection in comments."""
    return head.startswith(b"P5") and {"obstime", "projection"} <= _comments(head).keys()


def read_time(path: Path) -> np.datetime64:
    """Observation time, UTC.

    Raises:
        RefusedInput: If the file is damaged or its header does not say it.
    """
    with open_content(path) as content:
        return _time(_header(content.read(LARGEST_HEADER), path), path)


def read(path: Path) -> xr.DataArray:
    """Reflectivity.

    Returns:
        A frame, dims (y, x), dBZ, NaN where there is no data, -inf where there is no echo.

    Raises:
        RefusedInput: If the file is damaged, holds another quantity, lacks something in its header, or its
            corners contradict its metres per pixel.
    """
    with open_content(path) as content:
        header = _header(content.read(LARGEST_HEADER), path)
        refuse_large_grid(header.shape, path)
        content.seek(header.size)
        data = content.read(math.prod(header.shape) + 1)
    quantity = _text(header, "param", path)
    if quantity != "CorrectedReflectivity" or header.largest != NO_DATA:
        raise incomplete(
            path, f"{quantity} in 0..{header.largest}, not CorrectedReflectivity in 0..{NO_DATA}"
        )
    pixels = np.frombuffer(data, dtype=np.uint8)
    if pixels.size != math.prod(header.shape):
        raise damaged(path, f"{pixels.size} pixels in a grid of {header.shape[0]} x {header.shape[1]}")
    time, coordinates = _time(header, path), locate(_coordinates, _grid(header, path), path)
    values = _DBZ[pixels].reshape(header.shape)
    attributes = {"long_name": "radar reflectivity", "units": "dBZ"}
    return frame(values, time=time, coordinates=coordinates, attributes=attributes)


READER = single_frame_reader("fmi_pgm", detect, read_time, read)


def _reflectivity() -> np.ndarray:
    table = ((np.arange(256) - 64) / 2).astype(np.float32)
    table[NO_ECHO], table[NO_DATA] = -np.inf, np.nan
    return table


_DBZ = _reflectivity()


def _comments(data: bytes) -> dict[str, str]:
    return {key.decode(): value.decode("ascii", "replace").strip() for key, value in _COMMENT.findall(data)}


def _header(data: bytes, path: Path) -> _Header:
    match = _PGM.match(data[:LARGEST_HEADER])
    if not match:
        raise damaged(path, "the PGM header does not end")
    width, height, largest = (int(number) for number in match.groups())
    return _Header(_comments(match[0]), (height, width), largest, match.end())


def _text(header: _Header, key: str, path: Path) -> str:
    if not header.comments.get(key):
        raise incomplete(path, f"no comment {key}")
    return header.comments[key]


def _numbers(header: _Header, key: str, path: Path, count: int = 1) -> tuple[float, ...]:
    text = _text(header, key, path)
    try:
        numbers = tuple(float(word) for word in text.split())
    except ValueError:
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise incomplete(path, f"{key} is {text!r}, not {count} number(s)")
    return numbers


def _time(header: _Header, path: Path) -> np.datetime64:
    text = _text(header, "obstime", path)
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})", text)
    try:
        year, month, day, hour, minute = match.groups() if match else ()
        return in_nanoseconds(np.datetime64(f"{year}-{month}-{day}T{hour}:{minute}", "s"))
    except ValueError as error:
        raise incomplete(path, f"obstime is {text!r}, not YYYYMMDDhhmm") from error


def _grid(header: _Header, path: Path) -> _Grid:
    projection = _text(header, "type", path)
    if projection != "stereographic":
        raise incomplete(path, f"projection type {projection}, not stereographic")

    def numbers(key: str, count: int = 1) -> tuple[float, ...]:
        return _numbers(header, key, path, count)

    return _Grid(
        shape=header.shape,
        centre=(*numbers("centrallongitude"), *numbers("centrallatitude")),
        true_latitude=numbers("truelatitude")[0],
        bottom_left=numbers("bottomleft", 2),
        top_right=numbers("topright", 2),
        spacing=(*numbers("metersperpixel_x"), *numbers("metersperpixel_y")),
    )


@lru_cache(maxsize=8)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres; worked out once for an archive.

    Raises:
        ValueError: If the corners and the metres per pixel contradict each other.
    """
    longitude, latitude = grid.centre
    crs = pyproj.CRS.from_user_input(
        f"+proj=stere +lat_0={latitude} +lon_0={longitude} +lat_ts={grid.true_latitude} +R={SPHERE_RADIUS} "
        "+units=m +type=crs"
    )
    to_metres = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    longitudes, latitudes = zip(grid.bottom_left, grid.top_right, strict=True)
    (west, east), (south, north) = to_metres.transform(longitudes, latitudes)
    rows, columns = grid.shape
    spacing = np.array([(east - west) / columns, (north - south) / rows])
    if not np.allclose(spacing, grid.spacing, rtol=SPACING_TOLERANCE):
        raise ValueError(f"the corners make {spacing.round(3)} m per pixel, the header says {grid.spacing}")
    x = west + (np.arange(columns) + 0.5) * spacing[0]
    y = north - (np.arange(rows) + 0.5) * spacing[1]
    return map_coordinates(x, y, crs)
