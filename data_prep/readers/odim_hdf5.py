"""ODIM HDF5 composites, versions 2.0 to 2.4: OPERA (ODYSSEY, NIMBUS, CIRRUS) and many national services.

Header and image as in Michelson et al., "EUMETNET OPERA weather radar information model for implementation
with the HDF5 file format", version 2.3 (2019) and the ones before. One quantity is read, the first of
`PREFERENCE` that the file holds, and of several datasets with it the first. Attributes of ``what`` and
``where`` are looked up at ``datasetN/dataM``, then ``datasetN``, then the root. The quality index is quality
data or data of quantity ``QIND``, or quality data of no stated quantity whose numbers all lie in 0..1.

Where an attribute is absent, gain is 1 and offset 0; the largest number of unsigned integers is no data and 0
undetected; in floats they are `NO_DATA` and `UNDETECTED`; signed integers must say it. What no attribute
explains and no radar measures is no data: below `LOWEST` in its unit, or beyond float32.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import (
    frame,
    in_nanoseconds,
    incomplete,
    locate,
    single_frame_reader,
)
from data_prep.readers.hdf5 import MAGIC, open_hdf5, read_image
from data_prep.readers.limits import refuse_large_grid
from data_prep.schema import map_coordinates

OBJECTS = ("COMP", "IMAGE")
POLAR = ("PVOL", "SCAN", "RAY", "AZIM", "ELEV")
PREFERENCE = ("RATE", "ACRR", "DBZH", "TH", "DBZ")
"""Quantities that are read, the best for rain first: rate (mm/h), accumulation (mm), horizontal reflectivity
(dBZ), the same uncorrected, and reflectivity of no stated channel."""
NO_DATA = (-9_999_000.0, -9_999.0)
"""No data in floats without an attribute that says it: of ODYSSEY, and as many services have it."""
UNDETECTED = (-8_888_000.0, -8_888.0)
"""The same for echoes below detection."""
LOWEST = {"mm h-1": -0.01, "mm": -0.01, "dBZ": -100.0}
"""What a measurement may come down to, by unit; a rate or amount between that and 0 is rounding, and 0."""
CORNER_TOLERANCE = 0.25
"""Cells by which a corner in the header may miss that of the grid. Three decimals of a degree miss by up to
0.06 km; corners that are centres of cells, not outer corners, miss by half a cell."""

_LONG_NAMES = {"mm h-1": "rain rate", "mm": "accumulated precipitation", "dBZ": "radar reflectivity"}
_UNITS = {"RATE": "mm h-1", "ACRR": "mm"}
_LENGTHS = ("a", "b", "R", "x_0", "y_0")
_LARGEST_RADIUS_IN_KM = 1e5
_EPSG = re.compile(r"(?:\+?init=)?epsg:(\d+)(?:\s.*)?", re.IGNORECASE)
_DATE = re.compile(r"((?:19|20)\d{2})-?(\d{2})-?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(\d{2}):?(\d{2})?(?:\.\d*)?Z?")

Levels = tuple[h5py.Group, ...]
"""Groups that may hold an attribute, the innermost first."""


class _Header(NamedTuple):
    """The field that is read; ``minutes`` is the interval that it stands for, if the file tells it."""

    quantity: str
    levels: Levels
    time: np.datetime64
    minutes: float | None


class _Grid(NamedTuple):
    """Geometry as in the header: cells, size of a cell (x, y), and longitude, latitude of LL, UL, UR, LR."""

    projection: str
    shape: tuple[int, int]
    scale: tuple[float | None, float | None]
    corners: tuple[float, ...]


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is ODIM HDF5, of whatever object.

    Raises:
        RefusedInput: If it is HDF5 that cannot be opened, because it is cut short.
    """
    if not head.startswith(MAGIC):
        return False
    with open_hdf5(path) as file:
        names = (_plain(file.attrs.get("Conventions")), _attribute((file,), "what", "version"))
        return any(str(name).upper().startswith(("ODIM_H5", "H5RAD")) for name in names)


def read_time(path: Path) -> np.datetime64:
    """Nominal time of a rate or reflectivity, end of an accumulation, UTC.

    Raises:
        RefusedInput: If the file is damaged, holds no field that is read, or does not say it.
    """
    with open_hdf5(path) as file:
        return _header(file, path).time


def read(path: Path) -> xr.DataArray:
    """Rain rate, accumulated precipitation or reflectivity.

    Returns:
        A frame, dims (y, x), in mm h-1, mm or dBZ; NaN where there is no data; 0, or -inf dBZ, where nothing
        was detected. With ``quality_index`` if the file has one.

    Raises:
        RefusedInput: If the file is damaged, holds no field that is read, lacks something in its header, or
            its corners contradict its size.
    """
    with open_hdf5(path) as file:
        header = _header(file, path)
        grid = _grid(header.levels, path)
        units = _UNITS.get(header.quantity, "dBZ")
        values = _field(header.levels, grid.shape, path, units)
        quality = _quality(file, header.levels, grid.shape, path)
    attributes: dict[str, Any] = {"long_name": _LONG_NAMES[units], "units": units}
    if header.minutes is not None:
        attributes["accumulation_minutes"] = header.minutes
    coordinates = locate(_coordinates, grid, path)
    if quality is not None:
        described = {"long_name": "quality index, 0 worst to 1 best", "units": "1"}
        coordinates = coordinates | {"quality_index": xr.DataArray(quality, dims=("y", "x"), attrs=described)}
    return frame(values, time=header.time, coordinates=coordinates, attributes=attributes)


READER = single_frame_reader("odim_hdf5", detect, read_time, read)


def _plain(value: Any) -> Any:
    """An attribute out of its wrapping: text as str, an array of one as a number, an empty one as None."""
    if value is None or isinstance(value, h5py.Empty):
        return None
    array = np.asarray(value)
    if array.size != 1:
        return array.tolist()
    item = array.item()
    return item.decode("utf-8", "replace").strip("\x00 ") if isinstance(item, bytes) else item


def _attribute(levels: Levels, group: str, name: str) -> Any:
    """An attribute at the innermost level that has it, or None."""
    for level in levels:
        holder = level.get(group)
        if isinstance(holder, h5py.Group) and name in holder.attrs:
            value = _plain(holder.attrs[name])
            if value is not None:
                return value
    return None


def _number(levels: Levels, group: str, name: str, path: Path, default: float | None = None) -> float | None:
    value = _attribute(levels, group, name)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise incomplete(path, f"{group}/{name} is {value!r}, not one number") from error


def _finite(levels: Levels, group: str, name: str, path: Path) -> float:
    value = _number(levels, group, name, path)
    if value is None or not np.isfinite(value):
        raise incomplete(path, f"{group}/{name} is {value}, not a number")
    return value


def _members(group: h5py.Group, kind: str) -> list[h5py.Group]:
    """The subgroups ``kind1``, ``kind2``, ... in the order of their numbers."""
    names = sorted(
        (name for name in group if re.fullmatch(rf"{kind}[1-9]\d*", name)), key=lambda n: (len(n), n)
    )
    return [member for member in map(group.get, names) if isinstance(member, h5py.Group)]


def _fields(file: h5py.File) -> list[tuple[str, Levels]]:
    """Every field of the file: its quantity, and where its attributes stand."""
    datasets = _members(file, "dataset")
    places = [(data, dataset, file) for dataset in datasets for data in _members(dataset, "data")]
    return [(str(_attribute(levels, "what", "quantity")).upper(), levels) for levels in places]


def _header(file: h5py.File, path: Path) -> _Header:
    kind = str(_attribute((file,), "what", "object")).upper()
    if kind in POLAR:
        raise incomplete(path, f"object {kind} is polar radar data, not a composite: grid it first")
    if kind not in OBJECTS:
        raise incomplete(path, f"object {kind}, not one of {', '.join(OBJECTS)}")
    fields = _fields(file)
    for quantity in PREFERENCE:
        chosen = [levels for found, levels in fields if found == quantity]
        if chosen:
            return _timed(quantity, chosen, path)
    found = ", ".join(sorted({quantity for quantity, _ in fields})) or "none"
    raise incomplete(path, f"quantities {found}; read are {', '.join(PREFERENCE)}")


def _timed(quantity: str, chosen: list[Levels], path: Path) -> _Header:
    intervals = {(_moment(levels, "start", path), _moment(levels, "end", path)) for levels in chosen}
    if len(intervals) > 1:
        raise incomplete(path, f"{quantity} of {len(intervals)} times, not of one")
    (start, end), levels = intervals.pop(), chosen[0]
    minutes = None
    if start is not None and end is not None:
        if end < start:
            raise incomplete(path, f"interval from {start} to {end}")
        minutes = float((end - start) / np.timedelta64(1, "m")) or None
    if quantity == "ACRR" and minutes is None:
        raise incomplete(path, "an accumulation whose start and end time do not say over which interval")
    # A rate or reflectivity holds at the nominal time: the interval spans all scans that went in, and those
    # before it and after it (OPERA's 18:00 is made of 17:50 to 18:05). An accumulation is known at its end.
    time = end if quantity == "ACRR" else _moment(levels[-1:], "", path)
    if time is None:
        raise incomplete(path, "no what/date and what/time")
    return _Header(quantity, levels, time, minutes)


def _moment(levels: Levels, which: str, path: Path) -> np.datetime64 | None:
    date, time = (_attribute(levels, "what", which + name) for name in ("date", "time"))
    if date is None or time is None:
        return None
    # Numbers in place of text lose the zeros of the small hours.
    time = f"{time:06d}" if isinstance(time, int) else str(time)
    day, clock = _DATE.fullmatch(str(date)), _TIME.fullmatch(time)
    try:
        if not day or not clock:
            raise ValueError("not YYYYMMDD and HHmmss")
        iso = f"{'-'.join(day.groups())}T{clock[1]}:{clock[2]}:{clock[3] or '00'}"
        return in_nanoseconds(np.datetime64(iso, "s"))
    except ValueError as error:
        raise incomplete(path, f"{which}date {date!r}, {which}time {time!r}: {error}") from error


def _grid(levels: Levels, path: Path) -> _Grid:
    projection = _attribute(levels, "where", "projdef")
    if not isinstance(projection, str):
        raise incomplete(path, f"where/projdef is {projection!r}, not text")
    rows, columns = (int(_finite(levels, "where", name, path)) for name in ("ysize", "xsize"))
    refuse_large_grid((rows, columns), path)
    corners = [f"{corner}_{axis}" for corner in ("LL", "UL", "UR", "LR") for axis in ("lon", "lat")]
    return _Grid(
        projection=projection,
        shape=(rows, columns),
        scale=(_number(levels, "where", "xscale", path), _number(levels, "where", "yscale", path)),
        corners=tuple(_finite(levels, "where", name, path) for name in corners),
    )


def _pixels(group: h5py.Group, shape: tuple[int, int], path: Path) -> np.ndarray:
    dataset = group.get("data")
    if not isinstance(dataset, h5py.Dataset):
        raise incomplete(path, f"no dataset {group.name}/data")
    return read_image(dataset, shape, path)


def _field(levels: Levels, shape: tuple[int, int], path: Path, units: str) -> np.ndarray:
    """The field in its unit, float32, shape (Y, X)."""
    pixels = _pixels(levels[0], shape, path)
    values = _calibrated(pixels, levels, path)
    np.copyto(values, np.nan, where=values < LOWEST[units])
    if units != "dBZ":
        np.maximum(values, 0, out=values)
    no_data, undetected = _codes(pixels.dtype, levels, path)
    for codes, meaning in ((undetected, -np.inf if units == "dBZ" else 0), (no_data, np.nan)):
        for code in codes:
            np.copyto(values, meaning, where=pixels == code)
    return values


def _calibrated(pixels: np.ndarray, levels: Levels, path: Path) -> np.ndarray:
    """Gain and offset applied, float32, with no copy but the result; what float32 cannot hold is NaN."""
    gain = _number(levels, "what", "gain", path, 1.0)
    offset = _number(levels, "what", "offset", path, 0.0)
    if not gain or offset is None or not np.isfinite([gain, offset]).all():
        raise incomplete(path, f"gain {gain}, offset {offset}")
    values = np.empty(pixels.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(pixels, gain, out=values, casting="same_kind")
        values += np.float32(offset)
    np.copyto(values, np.nan, where=np.isinf(values))
    return values


def _codes(dtype: np.dtype, levels: Levels, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The numbers in the image that stand for no data, and for nothing detected."""
    stated = [_number(levels, "what", name, path) for name in ("nodata", "undetect")]
    if dtype.kind == "i" and None in stated:
        raise incomplete(path, f"{dtype} without nodata or undetect")
    usual = ((float(np.iinfo(dtype).max),), (0.0,)) if dtype.kind == "u" else (NO_DATA, UNDETECTED)
    no_data, undetected = (
        default if code is None else (code,) for default, code in zip(usual, stated, strict=True)
    )
    return no_data, undetected


def _quality(file: h5py.File, levels: Levels, shape: tuple[int, int], path: Path) -> np.ndarray | None:
    """Quality index of the field, float32, shape (Y, X), NaN where it is unknown; None if there is none."""
    # Calibration of quality data stands in its own group only: what is above it is that of the field.
    beside = [(member,) for level in levels[:2] for member in _members(level, "quality")]
    fields = sorted(_fields(file), key=lambda field: field[1][1] != levels[1])
    named = [place for place in beside if _attribute(place, "what", "quantity") == "QIND"]
    named += [place for quantity, place in fields if quantity == "QIND"]
    unnamed = [own for own in beside if "data" in own[0] and _attribute(own, "what", "quantity") is None]
    for place in (*named, *unnamed):
        pixels = _pixels(place[0], shape, path)
        values = _calibrated(pixels, place, path)
        for name in ("nodata", "undetect"):
            code = _number(place, "what", name, path)
            if code is not None:
                np.copyto(values, np.nan, where=pixels == code)
        outside = (values < 0) | (values > 1)
        if place in named or not outside.any():
            np.copyto(values, np.nan, where=outside)
            return values
    return None


def _crs(projection: str) -> pyproj.CRS:
    """The CRS of a ``projdef``, in metres or degrees."""
    code = _EPSG.fullmatch(projection.strip())
    if code:
        return pyproj.CRS.from_epsg(int(code[1]))
    if "proj=" not in projection:
        return pyproj.CRS.from_user_input(projection)
    words = [word.lstrip("+") for word in projection.split()]
    parameters = {name: value for name, _, value in (word.partition("=") for word in words)}
    if parameters.get("units") == "km":
        parameters["units"] = "m"
    if min(float(parameters.get(name, np.inf)) for name in ("a", "R")) < _LARGEST_RADIUS_IN_KM:
        for name in _LENGTHS:
            if name in parameters:
                parameters[name] = f"{float(parameters[name]) * 1000:.3f}"
    parameters["type"] = "crs"
    text = " ".join(f"+{name}={value}" if value else f"+{name}" for name, value in parameters.items())
    crs = pyproj.CRS.from_user_input(text)
    # The corners are on the datum of the projection, and so are latitude and longitude.
    return crs.source_crs if crs.is_bound and crs.source_crs else crs


@lru_cache(maxsize=4)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres or degrees; worked out once for an archive.

    Raises:
        ValueError: If the corners are not those of a grid of the stated size.
    """
    crs = _crs(grid.projection)
    x, y = np.reshape(grid.corners, (4, 2)).T
    if not crs.is_geographic:
        x, y = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(x, y)
    rows, columns = grid.shape
    decimals = 7 if crs.is_geographic else 2
    x_edges = _edges(x[[0, 1]], x[[3, 2]], columns, grid.scale[0], decimals)
    y_edges = _edges(y[[1, 2]], y[[0, 3]], rows, grid.scale[1], decimals)
    if x_edges[0] > x_edges[-1] or y_edges[0] < y_edges[-1]:
        raise ValueError("the corners do not run from west to east and from north to south")
    return map_coordinates((x_edges[1:] + x_edges[:-1]) / 2, (y_edges[1:] + y_edges[:-1]) / 2, crs)


@np.errstate(invalid="ignore")
def _edges(first: np.ndarray, last: np.ndarray, cells: int, scale: float | None, decimals: int) -> np.ndarray:
    """Edges of the cells along an axis, shape (cells + 1,), from both corners at its first and last end.

    Cells of the stated size round the middle of the corners, whose decimals are too few to space them.
    """
    extent = last.mean() - first.mean()
    spacing = extent / cells
    if scale is not None:
        # Some say kilometres.
        in_km = 0.9 < abs(spacing) / (abs(scale) * 1000 or np.inf) < 1.1
        spacing = np.copysign(scale * 1000 if in_km else scale, extent)
    start = np.round((first.mean() + last.mean() - spacing * cells) / 2, decimals)
    edges = start + spacing * np.arange(cells + 1)
    miss = np.abs([*(first - edges[0]), *(last - edges[-1])]).max() / abs(spacing or np.nan)
    if not miss <= CORNER_TOLERANCE:
        raise ValueError(f"a corner misses the grid of {cells} cells of {abs(spacing):g} by {miss:.2g} cells")
    return edges
