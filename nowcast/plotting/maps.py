"""One map: a field of rain or of probability in its own projection, with coasts, borders and waters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from data_prep.schema import RefusedInput, crs_of, minutes
from nowcast import basemap
from nowcast.plotting.graticule import draw_graticule
from nowcast.plotting.grids import (
    extent_of,
    in_metres,
    projection_of,
    raster,
    refuse_impossible,
    refuse_other_units,
)
from nowcast.plotting.palettes import RAIN, Palette, palette_of

LARGEST_SIDE = 6.5
"""Inches of the longer side of a map that makes its own figure."""
HEADING: dict[str, Any] = {"fontsize": 10, "linespacing": 1.4}
_LINES: dict[str, dict[str, Any]] = {
    "river": {"colors": "#7f93a8", "linewidths": 0.5},
    "lake": {"colors": "#5a5a5a", "linewidths": 0.5},
    "border": {"colors": "#3c3c3c", "linewidths": 0.6, "linestyles": (0, (4, 1.6))},
    "coast": {"colors": "#1e1e1e", "linewidths": 0.8},
}
_RANGE_EDGE: dict[str, Any] = {"colors": "#8c8c8c", "linewidths": 0.6, "zorder": 1.2}
_LABEL_INCHES = 0.22
"""Room along a colour bar that a label needs."""
_LICENCE_PREFIX = "LicenseRef-"
"""Of SPDX, before the name of a licence that it does not list."""


def plot_map(
    field: xr.DataArray,
    *,
    ax: GeoAxes | None = None,
    title: str | None = None,
    palette: Palette | str | None = None,
    colour_bar: bool = True,
    graticule: bool = True,
    rivers: bool = False,
) -> GeoAxes:
    """Draw one field in its own projection; the values are not resampled to another grid.

    Grey is no data (and what is not finite), edged by a fine line; white is dry. Grids of longitude and
    latitude are drawn as `nowcast.plotting.in_metres` says. The figure is ``plot_map(...).figure``; pyplot
    does not hold it. A map with a figure of its own names whose data it shows, and says so where there is no
    data or no rain to see.

    Args:
        field: (y, x) with the coordinates ``x``, ``y`` and ``crs`` of a rain array, or (lat, lon) in degrees.
            In mm/h, also where nothing is said of units, or a probability (units ``1``), 0 to 1.
        ax: Axes to draw in, made with ``projection=projection_of(field)``; by default a new figure.
        title: Heading; by default the valid time and, of a forecast, its lead and reference time.
        palette: Classes and colours, or the name of one of `PALETTES`; by default `RAIN`, or
            `PROBABILITY` for units ``1``. A `Palette` of your own may be of any units.
        colour_bar: Whether to draw the colour bar.
        graticule: Whether to draw meridians and parallels, with their degrees.
        rivers: Whether to draw rivers.

    Raises:
        RefusedInput: If the field is not 2-D in (y, x), has no CRS, uneven axes, other units or impossible
            values, the palette has an unknown name, or the axes have another projection.
    """
    field = in_metres(field)
    if set(field.dims) != {"y", "x"}:
        raise RefusedInput(
            "a map shows one field (y, x)", came=f"dims {field.dims}",
            do="choose one time and member with sel, or average over members",
        )  # fmt: skip
    if not isinstance(palette, Palette):
        refuse_other_units(field)
        refuse_impossible(field)
    palette = palette_of(field, palette)
    title = heading(field) if title is None else title
    alone = ax is None
    if ax is None:
        ax = new_axes(field, heading_lines=title.count("\n") + 1)
    elif not isinstance(ax, GeoAxes) or ax.projection != projection_of(field):
        raise RefusedInput(
            "a map is drawn on axes in the projection of its grid", came=type(ax).__name__,
            do="make the axes with projection=nowcast.plotting.projection_of(field)",
        )  # fmt: skip
    draw_image(ax, field, palette)
    draw_lines(ax, field, rivers=rivers)
    if graticule:
        draw_graticule(ax, field)
    ax.set_title(title, loc="left", parse_math=False, **HEADING)
    if alone:
        draw_remark(ax, remark(field, palette))
    if colour_bar:
        draw_colour_bar(ax.inset_axes((1.025, 0.0, 0.032, 1.0)), palette, orientation="vertical")
        draw_no_data_key(ax, (1.025, -0.065, 0.032, 0.032), palette)
    return ax


def heading(field: xr.DataArray) -> str:
    """What the time coordinates of a field say, in one or two lines; empty if it has none."""
    parts = []
    if _says(field, "time", "M"):
        parts.append(f"Valid {utc(field['time'].values)}")
    forecast = []
    if _says(field, "lead_time", "m"):
        forecast.append(f"{lead_text(field['lead_time'].values)} after")
    if _says(field, "forecast_reference_time", "M"):
        reference = utc(field["forecast_reference_time"].values)
        forecast.append(reference if forecast else f"Forecast of {reference}")
    parts.append(" ".join(forecast).removesuffix(" after"))
    return "\n".join(part for part in parts if part)


def _says(field: xr.DataArray, name: str, kind: str) -> bool:
    """Whether a coordinate holds one time (kind ``M``) or difference of times (``m``)."""
    return (
        name in field.coords
        and field[name].ndim == 0
        and field[name].dtype.kind == kind
        and not bool(np.isnat(field[name].values))
    )


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
    ax.patch.set_facecolor("white")  # dry, whatever the style of the figure
    ax.imshow(raster(field), extent=extent, origin="upper", interpolation="nearest",
              cmap=palette.colour_map(), norm=palette.norm(), zorder=1)  # fmt: skip
    ax.add_collection(LineCollection(range_edge(field), **_RANGE_EDGE), autolim=False)
    ax.set_xlim(west, east)
    ax.set_ylim(south, north)


def range_edge(field: xr.DataArray) -> list[np.ndarray]:
    """Lines between the cells with and without data, each (points, 2) in metres."""
    missing = np.ma.getmaskarray(raster(field))
    west, east, south, north = extent_of(field)
    rows, columns = missing.shape
    across, up = (east - west) / columns / 2, (north - south) / rows / 2
    x, y = np.linspace(west + across, east - across, columns), np.linspace(north - up, south + up, rows)
    return list(map(np.asarray, contour_generator(x, y, missing.astype(float)).lines(0.5)))


def remark(field: xr.DataArray, palette: Palette) -> str:
    """What a map without anything to see says: that there is no data, or no rain."""
    values = raster(field)
    if values.mask.all():
        return "no data"
    lowest = next((level for level in palette.levels if level > 0), 0.0)
    if palette.label == RAIN.label and values.max() < lowest and not np.isinf(values.data).any():
        return f"no rain of {lowest:g} mm/h or more"
    return ""


def draw_remark(ax: Axes, text: str) -> Text:
    """Words in the middle of a map."""
    return ax.text(
        0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=11, color="0.25", zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 3},
    )  # fmt: skip


def data_attribution(field: xr.DataArray) -> str:
    """Whose data, as the attributes of the field name them; empty if they do not."""
    licence = str(field.attrs.get("license", "")).removeprefix(_LICENCE_PREFIX)
    data = ", ".join(filter(None, (str(field.attrs.get("institution", "")), licence)))
    return f"Data: {' '.join(data.split())}" if data else ""


def attribution(field: xr.DataArray) -> str:
    """Whose data and whose map."""
    return " · ".join(filter(None, (data_attribution(field), "Map: Natural Earth")))


def draw_attribution(ax: Axes, field: xr.DataArray) -> None:
    """A small line at the lower edge of the figure, from the left edge of the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.text(ax.get_position().x0, 0.05 / figure.get_figheight(), attribution(field), fontsize=6.5,
                color="0.35", va="bottom", parse_math=False)  # fmt: skip


def draw_lines(ax: Axes, field: xr.DataArray, *, rivers: bool = False) -> None:
    """Lakes, borders and coasts, the coasts on top, and rivers below them all; thinner on a small map."""
    west, east, south, north = extent_of(field)
    kinds = [kind for kind in _LINES if rivers or kind != "river"]
    found = basemap.lines((west, east), (south, north), crs_of(field), kinds)
    weight = float(np.clip(ax.get_window_extent().height / ax.figure.dpi / 5, 0.45, 1.0))
    for kind in kinds:
        style = _LINES[kind]
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


def new_axes(field: xr.DataArray, *, heading_lines: int) -> GeoAxes:
    """Axes of the grid's shape in a figure with room for labels, heading, colour bar and attribution."""
    projection = projection_of(field)
    left, right, bottom, top = 0.65, 1.0, 0.55, 0.2 + 0.2 * heading_lines
    west, east, south, north = projection.bounds
    scale = LARGEST_SIDE / max(east - west, north - south)
    width, height = max((east - west) * scale, 2.5), max((north - south) * scale, 2.5)
    size = np.array([width + left + right, height + bottom + top])
    figure = Figure(figsize=tuple(size), dpi=100)
    place = (left / size[0], bottom / size[1], width / size[0], height / size[1])
    axes = figure.add_axes(place, projection=projection)
    assert isinstance(axes, GeoAxes)
    draw_attribution(axes, field)
    return axes
