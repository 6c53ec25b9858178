"""Where the cells of a CF grid lie (CF conventions 1.11, sections 4 and 5.6).

The projection is, in this order: that of the variable's ``grid_mapping`` (``crs_wkt``, ``spatial_ref``, or
the CF attributes); the only grid mapping in the file; none (WGS 84 is then taken) where the axes or regular
2-D coordinates are latitude and longitude; a PROJ string among the global attributes (`PROJ_ATTRIBUTES`), if
the file's own 2-D latitude and longitude confirm it. No projection is guessed.

Cell centres are the middles of the bounds where there are bounds. Axes without units are metres, if the 2-D
latitude and longitude or the ``GeoTransform`` of the grid mapping confirm it. Latitude and longitude in the
file are compared wherever the attribute ``coordinates`` names them, and have to agree to
`LOCATION_TOLERANCE`; what no attribute names is not read (OpenMRG has latitudes that lie upside down).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep.readers.cf_source import Source, Variable
from data_prep.readers.cf_values import decode
from data_prep.readers.limits import refuse_large_grid
from data_prep.schema import GEOLOCATION_TOLERANCE, map_coordinates

PROJ_ATTRIBUTES = ("proj_string", "proj4", "proj4_string", "proj4_params", "projection", "crs_wkt", "crs")
"""Global attributes in which a projection may stand."""
LOCATION_TOLERANCE = 0.5
"""Cells by which stated latitude and longitude may differ from what the projection says."""
EVEN_TOLERANCE = 0.01
"""Cells by which a coordinate may lie off an even spacing; more than the rounding to float32."""

_METRES = {**dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
           **dict.fromkeys(("km", "kilometre", "kilometres", "kilometer", "kilometers"), 1000.0)}  # fmt: skip
_X_NAMES = {"x", "xc", "easting", "eastings", "lon", "longitude", "longitudes"}
_Y_NAMES = {"y", "yc", "northing", "northings", "lat", "latitude", "latitudes"}
_KINDS = {"projection_x_coordinate": "x", "longitude": "x", "grid_longitude": "x",
          "projection_y_coordinate": "y", "latitude": "y", "grid_latitude": "y"}  # fmt: skip
_LENGTHS = ("semi_major_axis", "semi_minor_axis", "earth_radius")


class Axis(NamedTuple):
    """One axis of a grid: its dimension, its cell centres as in the file, and their unit ("" where none)."""

    dim: str
    values: np.ndarray
    units: str


class Grid(NamedTuple):
    """Geometry as in the header; hashable.

    Attributes:
        x: Cell centres, float64, as bytes.
        y: Cell centres, float64, as bytes.
        units: Of x and of y.
        mapping: Attributes of the grid mapping.
        points: Row, column, latitude and longitude of some cells, as the file states them.
    """

    x: bytes
    y: bytes
    units: tuple[str, str]
    mapping: tuple[tuple[str, Any], ...]
    points: tuple[tuple[float, ...], ...]


def axis_kind(variable: Variable) -> str | None:
    """Whether a coordinate is ``x`` or ``y``: by standard name, else axis, else units, else name."""
    attributes = variable.attributes
    if "standard_name" in attributes:
        return _KINDS.get(attributes["standard_name"])
    if attributes.get("axis") in ("X", "Y", "T", "Z"):
        return {"X": "x", "Y": "y"}.get(attributes["axis"])
    units, name = str(attributes.get("units", "")).lower(), variable.name.lower()
    if units.startswith("degree") and units[-1:] in "en" and "_" in units:
        return "x" if units.endswith(("_e", "_east")) else "y"
    return "x" if name in _X_NAMES else "y" if name in _Y_NAMES else None


def find_axes(source: Source, field: Variable) -> tuple[Axis, Axis]:
    """The axes y and x of a variable.

    Raises:
        ValueError: If it has none that are known, several, or too many cells.
    """
    found: dict[str, list[Variable]] = {"x": [], "y": []}
    for variable in source.variables.values():
        kind = axis_kind(variable)
        own = len(variable.dims) == 1 and variable.dims[0] in field.dims and variable.dtype.kind in "iuf"
        if kind and own:
            found[kind].append(variable)
    # A coordinate that has the name of its dimension goes before others along it.
    chosen = {kind: [v for v in some if v.name == v.dims[0]] or some for kind, some in found.items()}
    if any(len(some) > 1 for some in chosen.values()):
        raise ValueError(f"axes {sorted(v.name for some in chosen.values() for v in some)}: which?")
    if not (chosen["x"] and chosen["y"]):
        return _axes_from_location(source, field)
    down, across = (chosen[kind][0] for kind in "yx")
    if down.dims == across.dims:
        raise ValueError(f"{down.name} and {across.name} lie along the same {down.dims[0]}")
    refuse_large_grid((*down.shape, *across.shape), source.path)
    return _axis(source, down), _axis(source, across)


def make_grid(source: Source, field: Variable, axes: tuple[Axis, Axis]) -> Grid:
    """The geometry that a header states for a variable.

    Raises:
        ValueError: If it states no projection, or several.
    """
    y, x = axes
    points = _points(source, field, axes)
    mapping = _mapping(source, field, axes)
    if mapping is None:
        stated = next((source.attributes[n] for n in PROJ_ATTRIBUTES if n in source.attributes), None)
        if stated is None or not points:
            raise ValueError(
                f"{field.name} has no grid_mapping, its axes are not latitude and longitude, and "
                + (
                    "no 2-D latitude and longitude confirm the projection"
                    if stated
                    else "no projection is stated"
                )
            )
        mapping = {"crs_wkt": str(stated)}
    described = tuple(sorted((k, v) for k, v in mapping.items() if isinstance(v, (str, int, float, tuple))))
    return Grid(x.values.tobytes(), y.values.tobytes(), (x.units, y.units), described, points)


@lru_cache(maxsize=8)
def coordinates_of(grid: Grid) -> dict[str, xr.DataArray]:
    """Spatial coordinates, north and west first; worked out once for an archive.

    Raises:
        ValueError: If the geometry is contradictory, uneven or not confirmed.
    """
    scales = [_METRES.get(unit) for unit in grid.units]
    mapping = dict(grid.mapping)
    crs = _crs(mapping, scales[0] or 1.0)
    x, y = _even(np.frombuffer(grid.x), "x"), _even(np.frombuffer(grid.y), "y")
    if crs.is_geographic:
        if any(unit and not unit.startswith("degree") for unit in grid.units):
            raise ValueError(f"axes in {grid.units} on the geographic {crs.name}")
        # Longitudes of 0 to 360.
        x = x - 360 * np.round(x.mean() / 360)
    else:
        if not any(grid.units) and not grid.points and not _transform_confirms(mapping, x, y):
            raise ValueError("x and y have no units, and neither latitude, longitude nor GeoTransform")
        if any(unit and scale is None for unit, scale in zip(grid.units, scales, strict=True)):
            raise ValueError(f"x and y in {grid.units}, not in m or km")
        x, y = x * (scales[0] or 1.0), y * (scales[1] or 1.0)
    project = _projection(crs)
    if not np.isfinite(project(x.mean(), y.mean(), direction="INVERSE")).all():
        raise ValueError(f"the middle of the grid, x={x.mean():g}, y={y.mean():g}, is nowhere in {crs.name}")
    _compare(grid.points, x, y, project, period=360.0 if crs.is_geographic else None)
    return map_coordinates(np.sort(x), np.sort(y)[::-1], crs)


def _axis(source: Source, variable: Variable) -> Axis:
    bounds = source.variables.get(str(variable.attributes.get("bounds", "")))
    if bounds is not None and bounds.shape == (*variable.shape, 2):
        # Bounds have the packing and the missing values of their coordinate.
        values = decode(variable, bounds.read()).astype(np.float64).mean(axis=1)
    else:
        values = decode(variable, variable.read()).astype(np.float64)
    units = " ".join(str(variable.attributes.get("units", "")).lower().split())
    if not units and axis_kind(variable) and variable.name.lower().startswith(("lat", "lon")):
        units = "degrees"
    return Axis(variable.dims[0], values, units)


def _location(source: Source, field: Variable) -> tuple[Variable, Variable] | None:
    """2-D latitude and longitude that the attribute ``coordinates`` names."""
    named = f"{field.attributes.get('coordinates', '')} {source.attributes.get('coordinates', '')}".split()
    there = [source.variables[n] for n in named if n in source.variables]
    flat = [v for v in there if len(v.dims) == 2 and set(v.dims) <= set(field.dims) and v.dtype.kind in "iuf"]
    latitude = [v for v in flat if axis_kind(v) == "y"]
    longitude = [v for v in flat if axis_kind(v) == "x" and latitude and v.dims == latitude[0].dims]
    return (latitude[0], longitude[0]) if longitude else None


def _axes_from_location(source: Source, field: Variable) -> tuple[Axis, Axis]:
    """The axes of a grid that is regular in latitude and longitude, from these as 2-D coordinates."""
    located = _location(source, field)
    if located is None:
        raise ValueError(f"{field.name} {field.dims} has no coordinates that are known as x and y")
    latitude, longitude = (decode(v, v.read()).astype(np.float64) for v in located)
    down, across = latitude.mean(axis=1), longitude.mean(axis=0)
    off = max(np.abs(latitude - down[:, None]).max(), np.abs(longitude - across).max())
    if not off <= GEOLOCATION_TOLERANCE:
        raise ValueError(
            f"{field.name} has 2-D latitude and longitude that are {off:.2g} degrees off a regular grid of "
            "them, but no x and y: which projection it is regular in is not said"
        )
    rows, columns = located[0].dims
    return Axis(rows, down, "degrees_north"), Axis(columns, across, "degrees_east")


def _points(source: Source, field: Variable, axes: tuple[Axis, Axis]) -> tuple[tuple[float, ...], ...]:
    """Latitude and longitude at corners, edges and centre, as the file states them."""
    located = _location(source, field)
    dims = tuple(axis.dim for axis in axes)
    if located is None or set(located[0].dims) != set(dims):
        return ()
    points = []
    for row in np.unique(np.linspace(0, axes[0].values.size - 1, 3).astype(int)).tolist():
        for column in np.unique(np.linspace(0, axes[1].values.size - 1, 3).astype(int)).tolist():
            index = (row, column) if located[0].dims == dims else (column, row)
            points.append(
                (row, column, *(float(decode(v, np.atleast_1d(v.read(*index)))[0]) for v in located))
            )
    return tuple(points)


def _mapping(source: Source, field: Variable, axes: tuple[Axis, Axis]) -> dict[str, Any] | None:
    named = str(field.attributes.get("grid_mapping", "")).replace(":", " ").split()
    if named:
        # "crs", or "crs: x y other: lat lon".
        if named[0] not in source.variables:
            raise ValueError(f"grid_mapping {named[0]} is absent")
        return source.variables[named[0]].attributes
    keys = ("grid_mapping_name", "crs_wkt", "spatial_ref")
    mappings = [v for v in source.variables.values() if any(key in v.attributes for key in keys)]
    if len(mappings) > 1:
        raise ValueError(f"{field.name} names none of the grid mappings {sorted(v.name for v in mappings)}")
    if mappings:
        return mappings[0].attributes
    if all(axis.units.startswith("degree") for axis in axes):
        return {"crs_wkt": "EPSG:4326"}
    return None


def _crs(mapping: dict[str, Any], scale: float) -> pyproj.CRS:
    text = next((mapping[key] for key in ("crs_wkt", "spatial_ref") if mapping.get(key)), None)
    try:
        if text is not None:
            crs = pyproj.CRS.from_user_input(str(text))
        else:
            crs = pyproj.CRS.from_cf(_in_metres(mapping, scale))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"grid mapping {mapping}: {type(error).__name__} {error}") from error
    crs = next(iter(crs.sub_crs_list), crs) if crs.is_compound else crs
    if crs.is_geographic and crs.is_derived:
        raise ValueError("a rotated pole: regrid to a projection first")
    if crs.is_projected and {axis.unit_conversion_factor for axis in crs.axis_info} <= {1.0, 1000.0}:
        # Kilometres, and metres under another name.
        described = crs.to_json_dict()
        for axis in described["coordinate_system"]["axis"]:
            axis["unit"] = "metre"
        crs = pyproj.CRS.from_json_dict(described)
    return crs


def _in_metres(mapping: dict[str, Any], scale: float) -> dict[str, Any]:
    """CF attributes with lengths in metres: false easting is in units of x, and some radii are in km."""
    converted: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in mapping.items()}
    for name in ("false_easting", "false_northing"):
        if name in converted:
            converted[name] *= scale
    for name in _LENGTHS:
        if name in converted and 6000 < converted[name] < 7000:
            converted[name] *= 1000
    return converted


def _even(values: np.ndarray, name: str) -> np.ndarray:
    """The values on an exactly even spacing, without the rounding of float32."""
    if values.size < 2:
        raise ValueError(f"{name} has {values.size} cell(s), which have no spacing")
    even = np.linspace(values[0], values[-1], values.size)
    off = np.abs(values - even).max() / abs(even[1] - even[0]) if even[1] != even[0] else np.inf
    if not off <= EVEN_TOLERANCE:
        raise ValueError(f"{name} is not evenly spaced: {off:.2g} cells off")
    return even


def _transform_confirms(mapping: dict[str, Any], x: np.ndarray, y: np.ndarray) -> bool:
    """Whether ``GeoTransform`` puts the centre of the first cell where the axes do."""
    stated = mapping.get("GeoTransform", ())
    numbers = [float(n) for n in (stated.split() if isinstance(stated, str) else stated)]
    if len(numbers) != 6:
        return False
    west, width, _, north, _, height = numbers
    misses = ((west + width / 2 - x.min()) / width, (north + height / 2 - y.max()) / height)
    return bool(np.abs(misses).max() <= LOCATION_TOLERANCE / 10)


def _projection(crs: pyproj.CRS) -> Callable:
    """From longitude and latitude to x and y; the datum of degrees is taken for WGS 84, as in `schema`."""
    if crs.is_geographic:
        return lambda longitude, latitude, **_: (longitude, latitude)
    return pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform


def _compare(
    points: tuple[tuple[float, ...], ...],
    x: np.ndarray,
    y: np.ndarray,
    project: Callable,
    *,
    period: float | None,
) -> None:
    """Refuse axes that lie elsewhere than the file's latitude and longitude."""
    if not points:
        return
    rows, columns, latitude, longitude = np.array(points).T
    rows, columns = rows.astype(int), columns.astype(int)
    easting, northing = project(longitude, latitude)
    across = easting - x[columns]
    if period is not None:
        across = (across + period / 2) % period - period / 2
    off = np.hypot(across / (x[1] - x[0]), (northing - y[rows]) / (y[1] - y[0])).max()
    if not off <= LOCATION_TOLERANCE:
        raise ValueError(f"latitude and longitude lie {off:.2g} cells away from x and y")
