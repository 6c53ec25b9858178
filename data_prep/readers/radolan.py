"""DWD RADOLAN and RADVOR composites: RW, RY, YW and RV (accumulations) and RX (reflectivity) of Germany.

An ASCII header that ends with the byte 0x03, then the cells, south row first (Deutscher Wetterdienst,
"RADOLAN/RADVOR-OP Kompositformat"). The header carries day, hour, minute, station, month and
year in that order; its time is the end of an accumulation, also the hh:50 of the hourly RW. Files come plain,
in gzip or in bzip2, and RV as a tar of the 25 leads of one nowcast, of which only lead 0, the analysis,
is an observation. `read_forecast` reads them all.

Cells without data, with clutter, or negative (a flag that belongs to difference products only) become NaN.
Byte 0 of RX, which stands for -32.5 dBZ or less, is no echo.

The grids hang on the point 9 E 51 N, a fixed number of cells from their lower left corner. Up to format
version 4 (token VS) the earth is a sphere; from version 5 on, since 2022, it is the WGS84 ellipsoid. With
these the outer corners of DE1200 agree with those in DWD's format description of RV to 0.1 m.
"""

from __future__ import annotations

import bz2
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import (
    HEAD_BYTES,
    damaged,
    frame,
    incomplete,
    locate,
    open_content,
    single_frame_reader,
)
from data_prep.schema import RefusedInput, map_coordinates

LARGEST_HEADER = 2048
"""Bytes within which a header ends."""
LARGEST_BUNDLE = 128 * 2**20
"""Bytes after which a bundle, 66 MB of leads, is no longer read: a small bzip2 can hold gigabytes."""
MOST_MEMBERS = 100
"""Of a bundle, each of which stays in memory while it is read; there are 25."""
BZIP2_BLOCK = 900_000
"""Bytes of its largest block."""
FORECAST_LEADS = tuple(range(0, 125, 5))
"""Minutes, of an RV nowcast."""

REFERENCE_POINT = (9.0, 51.0)
"""Degrees east and north of the point that all grids share."""
REFERENCE_CELL = {(900, 900): (450, 450), (1100, 900): (550, 370), (1200, 1100): (600, 470)}
"""Rows and columns of 1 km from the lower left corner to that point, by the shape of the grid."""
CELL = 1000.0
"""Metres."""
FIRST_ELLIPSOIDAL_VERSION = 5

_PROJECTION = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +units=m +type=crs "
_SPHERE, _ELLIPSOID = "+R=6370040", "+datum=WGS84"

VALUE_BITS = 0x0FFF
UNUSABLE = 0x2000 | 0x4000 | 0x8000
"""Flags of no data, of a negative value and of clutter; 0x1000, filled in from a second source, is kept."""
NO_ECHO = 0
FIRST_UNUSABLE = 249
"""In RX: 249 clutter, 250 no data, none above in use."""


class _Product(NamedTuple):
    """What the cells of a product mean."""

    units: str
    long_name: str
    dtype: str


_ACCUMULATION = _Product("mm", "accumulated precipitation", "<u2")
PRODUCTS = {
    "RX": _Product("dBZ", "radar reflectivity", "u1"),
    "RW": _ACCUMULATION,
    "RY": _ACCUMULATION,
    "YW": _ACCUMULATION,
    "RV": _ACCUMULATION,
}

_START = re.compile(rb"([A-Z]{2})(\d{2})(\d{2})(\d{2})\d{5}(\d{2})(\d{2})BY")
_TOKENS = {
    "BY": re.compile(r"BY *(\d{1,10})VS"),
    "VS": re.compile(r"VS *(\d{1,2})"),
    "PR": re.compile(r"PR *E([-+]\d{2})"),
    "INT": re.compile(r"INT *(\d{1,4})"),
    "GP": re.compile(r"GP *(\d{1,4})x *(\d{1,4})"),
}
_DAYS = re.compile(r"INT *\d+U1")
_LEAD = re.compile(r"VV *(\d{1,3})")
_PRECISIONS = {"+00": 1.0, "-00": 1.0, "-01": 0.1, "-02": 0.01, "-03": 0.001}


class _Grid(NamedTuple):
    """Which grid it is."""

    shape: tuple[int, int]
    ellipsoidal: bool


class _Header(NamedTuple):
    """What stands before the cells; times in minutes, sizes in bytes."""

    product: _Product
    time: np.datetime64
    grid: _Grid
    precision: float
    interval: int
    lead: int
    size: int
    file_size: int


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is a RADOLAN composite, or a tar that begins with one, in bzip2 or not.

    Raises:
        RefusedInput: If it is bzip2 that cannot be decompressed.
    """
    if head.startswith(b"BZh"):
        with _open(path) as content:
            head = content.read(HEAD_BYTES)
    # In a tar, headers and contents begin at multiples of 512 bytes.
    starts = range(512, len(head), 512) if _is_tar(head) else (0,)
    return any(_START.match(head, start) for start in starts)


def read_time(path: Path) -> np.datetime64:
    """Time of the analysis, UTC; of an accumulation its end.

    Raises:
        RefusedInput: If the file is damaged, its header does not say it, or it holds a forecast only.
    """
    with _open(path) as stream, _observation(stream, path) as (header, _):
        return header.time


def read(path: Path) -> xr.DataArray:
    """Accumulated precipitation, or reflectivity (RX).

    Returns:
        A frame, dims (y, x), mm in ``accumulation_minutes`` or dBZ, NaN where there is no data or clutter.

    Raises:
        RefusedInput: If the file is damaged, holds another product or a forecast only, or lacks something
            in its header.
    """
    with _open(path) as stream:
        with _observation(stream, path) as (header, content):
            values = _values(header, content, path)
        _finish(stream)
    coordinates = locate(_coordinates, header.grid, path)
    return frame(values, time=header.time, coordinates=coordinates, attributes=_attributes(header))


def read_forecast(path: Path) -> xr.DataArray:
    """DWD's own nowcast: all leads of a bundle of RV.

    Args:
        path: A tar of the leads, plain, in gzip or in bzip2.

    Returns:
        Dims (lead_time, y, x), north first, float32, mm in ``accumulation_minutes``, NaN where there is no
        data. ``lead_time`` runs from 0 to 120 min, ``time`` is the end of each accumulation and
        ``forecast_reference_time`` the time of the analysis.

    Raises:
        RefusedInput: If the file is damaged or no bundle, or a lead is absent, twice there or out of tune
            with the others.
    """
    leads: dict[int, _Header] = {}
    values = np.empty(0, dtype=np.float32)
    with _open(path) as stream:
        for header, content in _members(stream, path):
            first = next(iter(leads.values()), header)
            if header.lead in leads or header._replace(lead=first.lead) != first:
                raise incomplete(path, f"lead {header.lead} min is twice there, or of another time or grid")
            if header.lead not in FORECAST_LEADS or header.product is not _ACCUMULATION:
                raise incomplete(path, f"a lead of {header.lead} min")
            if not leads:
                values = np.empty((len(FORECAST_LEADS), *header.grid.shape), dtype=np.float32)
            leads[header.lead] = header
            values[FORECAST_LEADS.index(header.lead)] = _values(header, content, path)
        _finish(stream)
    absent = [lead for lead in FORECAST_LEADS if lead not in leads]
    if absent:
        raise damaged(path, f"no lead of {', '.join(map(str, absent))} min")
    first = leads[0]
    lead_times = np.array(FORECAST_LEADS, dtype="timedelta64[m]").astype("timedelta64[ns]")
    return xr.DataArray(
        values,
        dims=("lead_time", "y", "x"),
        attrs={**_attributes(first), "grid_mapping": "crs"},
    ).assign_coords(
        {
            **locate(_coordinates, first.grid, path),
            "lead_time": ("lead_time", lead_times),
            "time": ("lead_time", first.time + lead_times),
            "forecast_reference_time": first.time,
        }
    )


READER = single_frame_reader("radolan", detect, read_time, read)


class _Limited:
    """A stream that is not read beyond a number of bytes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError("more than a bundle of leads holds")
        return self._stream.read(size)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a file, looking through gzip and bzip2."""
    with open_content(path) as content:
        zipped = content.read(3) == b"BZh"
        content.seek(0)
        try:
            yield cast(BinaryIO, bz2.BZ2File(content)) if zipped else content
        except RefusedInput:
            raise
        except (tarfile.TarError, ValueError) as error:
            # tarfile lets through what comes of numbers and text that it cannot decode.
            raise damaged(path, error) from error
        except OSError as error:
            # Without a number it comes from bzip2, or from gzip, for which open_content has a word.
            if not zipped or error.errno is not None:
                raise
            raise damaged(path, error) from error


@contextmanager
def _observation(stream: BinaryIO, path: Path) -> Iterator[tuple[_Header, IO[bytes]]]:
    """The header of the analysis in a file, and the stream at its first cell."""
    head = stream.read(512)
    stream.seek(0)
    if not _is_tar(head):
        header = _header(stream, path)
        if header.lead:
            raise incomplete(path, f"a forecast for {header.lead} min ahead, which is no observation")
        yield header, stream
        return
    for header, content in _members(stream, path):
        if header.lead == 0:
            yield header, content
            return
    raise incomplete(path, "no analysis (VV 000) among the leads")


def _finish(stream: BinaryIO) -> None:
    """Read on until the checksum over what was read is checked: of bzip2's block, or of the gzip file."""
    left = BZIP2_BLOCK if isinstance(stream, bz2.BZ2File) else LARGEST_BUNDLE
    while left > 0 and (data := stream.read(2**20)):
        left -= len(data)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _members(stream: BinaryIO, path: Path) -> Iterator[tuple[_Header, IO[bytes]]]:
    """The composites of a tar in their order; each is at its first cell and to be read before the next."""
    limited = cast(IO[bytes], _Limited(stream, LARGEST_BUNDLE))
    with tarfile.open(fileobj=limited, mode="r|") as bundle:
        for number, member in enumerate(bundle):
            if number == MOST_MEMBERS:
                raise tarfile.ReadError("more members than a bundle of leads has")
            if member.isdir():
                continue
            content = bundle.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise incomplete(path, f"{member.name!r} in the tar is no plain file")
            header = _header(content, path)
            if member.size != header.file_size:
                raise damaged(path, f"{member.size} bytes in the tar, {header.file_size} in the header")
            yield header, content


def _header(stream: IO[bytes], path: Path) -> _Header:
    """Read a header up to the first cell."""
    # By line, where the end of a line is 0x03.
    data = bytearray()
    while len(data) < LARGEST_HEADER and (byte := stream.read(1)) not in (b"", b"\x03"):
        data += byte
    match = _START.match(data)
    if not match or len(data) == LARGEST_HEADER or byte != b"\x03":
        raise damaged(path, f"no RADOLAN header, which ends with 0x03; it begins with {bytes(data[:16])!r}")
    # The list of radars, behind MS, may hold anything.
    text = data.decode("ascii", "replace").partition("MS")[0]
    name, *date = (part.decode() for part in match.groups())
    if name not in PRODUCTS:
        raise incomplete(path, f"product {name}, not one of {', '.join(PRODUCTS)}")
    found = {key: pattern.search(text) for key, pattern in _TOKENS.items()}
    absent = [key for key, token in found.items() if not token]
    if absent:
        raise incomplete(path, f"no {', '.join(absent)} in the header")
    tokens = {key: token.groups() for key, token in found.items() if token}
    rows, columns = map(int, tokens["GP"])
    lead = _LEAD.search(text)
    header = _Header(
        product=PRODUCTS[name],
        time=_time(date, path),
        grid=_Grid((rows, columns), int(tokens["VS"][0]) >= FIRST_ELLIPSOIDAL_VERSION),
        precision=_PRECISIONS.get(tokens["PR"][0], np.nan),
        interval=int(tokens["INT"][0]) * (1440 if _DAYS.search(text) else 1),
        lead=int(lead[1]) if lead else 0,
        size=len(data) + 1,
        file_size=int(tokens["BY"][0]),
    )
    _check(header, path)
    return header


def _time(date: list[str], path: Path) -> np.datetime64:
    day, hour, minute, month, year = date
    try:
        return np.datetime64(f"20{year}-{month}-{day}T{hour}:{minute}", "ns")
    except ValueError as error:
        raise incomplete(path, f"time: {error}") from error


def _check(header: _Header, path: Path) -> None:
    if header.grid.shape not in REFERENCE_CELL:
        raise incomplete(path, f"a grid of {header.grid.shape} cells, not of {list(REFERENCE_CELL)}")
    expected = header.size + _cells_size(header)
    if header.file_size != expected:
        raise damaged(path, f"{header.file_size} bytes by the header, {expected} by its grid")
    if not header.precision > 0:
        raise incomplete(path, f"PR is not one of E{', E'.join(_PRECISIONS)}")
    if header.interval == 0:
        raise incomplete(path, "an interval of 0 min")


def _cells_size(header: _Header) -> int:
    rows, columns = header.grid.shape
    return rows * columns * np.dtype(header.product.dtype).itemsize


def _values(header: _Header, content: IO[bytes], path: Path) -> np.ndarray:
    """Millimetres or dBZ, float32, shape (Y, X), north first, NaN where there is no data."""
    expected = _cells_size(header)
    data = content.read(expected)
    if len(data) != expected or content.read(1):
        raise damaged(path, f"not the {expected} bytes of cells that the header announces")
    cells = np.frombuffer(data, dtype=header.product.dtype).reshape(header.grid.shape)[::-1]
    if header.product.units == "dBZ":
        return _DBZ[cells]
    values = (cells & VALUE_BITS) * np.float32(header.precision)
    values[(cells & UNUSABLE) != 0] = np.nan
    return values


def _reflectivity() -> np.ndarray:
    table = (np.arange(256) / 2 - 32.5).astype(np.float32)
    table[NO_ECHO], table[FIRST_UNUSABLE:] = -np.inf, np.nan
    return table


_DBZ = _reflectivity()


def _attributes(header: _Header) -> dict[str, str | float]:
    attributes: dict[str, str | float] = {
        "long_name": header.product.long_name,
        "units": header.product.units,
    }
    if header.product.units == "mm":
        attributes["accumulation_minutes"] = float(header.interval)
    return attributes


@lru_cache(maxsize=8)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres; worked out once for an archive."""
    crs = pyproj.CRS.from_user_input(_PROJECTION + (_ELLIPSOID if grid.ellipsoidal else _SPHERE))
    to_metres = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    x, y = to_metres.transform(*REFERENCE_POINT)
    (rows, columns), (rows_below, columns_left) = grid.shape, REFERENCE_CELL[grid.shape]
    west, north = x - columns_left * CELL, y + (rows - rows_below) * CELL
    return map_coordinates(
        west + (np.arange(columns) + 0.5) * CELL, north - (np.arange(rows) + 0.5) * CELL, crs
    )
