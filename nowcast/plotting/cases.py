"""Maps of one forecast of several models beside what fell."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

import numpy as np
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.fields import exceedance_probability
from nowcast.plotting.maps import (
    draw_colour_bar,
    draw_no_data_key,
    lead_text,
    plot_map,
    projection_of,
    utc,
)
from nowcast.plotting.palettes import PROBABILITY, RAIN
from nowcast.verification.score_text import shortened

MARGIN = 0.03
"""Of the observed box, that is shown around it."""
_SIDE, _GAP, _LEFT, _TOP, _BOTTOM = 2.1, 0.08, 0.55, 0.65, 0.75
"""Inches: longer side of one map, space between maps, and margins."""


def draw_case(
    observed: xr.DataArray,
    ensembles: Mapping[str, xr.DataArray],
    lead_time: np.timedelta64,
    threshold: float = 1.0,
) -> Figure:
    """A row a model: what fell, the ensemble mean, two members and the probability of a threshold or more.

    Of a deterministic model there is the one forecast, and where all are, no other columns. Maps show the box
    of cells that were observed.

    Args:
        observed: Rain array (time, y, x) with the valid time, or its field (y, x), mm/h.
        ensembles: By model, (realization, lead_time, y, x) in mm/h as forecasters return them.
        lead_time: Of the fields to draw.
        threshold: Of the probability, mm/h.

    Raises:
        RefusedInput: If there is no forecast, or the valid time was not observed.
    """
    if not ensembles:
        raise RefusedInput("a case shows one model or more", came="none", do="give the forecasts of a model")
    forecasts = {name: ensemble.sel(lead_time=lead_time) for name, ensemble in ensembles.items()}
    first = next(iter(forecasts.values()))
    valid = first["time"].values
    if "time" in observed.dims:
        if valid not in observed["time"].values:
            raise RefusedInput(
                "what is verified was observed", came=f"no frame at {utc(valid)}", do="draw another lead time"
            )
        observed = observed.sel(time=valid)
    box = _observed_box(observed)
    observed = observed.isel(box)
    largest = max(forecast.sizes["realization"] for forecast in forecasts.values())
    titles: tuple[str, ...] = ("Observed", "Forecast")
    if largest > 1:
        titles = ("Observed", "Forecast or mean", "Member 1", "Member 2", f"P(≥ {threshold:g} mm/h)")
    figure, axes = _grid(observed, rows=len(forecasts), columns=len(titles))
    for row, (name, forecast) in enumerate(forecasts.items()):
        _draw_row(axes[row], observed, forecast.isel(box), threshold)
        _draw_name(axes[row, 0], name)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, loc="left", fontsize=10)
    _draw_keys(figure, axes)
    _draw_title(figure, first, lead_time)
    return figure


def _observed_box(observed: xr.DataArray) -> dict[str, slice]:
    """Rows and columns around the cells with data; all where there is none."""
    seen = np.isfinite(observed.transpose("y", "x").values)
    box = {}
    for place, dim in enumerate(("y", "x")):
        size = seen.shape[place]
        found = np.flatnonzero(seen.any(axis=1 - place))
        if not found.size:
            return {"y": slice(None), "x": slice(None)}
        margin = max(1, round(MARGIN * (found[-1] - found[0])))
        box[dim] = slice(max(0, found[0] - margin), min(size, found[-1] + margin + 1))
    return box


def _grid(field: xr.DataArray, *, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    projection = projection_of(field)
    west, east, south, north = projection.bounds
    scale = _SIDE / max(east - west, north - south)
    width, height = (east - west) * scale, (north - south) * scale
    size = (max(_LEFT + columns * (width + _GAP) + 0.1, 6.4), _TOP + rows * (height + _GAP) + _BOTTOM)
    figure = Figure(figsize=size, dpi=110)
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        left = _LEFT + column * (width + _GAP)
        bottom = _BOTTOM + (rows - 1 - row) * (height + _GAP) + _GAP
        place = (left / size[0], bottom / size[1], width / size[0], height / size[1])
        axes[row, column] = figure.add_axes(place, projection=projection)
    return figure, axes


def _draw_row(axes: np.ndarray, observed: xr.DataArray, forecast: xr.DataArray, threshold: float) -> None:
    fields = [observed, forecast.mean("realization")]
    if forecast.sizes["realization"] > 1:
        fields += [forecast[0], forecast[1], exceedance_probability(forecast, threshold)]
    for ax, field in zip(axes, fields, strict=False):
        plot_map(field, ax=ax, title="", colour_bar=False, graticule=False)
    for ax in axes[len(fields) :]:
        _draw_blank(ax)


def _draw_blank(ax: GeoAxes) -> None:
    ax.patch.set_visible(False)
    ax.spines["geo"].set_visible(False)


def _draw_name(ax: GeoAxes, name: str) -> None:
    """The model's name up the left side, on two lines if it is long."""
    text = "\n".join(wrap(shortened(name, 38), 22, break_on_hyphens=True))
    ax.annotate(text, (0, 0.5), (-5, 0), xycoords="axes fraction", textcoords="offset points", rotation=90,
                ha="right", va="center", fontsize=9, parse_math=False)  # fmt: skip


def _draw_keys(figure: Figure, axes: np.ndarray) -> None:
    """A bar of rain below all maps, and one of probability below its own."""
    with_probability = axes.shape[1] > 2
    unit = np.array([figure.get_figwidth(), figure.get_figheight()])
    bottom, height, key = 0.5 / unit[1], 0.14 / unit[1], 0.85 / unit[0]
    first, last = axes[-1, 0].get_position(), axes[-1, -2 if with_probability else -1].get_position()
    width = np.clip(last.x1 - first.x0 - key, 2.6 / unit[0], 6.0 / unit[0])
    rain = figure.add_axes((first.x0 + key, bottom, width, height))
    draw_colour_bar(rain, RAIN, orientation="horizontal")
    draw_no_data_key(rain, (-key / width, 0.0, 0.25 / unit[0] / width, 1.0), RAIN)
    if with_probability:
        below = axes[-1, -1].get_position()
        bar = figure.add_axes((below.x0, bottom, below.width, height))
        draw_colour_bar(bar, PROBABILITY, orientation="horizontal")


def _draw_title(figure: Figure, forecast: xr.DataArray, lead_time: np.timedelta64) -> None:
    reference = utc(forecast["forecast_reference_time"].values)
    title = f"Valid {utc(forecast['time'].values)}, {lead_text(lead_time)} after {reference}"
    width, height = figure.get_size_inches()
    figure.suptitle(title, x=_LEFT / width, y=1 - 0.12 / height, ha="left", va="top", fontsize=11)
