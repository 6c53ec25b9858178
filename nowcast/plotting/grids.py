"""The grid of a field as a map needs it: even axes in metres of a projection, rows from the north."""

from __future__ import annotations

import cartopy.crs as ccrs
import numpy as np
import pyproj
import xarray as xr

from data_prep.schema import RATE_UNITS, RefusedInput, crs_of, crs_variable

EARTH_RADIUS = 6_371_000.0
"""Metres; of the sphere that grids of longitude and latitude are drawn on."""
_GEOGRAPHIC_NAMES = (("lon", "lat"), ("longitude", "latitude"))
_ANGLE_ROOM = 1e-6
"""Degrees by which cell centres may lie beyond the pole, or reach round the globe."""
_UNEVEN = 0.02
"""Of the spacing: by how much steps of an even axis may differ from their mean."""
_RATE_ROOM = 0.01
"""By how much rates and probabilities may lie outside what they can be."""
_TO_RATE = {
    "dBZ": "turn reflectivity into rain rate with data_prep.rain_rate.to_rain_rate",
    "mm": "divide the amount by the hours in which it fell",
    "kg m-2": "divide the amount by the hours in which it fell",
    "m s-1": "multiply by 3.6e6",
    "mm s-1": "multiply by 3600",
    "kg m-2 s-1": "multiply by 3600",
    "%": "divide by 100 and set the units to 1, if it is a probability",
}
"""What makes mm/h of other units."""


class GridProjection(ccrs.Projection):
    """The projection of a grid, bounded by the outer edges of its cells.

    Args:
        crs: Projected CRS in metres.
        extent: West, east, south and north edge, metres.
    """

    def __init__(self, crs: pyproj.CRS, extent: tuple[float, float, float, float]) -> None:
        super().__init__(crs.to_wkt())
        self.bounds = extent
        self.threshold = min(extent[1] - extent[0], extent[3] - extent[2]) / 100


def projection_of(field: xr.DataArray) -> GridProjection:
    """The projection to make axes with, for a map in a figure of your own.

    Args:
        field: Anything with the coordinates ``x``, ``y`` and ``crs`` of a rain array, or on longitude and
            latitude as `in_metres` takes them.

    Raises:
        RefusedInput: If there is no CRS, or an axis is not even or has a single cell.
    """
    field = in_metres(field)
    return GridProjection(crs_of(field), extent_of(field))


def in_metres(array: xr.DataArray) -> xr.DataArray:
    """The same values on axes in metres of a projection, as all of a map is drawn.

    A grid of longitude and latitude, also across the antimeridian, becomes one of the equidistant cylindrical
    projection (Plate Carrée) that is true in its middle. A projected grid is returned as it came.

    Args:
        array: On ``x``, ``y`` with the coordinate ``crs``, in metres or in degrees; or on 1-D ``lon`` and
            ``lat`` (or ``longitude`` and ``latitude``) in degrees, which need no ``crs``.

    Raises:
        RefusedInput: If it is no array, there is no CRS, or it is neither projected in metres nor plainly
            geographic, or there is no such longitude or latitude.
    """
    if not isinstance(array, xr.DataArray):
        raise RefusedInput("a map is drawn of an xarray.DataArray", came=type(array).__name__,
                           do="choose a variable of a Dataset, or label the values")  # fmt: skip
    in_degrees = False
    for longitude, latitude in _GEOGRAPHIC_NAMES:
        if {longitude, latitude} <= set(array.dims):
            array = array.rename({longitude: "x", latitude: "y"})
            in_degrees = True
            if "crs" not in array.coords:
                array = array.assign_coords(crs=crs_variable(pyproj.CRS.from_epsg(4326)))
    crs = crs_of(array)
    units = {axis.unit_name for axis in crs.axis_info}
    if crs.is_projected and units == {"metre"} and not in_degrees:
        return array
    if not crs.is_geographic or crs.is_derived or units != {"degree"}:
        raise RefusedInput(
            "a map is drawn of a grid projected in metres, or in degrees of longitude and latitude",
            came=f"{crs.name} in {', '.join(sorted(units))}", do="convert the coordinates and the CRS",
        )  # fmt: skip
    east, north = np.unwrap(_axis(array, "x"), period=360.0), _axis(array, "y")
    if np.abs(north).max() > 90 + _ANGLE_ROOM or np.ptp(east) > 360 + _ANGLE_ROOM:
        raise RefusedInput(
            "latitudes lie within 90 degrees, longitudes go round the globe once",
            came=f"{north.min():g} to {north.max():g}, and {np.ptp(east):g} degrees of longitude",
            do="correct the coordinates, or name the CRS that they are in",
        )  # fmt: skip
    middle, true = (east[0] + east[-1]) / 2, (north[0] + north[-1]) / 2
    plate_carree = pyproj.CRS.from_proj4(
        f"+proj=eqc +lon_0={(middle + 180) % 360 - 180} +lat_ts={true} +R={EARTH_RADIUS} +units=m"
    )
    x = EARTH_RADIUS * np.cos(np.radians(true)) * np.radians(east - middle)
    y = EARTH_RADIUS * np.radians(north)
    return array.assign_coords(x=("x", x), y=("y", y), crs=crs_variable(plate_carree))


def _axis(array: xr.DataArray, name: str) -> np.ndarray:
    """Cell centres along an axis."""
    if name not in array.coords or array[name].dims != (name,):
        came = f"{name} of dims {array[name].dims}" if name in array.coords else f"no coordinate {name}"
        raise RefusedInput(
            "a map has the 1-D coordinates x and y of its cells", came=came,
            do="give cell centres along each axis, or regrid a curvilinear grid",
        )  # fmt: skip
    return array[name].values.astype(float)


def extent_of(field: xr.DataArray) -> tuple[float, float, float, float]:
    """West, east, south and north edge of the outer cells, metres in the CRS of the grid.

    Raises:
        RefusedInput: If an axis has a single cell, and so no spacing, or is not even.
    """
    edges = []
    for name in ("x", "y"):
        centres = _axis(field, name)
        if centres.size < 2:
            raise RefusedInput(
                "a map has two cells or more along x and y", came=f"{centres.size} along {name}",
                do="draw a larger part of the grid",
            )  # fmt: skip
        spacing = (centres[-1] - centres[0]) / (centres.size - 1)
        if not np.abs(np.diff(centres) - spacing).max() < _UNEVEN * abs(spacing):
            raise RefusedInput(
                "cells of a map are evenly spaced along x and y", came=f"uneven {name}",
                do="regrid the field",
            )  # fmt: skip
        edges += [centres.min() - abs(spacing) / 2, centres.max() + abs(spacing) / 2]
    return edges[0], edges[1], edges[2], edges[3]


def raster(field: xr.DataArray) -> np.ma.MaskedArray:
    """Values with the first row in the north and the first column in the west; non-finite ones masked."""
    field = field.transpose("y", "x")
    rows = slice(None) if field["y"].values[0] > field["y"].values[-1] else slice(None, None, -1)
    columns = slice(None) if field["x"].values[0] < field["x"].values[-1] else slice(None, None, -1)
    return np.ma.masked_invalid(np.asarray(field.values, dtype=np.float32)[rows, columns])


def refuse_impossible(field: xr.DataArray) -> None:
    """Refuse rates below 0, and probabilities outside 0 to 1, but for what interpolation makes.

    Raises:
        RefusedInput: If there are such values.
    """
    values = raster(field)
    if values.mask.all():
        return
    low, high = float(values.min()), float(values.max())
    if low < -_RATE_ROOM:
        raise RefusedInput("rain rates and probabilities are 0 or more", came=f"{low:g}",
                           do="make no data NaN, and dry 0")  # fmt: skip
    if field.attrs.get("units") == "1" and high > 1 + _RATE_ROOM:
        raise RefusedInput("probabilities (units 1) are 0 to 1", came=f"{high:g}",
                           do="divide percent by 100, or say the units")  # fmt: skip


def refuse_other_units(field: xr.DataArray) -> None:
    """Refuse what is neither a rain rate in mm/h nor a probability.

    Without units a field is taken to be in mm/h, as all rain is here: arithmetic drops the attributes.

    Raises:
        RefusedInput: If the units are others.
    """
    units = str(field.attrs.get("units", RATE_UNITS[0]))
    if units not in (*RATE_UNITS, "1"):
        do = _TO_RATE.get(units, "convert the values")
        raise RefusedInput(
            "a map shows rain in mm/h or a probability (units 1)", came=f"units {units}",
            do=f"{do}; or give a Palette of these units",
        )  # fmt: skip
