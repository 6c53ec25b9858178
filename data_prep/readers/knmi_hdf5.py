"""KNMI radar HDF5: accumulated precipitation of the Netherlands.

Header and image as in Roozekrans and Holleman, "KNMI HDF5 Data Format Specification", v3.5 (2003). What is
odd about the files: lengths in the projection are kilometres, every attribute may be wrapped in an array of
one element, and ``stat_max_value`` is 0 whatever the image holds (so it is not read).
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
from data_prep.schema import map_coordinates

GROUPS = ("overview", "geographic/map_projection", "image1/calibration")
"""Groups that tell this format from other HDF5."""
CORNER_TOLERANCE = 0.005
"""Degrees by which the corners of the grid may miss those in the header, which has three decimals."""

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DATETIME = re.compile(r"(\d{2})-([A-Z]{3})-(\d{4});(\d{2}):(\d{2}):(\d{2})")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CALIBRATION = re.compile(rf"GEO=([-+]?{_NUMBER})\*PV([-+]{_NUMBER})")
_LENGTHS = ("a", "b", "x_0", "y_0")


class _Grid(NamedTuple):
    """Geometry of the grid as in the header; lengths in km, offsets in cells, corners in degrees."""

    projection: str
    shape: tuple[int, int]
    offset: tuple[float, float]
    size: tuple[float, float]
    corners: tuple[float, ...]


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is KNMI HDF5.

    Raises:
        RefusedInput: If it is HDF5 that cannot be opened, because it is cut short.
    """
    if not head.startswith(MAGIC):
        return False
    with open_hdf5(path) as file:
        return all(group in file for group in GROUPS)


def read_time(path: Path) -> np.datetime64:
    """End of the accumulation, UTC.

    Raises:
        RefusedInput: If the file is damaged or its header does not say it.
    """
    with open_hdf5(path) as file:
        return _time(file, "end", path)


def read(path: Path) -> xr.DataArray:
    """Accumulated precipitation.

    Returns:
        A frame, dims (y, x), mm in ``accumulation_minutes``, NaN out of radar range.

    Raises:
        RefusedInput: If the file is damaged, holds another quantity, lacks something in its header, or its
            grid does not end where the header says.
    """
    with open_hdf5(path) as file:
        start, end = _time(file, "start", path), _time(file, "end", path)
        if end <= start:
            raise incomplete(path, f"accumulation from {start} to {end}")
        grid = _grid(file, path)
        values = _values(file, grid, path)
    attributes = {
        "long_name": "accumulated precipitation",
        "units": "mm",
        "accumulation_minutes": float((end - start) / np.timedelta64(1, "m")),
    }
    return frame(values, time=end, coordinates=locate(_coordinates, grid, path), attributes=attributes)


READER = single_frame_reader("knmi_hdf5", detect, read_time, read)


def _attribute(file: h5py.File, group: str, name: str, path: Path) -> Any:
    """An attribute, out of its wrapping; text as str."""
    if group not in file or name not in file[group].attrs:
        raise incomplete(path, f"no attribute {name} in group {group}")
    value = np.asarray(file[group].attrs[name])
    if value.size != 1:
        return value
    item = value.item()
    return item.decode("ascii", "replace") if isinstance(item, bytes) else item


def _number(file: h5py.File, group: str, name: str, path: Path) -> float:
    value = _attribute(file, group, name, path)
    if not isinstance(value, (int, float)) or not np.isfinite(value):
        raise incomplete(path, f"{group}/{name} is {value!r}, not one number")
    return float(value)


def _time(file: h5py.File, which: str, path: Path) -> np.datetime64:
    # The names of the months are English whatever the locale, which rules out strptime.
    text = str(_attribute(file, "overview", f"product_datetime_{which}", path))
    match = _DATETIME.match(text.upper())
    if not match or match[2] not in _MONTHS:
        raise incomplete(path, f"product_datetime_{which} is {text!r}, not DD-MON-YYYY;HH:MM:SS")
    day, month, year, hour, minute, second = match.groups()
    try:
        iso = f"{year}-{_MONTHS.index(month) + 1:02d}-{day}T{hour}:{minute}:{second}"
        return in_nanoseconds(np.datetime64(iso, "s"))
    except ValueError as error:
        raise incomplete(path, f"product_datetime_{which}: {error}") from error


def _grid(file: h5py.File, path: Path) -> _Grid:
    def number(name: str) -> float:
        return _number(file, "geographic", f"geo_{name}", path)

    unit = str(_attribute(file, "geographic", "geo_dim_pixel", path)).upper()
    if unit != "KM,KM":
        raise incomplete(path, f"geo_dim_pixel is {unit}, not KM,KM")
    corners = np.atleast_1d(_attribute(file, "geographic", "geo_product_corners", path))
    if corners.size != 8:
        raise incomplete(path, f"geo_product_corners has {corners.size} numbers, not 8")
    return _Grid(
        projection=str(_attribute(file, "geographic/map_projection", "projection_proj4_params", path)),
        shape=(int(number("number_rows")), int(number("number_columns"))),
        offset=(number("row_offset"), number("column_offset")),
        size=(number("pixel_size_y"), number("pixel_size_x")),
        corners=tuple(float(c) for c in corners),
    )


def _values(file: h5py.File, grid: _Grid, path: Path) -> np.ndarray:
    """Millimetres, float32, shape (Y, X), NaN where there is no data."""
    quantity = str(_attribute(file, "image1", "image_geo_parameter", path))
    if not quantity.upper().endswith("[MM]"):
        raise incomplete(path, f"image_geo_parameter is {quantity}, not precipitation in [MM]")
    formula = str(_attribute(file, "image1/calibration", "calibration_formulas", path))
    match = _CALIBRATION.fullmatch(formula.replace(" ", ""))
    if not match:
        raise incomplete(path, f"calibration_formulas is {formula!r}, not GEO=gain*PV+offset")
    dataset = file.get("image1/image_data")
    if not isinstance(dataset, h5py.Dataset):
        raise incomplete(path, "no dataset image1/image_data")
    pixels = read_image(dataset, grid.shape, path)
    missing = _number(file, "image1/calibration", "calibration_missing_data", path)
    outside = _number(file, "image1/calibration", "calibration_out_of_image", path)
    values = (pixels * float(match[1]) + float(match[2])).astype(np.float32)
    values[(pixels == missing) | (pixels == outside)] = np.nan
    return values


@lru_cache(maxsize=8)
def _coordinates(grid: _Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, in metres; worked out once for an archive.

    Raises:
        ValueError: If the corners of the grid are not those in the header.
    """
    crs = pyproj.CRS.from_user_input(_in_metres(grid.projection))
    (rows, columns), (row_offset, column_offset), (height, width) = grid.shape, grid.offset, grid.size
    if height >= 0 or width <= 0:
        raise ValueError(
            f"pixel sizes {width:g}, {height:g} km: rows are expected north first, columns west first"
        )
    y_edges = (row_offset + np.array([0, rows])) * height * 1000
    x_edges = (column_offset + np.array([0, columns])) * width * 1000
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    # In the header: lower left, upper left, upper right, lower right, longitude before latitude.
    corners = np.stack(to_degrees.transform(x_edges[[0, 0, 1, 1]], y_edges[[1, 0, 0, 1]]), axis=1).ravel()
    miss = np.abs(corners - grid.corners).max()
    if not miss <= CORNER_TOLERANCE:
        raise ValueError(f"the grid ends {miss:.3g} degrees away from geo_product_corners")
    x = x_edges[0] + (np.arange(columns) + 0.5) * width * 1000
    y = y_edges[0] + (np.arange(rows) + 0.5) * height * 1000
    return map_coordinates(x, y, crs)


def _in_metres(projection: str) -> str:
    """A PROJ string whose lengths are in km as one in metres; some files lack a ``+``."""
    parameters = dict(re.findall(r"(\w+)=(\S+)", projection))
    for name in _LENGTHS:
        if name in parameters:
            parameters[name] = f"{float(parameters[name]) * 1000:.3f}"
    return " ".join(f"+{name}={value}" for name, value in parameters.items()) + " +units=m +type=crs"
