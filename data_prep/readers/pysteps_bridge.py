"""Importers of pysteps as readers: ``pysteps:IMPORTER?KEY=VALUE&KEY=VALUE@PATTERN``.

For example ``pysteps:knmi_hdf5``, or ``pysteps:mch_gif?product=AQC&unit=mm&accutime=5@AQC%y%j%H%M``. What
stands behind ``?`` are the importer's own arguments; PATTERN is one of `datetime.datetime.strptime` with
which the name of a file begins.

An importer gives no time, so this is the only reader that has to trust the name of a file: the time is what
the pattern finds or, without one, the first twelve digits in a row as YYYYmmddHHMM. What it gives else is a
field, perhaps its quality, and metadata (pysteps, "pysteps.io.importers"): NaN is no data, ``zerovalue``
dry, and ``transform`` ``dB`` says that the field is in decibels, of Z (``unit`` dBZ) or of the rain.

No file is found to be of such a format by its content: these readers are chosen by name.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import threading
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers import Reader, frame, incomplete, locate, open_content, single_frame_reader
from data_prep.readers.limits import refuse_large_grid
from data_prep.schema import RefusedInput, map_coordinates

PREFIX = "pysteps:"
LARGEST_EARTH_IN_KM = 10_000
"""A radius below this is not in metres."""

_LENGTHS = {"a", "b", "R", "x_0", "y_0"}
# The libraries behind the importers, such as netCDF4, are not all safe in several threads.
_lock = threading.Lock()


class _Grid(NamedTuple):
    """Geometry of the grid as in the metadata: outer edges west, south, east, north in ``unit``."""

    projection: str
    unit: str
    shape: tuple[int, int]
    edges: tuple[float, ...]


@lru_cache
def pysteps_reader(importer: str) -> Reader:
    """The reader that an importer of pysteps makes.

    Args:
        importer: Name of the reader, with or without its prefix ``pysteps:``.

    Raises:
        RefusedInput: If pysteps is not installed or cannot be loaded, has no such importer, or the importer
            needs arguments that are not given.
    """
    described, _, pattern = importer.removeprefix(PREFIX).partition("@")
    name, _, query = described.partition("?")
    arguments = {key: _literal(value) for key, value in parse_qsl(query)}
    function = _importer(name)
    try:
        inspect.signature(function).bind("file", **arguments)
    except TypeError as error:
        raise RefusedInput(
            "an importer has its arguments",
            came=f"{importer} ({error})",
            do="give them as in pysteps:mch_gif?product=AQC&unit=mm&accutime=5",
        ) from error
    return single_frame_reader(
        importer,
        lambda _head, _path: False,
        partial(time_of_name, pattern=pattern),
        partial(_read, importer=partial(function, **arguments), pattern=pattern),
    )


def time_of_name(path: Path, *, pattern: str = "") -> np.datetime64:
    """The time that the name of a file says, UTC.

    Args:
        path: The file.
        pattern: Of `datetime.datetime.strptime`, for the beginning of the name; without one, the first twelve
            digits in a row are YYYYmmddHHMM.

    Raises:
        RefusedInput: If the name has no such time.
    """
    name = path.name
    if pattern:
        beginnings = [name[:end] for end in range(len(name), 0, -1)]
    else:
        digits = re.search(r"\d{12}", name, re.ASCII)
        beginnings, pattern = [digits[0]] if digits else [], "%Y%m%d%H%M"
    for beginning in beginnings:
        # Where the pattern leaves something over, it fits a shorter beginning.
        with contextlib.suppress(ValueError, re.error):
            return np.datetime64(datetime.strptime(beginning, pattern), "ns")
    raise RefusedInput(
        f"the name of a file for pysteps begins with its time as {pattern}",
        came=path,
        do="give the pattern behind @, as in pysteps:mch_gif@AQC%y%j%H%M",
    )


def to_frame(imported: tuple[Any, Any, dict], *, time: np.datetime64, path: Path) -> xr.DataArray:
    """What an importer gives as a frame.

    Args:
        imported: Field of shape (Y, X), quality of the same shape or none, metadata.
        time: UTC.
        path: The file, for refusals.

    Returns:
        A frame, dims (y, x), mm in ``accumulation_minutes``, mm h-1 or dBZ.

    Raises:
        RefusedInput: If the metadata lacks something, or says what no frame can be.
    """
    try:
        field, quality, metadata = imported
        values = _filled(field)
        if values.ndim != 2 or not values.size:
            raise incomplete(path, f"a field of shape {values.shape}, not (y, x)")
        refuse_large_grid(values.shape, path)
        grid = _grid(metadata, values.shape, path)
        values, attributes = _physical(values, metadata, path)
        upper = {"upper": True, "lower": False}[metadata["yorigin"]]
        index = None if quality is None else _filled(quality)
    except RefusedInput:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise incomplete(path, f"metadata of pysteps: {type(error).__name__} {error}") from error
    coordinates = locate(_coordinates, grid, path)
    if index is not None and index.shape == values.shape:
        index = np.where((index >= 0) & (index <= 1), index, np.float32(np.nan))
        described = xr.DataArray(index if upper else index[::-1], dims=("y", "x"))
        coordinates = coordinates | {"quality_index": described}
    values = values if upper else values[::-1]
    return frame(values, time=time, coordinates=coordinates, attributes=attributes)


def _read(path: Path, *, importer: Callable[[str], tuple], pattern: str) -> xr.DataArray:
    time = time_of_name(path, pattern=pattern)
    if path.exists():
        # How much an importer reads of it is its own affair; that it is plain and not too large is ours.
        with open_content(path):
            pass
    try:
        with _lock:
            imported = importer(str(path))
    except Exception as error:
        # An importer raises whatever comes up; it promises nothing.
        raise RefusedInput(
            "pysteps imports the file",
            came=f"{path} ({type(error).__name__}: {error})",
            do="compare it with a file that is imported, or leave it out",
        ) from error
    return to_frame(imported, time=time, path=path)


def _importer(name: str) -> Callable[..., tuple]:
    try:
        # It tells where its configuration is, on standard output.
        with _lock, contextlib.redirect_stdout(io.StringIO()):
            from pysteps.io import get_method
    except ImportError as error:
        raise RefusedInput(
            "pysteps is there for its importers",
            came=f"pysteps:{name} ({error})",
            do="pip install -e '.[baselines]' in the checkout",
        ) from error
    except Exception as error:
        raise RefusedInput("pysteps can be loaded", came=error, do="look at its pystepsrc") from error
    try:
        return get_method(name, "importer")
    except ValueError as error:
        raise RefusedInput(
            "pysteps has an importer of that name", came=error, do="choose one of these"
        ) from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _filled(field: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(field, dtype=np.float32), np.float32(np.nan))


def _physical(values: np.ndarray, metadata: dict, path: Path) -> tuple[np.ndarray, dict]:
    """The field in the unit of a frame, with its attributes."""
    unit, transform, zero = metadata["unit"], metadata["transform"], float(metadata["zerovalue"])
    plain = transform is None and unit in ("mm", "mm/h")
    if not plain and not (transform == "dB" and unit in ("mm", "mm/h", "dBZ")):
        raise incomplete(path, f"unit {unit!r}, transformed by {transform!r}")
    if not plain or zero <= 0:
        # A field that is not in decibels and has no dry cell has its lowest rain as zerovalue.
        dry = values <= zero
        values = values if plain or unit == "dBZ" else 10 ** (values / np.float32(10))
        values = np.where(dry, np.float32(-np.inf if unit == "dBZ" else 0), values)
    if np.isposinf(values).any():
        raise incomplete(path, f"an infinite {unit}")
    if unit == "dBZ":
        return values, {"long_name": "radar reflectivity", "units": "dBZ"}
    if unit == "mm/h":
        return values, {"long_name": "precipitation rate", "units": "mm h-1"}
    minutes = float(metadata["accutime"])
    if not 0 < minutes < np.inf:
        raise incomplete(path, f"an accumulation over {minutes} minutes")
    described = {"long_name": "accumulated precipitation", "units": "mm", "accumulation_minutes": minutes}
    return values, described


def _grid(metadata: dict, shape: tuple[int, ...], path: Path) -> _Grid:
    west, south, east, north = (float(metadata[key]) for key in ("x1", "y1", "x2", "y2"))
    for cells, extent, key in (
        (shape[1], east - west, "xpixelsize"),
        (shape[0], north - south, "ypixelsize"),
    ):
        given = metadata.get(key)
        size = extent / cells if given is None else float(given)
        if not (0 < extent < np.inf and abs(extent - cells * size) <= size / 2):
            raise incomplete(path, f"{cells} cells with {key} {size:g} in {extent:g}")
    return _Grid(
        projection=str(metadata["projection"]),
        unit=str(metadata["cartesian_unit"]),
        shape=(shape[0], shape[1]),
        edges=(west, south, east, north),
    )


@lru_cache(maxsize=8)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates; worked out once for an archive."""
    (rows, columns), (west, south, east, north) = grid.shape, grid.edges
    if grid.unit not in ("m", "km", "degrees"):
        raise ValueError(f"cartesian_unit {grid.unit!r}")
    metres = 1000 if grid.unit == "km" else 1
    if grid.unit == "degrees" and west >= 180:
        west, east = west - 360, east - 360
    x = west + (np.arange(columns) + 0.5) * ((east - west) / columns)
    y = north - (np.arange(rows) + 0.5) * ((north - south) / rows)
    crs = pyproj.CRS.from_user_input(_in_metres(grid.projection) if grid.unit == "km" else grid.projection)
    if crs.is_geographic != (grid.unit == "degrees"):
        raise ValueError(f"cartesian_unit {grid.unit!r} in {crs.name}")
    if crs.is_geographic and (max(-south, north) > 90 or west < -180 or east > 180):
        raise ValueError(f"a grid from {south:g} to {north:g} N, {west:g} to {east:g} E")
    return map_coordinates(x * metres, y * metres, crs)


def _in_metres(projection: str) -> str:
    """A PROJ string of a projection in km as one in metres: by its unit, or by an earth of 6378 km."""
    parameters = {}
    for word in projection.split():
        name, _, value = word.lstrip("+").partition("=")
        parameters[name] = value
    if float(parameters.get("a", parameters.get("R", "6378137"))) < LARGEST_EARTH_IN_KM:
        for name in _LENGTHS & parameters.keys():
            parameters[name] = f"{float(parameters[name]) * 1000:.3f}"
    parameters |= {"units": "m", "type": "crs"}
    return " ".join(f"+{name}={value}" if value else f"+{name}" for name, value in parameters.items())
