"""Meridians and parallels of a map, with their degrees at its edges."""

from __future__ import annotations

import numpy as np
import pyproj
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from data_prep.schema import crs_of
from nowcast.plotting.grids import extent_of

_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_LINES = 6
_MORE = 0.01
"""Of a range of degrees, by which it is widened."""
_ALL_ROUND = 340.0
"""Degrees of longitude in a box from which on it is round a pole, and has all of them."""
_HALF_ROUND = 180.0 - 1e-6
"""Degrees; less than 180, so that a line round the earth begins and ends on its own side of the cut."""
_ON_EDGE = 10.0
"""Metres within which a line touches the edge of the map."""


def draw_graticule(ax: Axes, field: xr.DataArray) -> None:
    """Meridians, labelled where they cross the southern edge, and parallels, at the western edge."""
    west, east, south, north = extent_of(field)
    crs = crs_of(field)
    to_map = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    longitude, latitude = _geographic_range(to_map, (west, east, south, north))
    meridians = [
        np.column_stack(to_map.transform(np.full(200, value), np.linspace(*latitude, 200)))
        for value in _round_values(*longitude)
    ]
    parallels = [
        np.column_stack(to_map.transform(np.linspace(*longitude, 200), np.full(200, value)))
        for value in _round_values(*latitude)
    ]
    ax.add_collection(
        LineCollection(meridians + parallels, colors="#8c8c8c", linewidths=0.4, linestyles=":", zorder=1.5),
        autolim=False,
    )
    across = [(_crossing(line, 1, south, (west, east)), degrees(value, "E", "W"))
              for line, value in zip(meridians, _round_values(*longitude), strict=True)]  # fmt: skip
    up = [(_crossing(line, 0, west, (south, north)), degrees(value, "N", "S"))
          for line, value in zip(parallels, _round_values(*latitude), strict=True)]  # fmt: skip
    for axis, marks in ((ax.xaxis, across), (ax.yaxis, up)):
        kept = [(place, label) for place, label in marks if place is not None]
        axis.set_visible(True)
        axis.set_ticks([place for place, _ in kept], labels=[label for _, label in kept], fontsize=8)
    ax.tick_params(length=2)


def _geographic_range(
    to_map: pyproj.Transformer, extent: tuple[float, float, float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Range of longitude, in one piece across the antimeridian, and of latitude in a box."""
    west, east, south, north = extent
    grid = np.meshgrid(np.linspace(west, east, 21), np.linspace(south, north, 21))
    longitude, latitude = to_map.transform(*grid, direction="INVERSE")
    middle = longitude[10, 10] if np.isfinite(longitude[10, 10]) else 0.0
    around = middle + (longitude - middle + 180) % 360 - 180
    seen = np.isfinite(around) & np.isfinite(latitude)
    if not seen.any():
        return (0.0, 0.0), (0.0, 0.0)
    (east_low, east_high), (low, high) = (_widened(values[seen]) for values in (around, latitude))
    if east_high - east_low >= _ALL_ROUND:
        east_low, east_high = middle - _HALF_ROUND, middle + _HALF_ROUND
    return (east_low, east_high), (max(low, -90.0), min(high, 90.0))


def _widened(values: np.ndarray) -> tuple[float, float]:
    """The range of values and a little more, so that lines do not end just before the edge of the map."""
    more = _MORE * float(np.ptp(values))
    return float(values.min()) - more, float(values.max()) + more


def _round_values(low: float, high: float) -> np.ndarray:
    """Multiples of a round number of degrees in a range, few enough to label."""
    step = next((step for step in _STEPS if (high - low) / step <= _LINES), _STEPS[-1])
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _crossing(line: np.ndarray, axis: int, edge: float, limits: tuple[float, float]) -> float | None:
    """Where a line crosses an edge of the map, along that edge; None if it does not within the limits."""
    offset = line[:, axis] - edge
    offset[np.abs(offset) < _ON_EDGE] = 0.0
    with np.errstate(invalid="ignore"):
        steps = np.flatnonzero(offset[:-1] * offset[1:] <= 0)
    for step in steps:
        first, last = line[step, 1 - axis], line[step + 1, 1 - axis]
        span = offset[step] - offset[step + 1]
        place = float(first + (last - first) * (offset[step] / span if span else 0.0))
        if limits[0] <= place <= limits[1]:
            return place
    return None


def degrees(value: float, positive: str, negative: str) -> str:
    """An angle as ``4.5°E``, the letter by its sign."""
    value = (value + 180) % 360 - 180 if positive == "E" else value
    side = "" if value in (0, -180) else positive if value > 0 else negative
    return f"{abs(round(value, 2)):g}°{side}"
