"""One map: a field of rain or of probability in its own projection, with coasts, borders and lakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cartopy.crs as ccrs
import numpy as np
import pyproj
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_prep.schema import RefusedInput, crs_of, minutes
from nowcast import basemap
from nowcast.plotting.palettes import Palette, palette_of

LARGEST_SIDE = 6.5
"""Inches of the longer side of a map that makes its own figure."""
HEADING: dict[str, Any] = {"fontsize": 10, "linespacing": 1.4}
_LINES: dict[str, dict[str, Any]] = {
    "lake": {"colors": "#5a5a5a", "linewidths": 0.5},
    "border": {"colors": "#3c3c3c", "linewidths": 0.6, "linestyles": (0, (4, 1.6))},
    "coast": {"colors": "#1e1e1e", "linewidths": 0.8},
}
_GRATICULE_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_GRATICULE_LINES = 6
_LABEL_INCHES = 0.22
"""Room along a colour bar that a label needs."""


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
        field: Anything with the coordinates ``x``, ``y`` and ``crs`` of a rain array.

    Raises:
        RefusedInput: If there is no CRS, or an axis has a single cell.
    """
    return GridProjection(crs_of(field), extent_of(field))


def extent_of(field: xr.DataArray) -> tuple[float, float, float, float]:
    """West, east, south and north edge of the outer cells, metres in the CRS of the grid.

    Raises:
        RefusedInput: If an axis has a single cell, and so no spacing.
    """
    edges = []
    for name in ("x", "y"):
        centres = field[name].values.astype(float)
        if centres.size < 2:
            raise RefusedInput(
                "a map has two cells or more along x and y", came=f"{centres.size} along {name}",
                do="draw a larger part of the grid",
            )  # fmt: skip
        half = abs(centres[-1] - centres[0]) / (centres.size - 1) / 2
        edges += [centres.min() - half, centres.max() + half]
    return edges[0], edges[1], edges[2], edges[3]


def plot_map(
    field: xr.DataArray,
    *,
    ax: GeoAxes | None = None,
    title: str | None = None,
    palette: Palette | str | None = None,
    colour_bar: bool = True,
    graticule: bool = True,
) -> GeoAxes:
    """Draw one field in its own projection; the values are not resampled to another grid.

    Grey is no data, white is dry. The figure is ``plot_map(...).figure``; pyplot does not hold it.

    Args:
        field: (y, x) with the coordinates ``x``, ``y`` and ``crs`` of a rain array; mm/h, or a probability
            (units ``1``), 0 to 1.
        ax: Axes to draw in, made with ``projection=projection_of(field)``; by default a new figure.
        title: Heading; by default the valid time and, of a forecast, its lead and reference time.
        palette: Classes and colours, or the name of one of `PALETTES`; by default `RAIN`, or
            `PROBABILITY` for units ``1``.
        colour_bar: Whether to draw the colour bar.
        graticule: Whether to draw meridians and parallels, with their degrees.

    Raises:
        RefusedInput: If the field is not 2-D in (y, x), has no CRS, or the axes have another projection.
    """
    if set(field.dims) != {"y", "x"}:
        raise RefusedInput(
            "a map shows one field (y, x)", came=f"dims {field.dims}",
            do="choose one time and member with sel, or average over members",
        )  # fmt: skip
    title = heading(field) if title is None else title
    if ax is None:
        ax = _new_axes(projection_of(field), heading_lines=title.count("\n") + 1)
    elif not isinstance(ax, GeoAxes) or ax.projection != projection_of(field):
        raise RefusedInput(
            "a map is drawn on axes in the projection of its grid", came=type(ax).__name__,
            do="make the axes with projection=nowcast.plotting.projection_of(field)",
        )  # fmt: skip
    palette = palette_of(field, palette)
    draw_image(ax, field, palette)
    draw_lines(ax, field)
    if graticule:
        draw_graticule(ax, field)
    ax.set_title(title, loc="left", **HEADING)
    if colour_bar:
        draw_colour_bar(ax.inset_axes((1.025, 0.0, 0.032, 1.0)), palette, orientation="vertical")
        draw_no_data_key(ax, (1.025, -0.065, 0.032, 0.032), palette)
    return ax


def heading(field: xr.DataArray) -> str:
    """What the time coordinates of a field say, in one or two lines; empty if it has none."""
    parts = []
    if "time" in field.coords and field["time"].ndim == 0:
        parts.append(f"Valid {utc(field['time'].values)}")
    forecast = []
    if "lead_time" in field.coords and field["lead_time"].ndim == 0:
        forecast.append(f"{lead_text(field['lead_time'].values)} after")
    if "forecast_reference_time" in field.coords:
        reference = utc(field["forecast_reference_time"].values)
        forecast.append(reference if forecast else f"Forecast of {reference}")
    parts.append(" ".join(forecast).removesuffix(" after"))
    return "\n".join(part for part in parts if part)


def utc(time: np.datetime64 | np.ndarray) -> str:
    """A time as ``2010-08-26 05:00 UTC``, with seconds only where they are not zero."""
    text = str(np.asarray(time).astype("datetime64[s]")).replace("T", " ")
    return f"{text.removesuffix(':00')} UTC"


def lead_text(lead_time: np.timedelta64 | np.ndarray) -> str:
    """A lead time as ``30 min``."""
    return f"{minutes(np.timedelta64(np.asarray(lead_time).astype('timedelta64[ns]').item(), 'ns')):g} min"


def draw_image(ax: Axes, field: xr.DataArray, palette: Palette) -> None:
    """The cells of a field, each a rectangle in map coordinates."""
    west, east, south, north = extent = extent_of(field)
    ax.imshow(raster(field), extent=extent, origin="upper", interpolation="nearest",
              cmap=palette.colour_map(), norm=palette.norm(), zorder=1)  # fmt: skip
    ax.set_xlim(west, east)
    ax.set_ylim(south, north)


def raster(field: xr.DataArray) -> np.ma.MaskedArray:
    """Values with the first row in the north and the first column in the west; non-finite ones masked."""
    field = field.transpose("y", "x")
    rows = slice(None) if field["y"].values[0] > field["y"].values[-1] else slice(None, None, -1)
    columns = slice(None) if field["x"].values[0] < field["x"].values[-1] else slice(None, None, -1)
    return np.ma.masked_invalid(np.asarray(field.values, dtype=np.float32)[rows, columns])


def draw_lines(ax: Axes, field: xr.DataArray) -> None:
    """Lakes, borders and coasts, the coasts on top; thinner on a small map."""
    west, east, south, north = extent_of(field)
    found = basemap.lines((west, east), (south, north), crs_of(field))
    weight = float(np.clip(ax.get_window_extent().height / ax.figure.dpi / 5, 0.65, 1.0))
    for kind, style in _LINES.items():
        collection = LineCollection(found[kind], zorder=2, capstyle="round", **style)
        collection.set_linewidth(weight * style["linewidths"])
        ax.add_collection(collection, autolim=False)


def draw_colour_bar(ax: Axes, palette: Palette, *, orientation: Literal["vertical", "horizontal"]) -> None:
    """The classes of a palette, each the same size, labelled at their bounds as far as there is room."""
    bar = Colorbar(
        ax, ScalarMappable(palette.norm(), palette.colour_map()), orientation=orientation, spacing="uniform",
        extend="max" if palette.open_end else "neither", extendfrac=0.06,
    )  # fmt: skip
    box = ax.get_window_extent()
    room = max(box.width, box.height) / ax.figure.dpi / _LABEL_INCHES
    step = next((step for step in (1, 2, 5) if len(palette.levels) / step <= room), 10)
    marks = palette.levels[::step]
    bar.set_ticks(marks, labels=[f"{level:g}" for level in marks])
    bar.ax.tick_params(labelsize=8, length=2)
    bar.ax.minorticks_off()
    bar.set_label(palette.label, fontsize=9)


def draw_no_data_key(ax: Axes, box: Sequence[float], palette: Palette) -> None:
    """A grey field that says what grey means; the box is left, bottom, width, height in axes' fractions."""
    left, bottom, width, height = box
    ax.add_patch(
        Rectangle((left, bottom), width, height, transform=ax.transAxes, clip_on=False,
                  facecolor=palette.no_data, edgecolor="black", linewidth=0.8)
    )  # fmt: skip
    ax.text(
        left + width * 1.25, bottom + height / 2, "no data", transform=ax.transAxes, fontsize=8, va="center"
    )


def _new_axes(projection: GridProjection, *, heading_lines: int) -> GeoAxes:
    """Axes of the grid's shape in a figure with room for labels, heading and colour bar."""
    left, right, bottom, top = 0.65, 1.0, 0.5, 0.2 + 0.2 * heading_lines
    west, east, south, north = projection.bounds
    scale = LARGEST_SIDE / max(east - west, north - south)
    width, height = max((east - west) * scale, 2.5), max((north - south) * scale, 2.5)
    size = np.array([width + left + right, height + bottom + top])
    figure = Figure(figsize=tuple(size), dpi=100)
    place = (left / size[0], bottom / size[1], width / size[0], height / size[1])
    axes = figure.add_axes(place, projection=projection)
    assert isinstance(axes, GeoAxes)
    return axes


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
    across = [(_crossing(line, 1, south, (west, east)), _degrees(value, "E", "W"))
              for line, value in zip(meridians, _round_values(*longitude), strict=True)]  # fmt: skip
    up = [(_crossing(line, 0, west, (south, north)), _degrees(value, "N", "S"))
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
    return (
        (float(around[seen].min()), float(around[seen].max())),
        (float(latitude[seen].min()), float(latitude[seen].max())),
    )


def _round_values(low: float, high: float) -> np.ndarray:
    """Multiples of a round number of degrees in a range, few enough to label."""
    step = next(
        (step for step in _GRATICULE_STEPS if (high - low) / step <= _GRATICULE_LINES), _GRATICULE_STEPS[-1]
    )
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _crossing(line: np.ndarray, axis: int, edge: float, limits: tuple[float, float]) -> float | None:
    """Where a line crosses an edge of the map, along that edge; None if it does not within the limits."""
    offset = line[:, axis] - edge
    with np.errstate(invalid="ignore"):
        steps = np.flatnonzero(offset[:-1] * offset[1:] <= 0)
    for step in steps:
        first, last = line[step, 1 - axis], line[step + 1, 1 - axis]
        span = offset[step] - offset[step + 1]
        place = float(first + (last - first) * (offset[step] / span if span else 0.0))
        if limits[0] <= place <= limits[1]:
            return place
    return None


def _degrees(value: float, positive: str, negative: str) -> str:
    value = (value + 180) % 360 - 180 if positive == "E" else value
    side = positive if value > 0 else negative if value < 0 else ""
    return f"{abs(round(value, 2)):g}°{side}"
