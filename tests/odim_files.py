"""Small ODIM HDF5 composites for tests."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj

LAEA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84"


def corners(projection: str, west: float, north: float, width: float, height: float) -> dict[str, float]:
    """Outer corners in degrees of a grid given in the unit of its projection."""
    project = pyproj.Proj(projection)
    edges = {"LL": (0, 1), "UL": (0, 0), "UR": (1, 0), "LR": (1, 1)}
    found = {}
    for name, (right, down) in edges.items():
        lon, lat = project(west + right * width, north - down * height, inverse=True)
        found |= {f"where/{name}_lon": lon, f"where/{name}_lat": lat}
    return found


def write_odim(
    path: Path, pixels: Any, *, place: str = "dataset1/data1", without: str = "", **changed: Any
) -> Path:
    """A small composite of 2 km cells round 55 N 10 E; keys ``group__name`` change an attribute."""
    pixels = np.asarray(pixels)
    rows, columns = pixels.shape
    attributes = {
        "/Conventions": "ODIM_H5/V2_3",
        "what/object": "COMP",
        "what/version": "H5rad 2.3",
        "what/date": "20180824",
        "what/time": "180000",
        "what/source": "ORG:247",
        "where/projdef": LAEA,
        "where/xsize": columns,
        "where/ysize": rows,
        "where/xscale": 2000.0,
        "where/yscale": 2000.0,
        **corners(LAEA, 1950000 - 1000 * columns, -2100000 + 1000 * rows, 2000 * columns, 2000 * rows),
        f"{place}/what/quantity": "RATE",
        f"{place}/what/gain": 1.0,
        f"{place}/what/offset": 0.0,
        f"{place}/what/nodata": -9999000.0,
        f"{place}/what/undetect": -8888000.0,
        f"{place}/what/startdate": "20180824",
        f"{place}/what/starttime": "175000",
        f"{place}/what/enddate": "20180824",
        f"{place}/what/endtime": "180500",
    } | {key.replace("__", "/"): value for key, value in changed.items()}
    write_parts(path, {place: pixels}, attributes, without=without)
    return path


def write_parts(path: Path, images: dict[str, Any], attributes: dict[str, Any], *, without: str = "") -> None:
    with h5py.File(path, "a") as file:
        for place, pixels in images.items():
            file[f"{place}/data"] = np.asarray(pixels)
        for key, value in attributes.items():
            group, name = key.rsplit("/", 1)
            if key != without and value is not None:
                value = np.bytes_(value.encode()) if isinstance(value, str) else value
                file.require_group(group or "/").attrs[name] = value
