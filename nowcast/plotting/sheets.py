"""What figures of several maps share: a sheet of maps of one size with a title, keys and an attribution.

A forecast is checked here, too, before maps are drawn of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.figure import Figure

from data_prep.schema import RATE_UNITS, RefusedInput, crs_of
from nowcast.fields import box_of_data
from nowcast.plotting.grids import projection_of
from nowcast.plotting.maps import (
    draw_attribution,
    draw_colour_bar,
    draw_no_data_key,
    draw_remark,
    heading,
    lead_text,
    plot_map,
    remark,
    utc,
)
from nowcast.plotting.palettes import Palette, palette_of
from nowcast.verification.score_text import Lead, minutes_of

PREFERRED_LEADS = tuple(np.timedelta64(m, "m") for m in (15, 30, 60))
"""Lead times to draw, where the forecast has them all."""
MARGIN = 0.03
"""Of the longer side of a grid, that is shown around the cells with data."""
MOSTLY_EMPTY = 0.5
"""Of a grid: where the box that holds all data takes less, maps show that box alone."""
_GRID_TOLERANCE = 1e-3
"""Of a cell: by how much those of the observation may lie off those of the forecast."""
_DIMS = ("realization", "lead_time", "y", "x")
_GAP, _RIGHT, _TOP, _BOTTOM, _TITLE_LINE = 0.12, 0.1, 0.5, 0.95, 0.2
"""Inches: between maps, and margins; the top one with one line of title."""
_LEAST_WIDTH = 5.0
_LETTERS = 11
"""Of a title, in an inch."""
_KEY_BOTTOM, _KEY_HEIGHT, _KEY_WIDTHS, _NO_DATA_ROOM = 0.62, 0.14, (2.6, 7.0), 0.85
"""Inches: where colour bars stand, their height, how long they are, and the room of the key of no data."""


def checked(ensemble: xr.DataArray) -> xr.DataArray:
    """A forecast with dims and lead times in their order, numbers of its members, and the valid ``time``.

    Args:
        ensemble: mm/h, by realization, lead_time, y and x.

    Raises:
        RefusedInput: If it is not rain in mm/h, a dim is not there or empty, or lead or reference times are
            not said.
    """
    _refuse_other_than_rain(
        ensemble, _DIMS,
        "a figure of a forecast shows rain (realization, lead_time, y, x) in mm/h, one or more of each",
        do="give what a forecaster returns, or draw one field with plot_map",
    )  # fmt: skip
    label = "label it as nowcast.forecaster.label does"
    rule = "a forecast says its lead_time as time differences, each once"
    ensemble = _in_order(ensemble, "lead_time", "m", rule, do=label)
    reference = ensemble.coords.get("forecast_reference_time")
    if reference is None or reference.ndim or reference.dtype.kind != "M" or np.isnat(reference.values):
        raise RefusedInput(
            "a forecast says its one forecast_reference_time as datetime64",
            came="none" if reference is None else f"{reference.dtype} {reference.values}",
            do=label,
        )
    if "realization" not in ensemble.coords:
        ensemble = ensemble.assign_coords(realization=np.arange(ensemble.sizes["realization"]))
    valid = reference.values + ensemble["lead_time"].values
    return ensemble.transpose(*_DIMS).assign_coords(time=("lead_time", valid))


def on_same_grid(observed: xr.DataArray, ensemble: xr.DataArray) -> xr.DataArray:
    """Frames that were observed on the grid of a forecast, in the order of their times.

    Raises:
        RefusedInput: If they are not rain in mm/h by time, or lie on another grid.
    """
    give = "give the frames as nowcast.open_radar does"
    _refuse_other_than_rain(
        observed, ("time", "y", "x"), "the observation is a rain array (time, y, x) in mm/h", do=give
    )
    rule = "the observation says its time as datetime64, each once"
    observed = _in_order(observed, "time", "M", rule, do=give)
    crs, other = crs_of(ensemble), crs_of(observed)
    if other != crs:
        raise RefusedInput(
            "the observation is in the CRS of the forecast", came=f"{other.name} against {crs.name}",
            do="reproject the observation to the grid of the forecast",
        )  # fmt: skip
    if not all(_same_cells(observed[name].values, ensemble[name].values) for name in ("x", "y")):
        raise RefusedInput(
            "the observation is on the grid of the forecast",
            came=f"{dict(observed.sizes)} against {dict(ensemble.sizes)}",
            do="crop the observation to the x and y of the forecast",
        )
    grid = {name: ensemble[name].variable for name in ("x", "y", "crs")}
    return observed.transpose("time", "y", "x").assign_coords(grid)


def _refuse_other_than_rain(array: object, dims: Sequence[str], rule: str, *, do: str) -> None:
    """Refuse what is no array of numbers in mm/h with these dims, or empty along another one than time."""
    if not isinstance(array, xr.DataArray):
        came = type(array).__name__
    elif set(array.dims) != set(dims) or not all(size for dim, size in array.sizes.items() if dim != "time"):
        came = str(dict(array.sizes))
    elif array.dtype.kind not in "iuf":
        came = f"values of type {array.dtype}"
    elif (units := array.attrs.get("units", RATE_UNITS[0])) not in RATE_UNITS:
        came = f"units {units}"
    else:
        return
    raise RefusedInput(rule, came=came, do=do)


def _in_order(array: xr.DataArray, dim: str, kind: str, rule: str, *, do: str) -> xr.DataArray:
    """An array with rising times along a dim; refused if one comes twice, or they are of another kind."""
    times = array[dim].values
    if times.dtype.kind != kind:
        came = f"{dim} of type {times.dtype}"
    elif np.isnat(times).any():
        came = f"{dim} NaT"
    elif np.unique(times).size < times.size:
        came = f"the same {dim} again"
    else:
        rising = (np.diff(times) > np.timedelta64(0, "ns")).all()
        return array if rising else array.sortby(dim)  # sorting copies all values
    raise RefusedInput(rule, came=came, do=do)


def _same_cells(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the cell centres of two axes are the same ones."""
    cell = np.ptp(other) / max(other.size - 1, 1)
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=_GRID_TOLERANCE * cell)


def loaded(array: xr.DataArray) -> xr.DataArray:
    """The values in memory; what is not finite is no data, as on every map."""
    array = array.load()
    return array.where(np.isfinite(array))


def several(given: Any) -> list[Any]:
    """Values that were asked for; one alone is a list of one."""
    return list(given) if np.ndim(given) else [given]


def is_number(value: Any) -> bool:
    """Whether it is one finite number."""
    return not np.ndim(value) and np.asarray(value).dtype.kind in "iuf" and bool(np.isfinite(value))


def refuse_thresholds(thresholds: Sequence[float]) -> None:
    """Refuse thresholds that tell nothing.

    Raises:
        RefusedInput: If there is none, or one is not above 0.
    """
    if not thresholds or not all(is_number(threshold) and threshold > 0 for threshold in thresholds):
        raise RefusedInput(
            "thresholds are one or more numbers, above 0 mm/h", came=thresholds, do="give 1.0, say"
        )


def chosen_leads(ensemble: xr.DataArray, lead_times: Lead | Sequence[Lead] | None) -> np.ndarray:
    """The lead times to draw: those asked for, else `PREFERRED_LEADS` or three of the forecast's own.

    Raises:
        RefusedInput: If none is asked for, or one that the forecast does not have.
    """
    available = ensemble["lead_time"].values
    if lead_times is None:
        if np.isin(PREFERRED_LEADS, available).all():
            return np.array(PREFERRED_LEADS)
        count = min(3, available.size)
        return available[[round((n + 1) * available.size / count) - 1 for n in range(count)]]
    wanted = [minutes_of(lead) for lead in several(lead_times)]
    if not wanted:
        raise RefusedInput(
            "lead times to draw are one or more", came="none", do="leave them out, or give some"
        )
    known = {round(60 * minutes_of(lead)): lead for lead in available}  # by seconds
    lacking = [lead for lead in wanted if round(60 * lead) not in known]
    if lacking:
        raise RefusedInput(
            "the forecast has every lead time to be drawn", came=f"{lacking[0]:g} min, absent",
            do=f"choose from {lead_text(available[0])} to {lead_text(available[-1])}",
        )  # fmt: skip
    return np.array([known[round(60 * lead)] for lead in wanted])


def shown_box(*fields: xr.DataArray | None) -> dict[str, slice]:
    """Slices of ``y`` and ``x`` that maps of fields on one grid show: all, unless it is mostly empty."""
    known = [field for field in fields if field is not None]
    seen = xr.concat(
        [field.notnull().any([dim for dim in field.dims if dim not in ("y", "x")]) for field in known],
        "field", coords="minimal", compat="override", join="override",
    )  # fmt: skip
    rows, columns = seen.sizes["y"], seen.sizes["x"]
    box = box_of_data(seen.where(seen), margin=max(1, round(MARGIN * max(rows, columns))))
    height, width = (len(range(*box[dim].indices(seen.sizes[dim]))) for dim in ("y", "x"))
    return box if height * width < MOSTLY_EMPTY * rows * columns else {"y": slice(None), "x": slice(None)}


def new_sheet(
    field: xr.DataArray,
    title: str,
    *,
    rows: int,
    columns: int,
    side: float = 2.7,
    left: float = 0.88,
    gap: float = _GAP,
) -> tuple[Figure, np.ndarray]:
    """A figure with axes for maps of one grid.

    Args:
        field: Anything on the grid, with the attributes of the data.
        title: Of the figure; on several lines if it is long.
        rows: Of maps.
        columns: Of maps.
        side: Inches of the longer side of a map.
        left: Inches of room for labels of the rows.
        gap: Inches between two rows.

    Returns:
        The figure, and its axes (row, column).
    """
    projection = projection_of(field)
    west, east, south, north = projection.bounds
    scale = side / max(east - west, north - south)
    width, height = (east - west) * scale, (north - south) * scale
    across = max(left + columns * (width + _GAP) + _RIGHT, _LEAST_WIDTH)
    lines = wrap(title, max(20, round((across - left) * _LETTERS)))
    top = _TOP + _TITLE_LINE * max(len(lines) - 1, 0)
    size = (across, top + rows * (height + gap) + _BOTTOM)
    figure = Figure(figsize=size, dpi=100)
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        x = left + column * (width + _GAP)
        y = _BOTTOM + (rows - 1 - row) * (height + gap)
        place = (x / size[0], y / size[1], width / size[0], height / size[1])
        axes[row, column] = figure.add_axes(place, projection=projection)
    figure.suptitle("\n".join(lines), x=left / size[0], y=1 - 0.1 / size[1], ha="left", va="top",
                    fontsize=11, parse_math=False)  # fmt: skip
    draw_attribution(axes[-1, 0], field)
    return figure, axes


def draw_field(
    ax: GeoAxes, field: xr.DataArray | None, title: str, palette: Palette | str | None, *, size: float = 10
) -> None:
    """One map of a sheet; None is said to be not observed yet.

    Args:
        ax: Of the sheet.
        field: (y, x), mm/h or a probability.
        title: Above the map.
        palette: Of fields in mm/h.
        size: Of the title, points.
    """
    if field is None:
        draw_remark(ax, "not observed yet")
    else:
        asked = None if field.attrs.get("units") == "1" else palette
        plot_map(field, ax=ax, title="", palette=asked, colour_bar=False, graticule=False)
        if not bool(field.notnull().any()):
            draw_remark(ax, remark(field, palette_of(field, asked)))
    ax.set_title(title, loc="left", fontsize=size, pad=3, parse_math=False)
    for text in ax.texts:
        text.set_fontsize(size - 1)


def draw_blank(ax: GeoAxes) -> None:
    """A place of a sheet without a map."""
    ax.patch.set_visible(False)
    ax.spines["geo"].set_visible(False)


def draw_row_label(ax: GeoAxes, text: str) -> None:
    """Words left of the first map of a row."""
    ax.annotate(text, (0, 0.5), (-7, 0), xycoords="axes fraction", textcoords="offset points", ha="right",
                va="center", fontsize=9, parse_math=False)  # fmt: skip


def draw_key(axes: np.ndarray, palette: Palette, *, no_data: bool) -> None:
    """A colour bar at the lower edge of a sheet.

    Args:
        axes: Maps of one row that it belongs to, from left to right.
        palette: Its classes.
        no_data: Whether the colour of no data is explained before it.
    """
    figure = axes[0].figure
    across, up = figure.get_size_inches()
    room = _NO_DATA_ROOM / across if no_data else 0.0
    left, right = axes[0].get_position().x0, axes[-1].get_position().x1
    least, most = (inches / across for inches in _KEY_WIDTHS) if no_data else (0.0, 1.0)
    width = float(np.clip(right - left - room, least, most))
    bar = figure.add_axes((left + room, _KEY_BOTTOM / up, width, _KEY_HEIGHT / up))
    draw_colour_bar(bar, palette, orientation="horizontal")
    if no_data:
        draw_no_data_key(bar, (-room / width, 0.0, 0.25 / across / width, 1.0), palette)


def title_of(ensemble: xr.DataArray) -> str:
    """Which forecast it is, which model made it, and of how many members."""
    members = ensemble.sizes["realization"]
    single = {"time", "lead_time"} & {name for name in ensemble.coords if ensemble[name].ndim}
    parts = [
        heading(ensemble.drop_vars(single)).replace("\n", ", "),
        f"by {ensemble.attrs['model']}" if "model" in ensemble.attrs else "",
        f"{members} members" if members > 1 else "",
    ]
    return ", ".join(filter(None, parts))


def lead_label(lead_time: np.timedelta64, valid: np.datetime64, *, between: str = "\n") -> str:
    """A lead time and what time it is then, as ``+30 min`` and ``12:30 UTC``."""
    return f"+{lead_text(lead_time)}{between}{utc(valid)[11:]}"
