"""What an ensemble says of one place, over lead times."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pyproj
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput, crs_of, minutes
from nowcast.fields import cells_at
from nowcast.plotting.charts import OBSERVED_COLOUR
from nowcast.plotting.graticule import degrees
from nowcast.plotting.grids import extent_of
from nowcast.plotting.maps import data_attribution, utc
from nowcast.plotting.sheets import (
    checked,
    is_number,
    loaded,
    on_same_grid,
    refuse_thresholds,
    several,
    title_of,
)

BANDS = ((10, 90, "#cfe0f3"), (25, 75, "#97bde3"))
"""Percentiles of the members between which a band lies, %, and its colour."""
MEDIAN_COLOUR = "#08519c"
PROBABILITY_COLOURS = ("#fca26c", "#cf2618", "#7f0000", "#4b0811")
"""Of thresholds from the lowest; more of them begin again, dashed."""
RATES = (0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
"""Labels of the axis of rain rates, beside 0, mm/h."""
LEAST_RATE = 2.0
"""That the axis of rain rates reaches at least, so that drizzle does not look like a cloudburst, mm/h."""
HISTORY = 1 / 3
"""Of the length of the forecast: how long before it what was observed is shown."""
_STEPS = (5, 10, 15, 30, 60, 120, 180, 360, 720)
"""Minutes between labels of the axis of time."""
_SIZE = (7.2, 5.2)
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 0.65, 0.15, 0.8, 0.75, 0.32
"""Inches: margins, the top one with two lines of title, and the space between the two axes."""
_TITLE_LINE = 0.2
"""Inches of a further line."""
_LETTERS = 76
"""Of a line of the title."""
_LOWER = 0.3
"""Of the height: the axes of probabilities."""


def plot_plume(
    ensemble: xr.DataArray,
    *,
    longitude: float,
    latitude: float,
    observed: xr.DataArray | None = None,
    thresholds: float | Sequence[float] = (0.1, 1.0, 5.0),
    place: str = "",
) -> Figure:
    """The plume of an ensemble at a place: the rain rate in the cell it lies in, over lead times.

    Members are thin lines, the median a thick one, and bands hold the middle half and four fifths of the
    members. The axis of rain rates goes by square roots, so that drizzle and downpour are both seen. Below it
    are the probabilities of thresholds. Of a single member there is its line alone.

    Args:
        ensemble: (realization, lead_time, y, x) in mm/h, as forecasters return it.
        longitude: Of the place, degrees east.
        latitude: Of the place, degrees north.
        observed: Rain array (time, y, x) on the grid of the forecast, in mm/h, of which the times of the
            forecast and some before it are shown.
        thresholds: Of the probabilities, or one alone, mm/h.
        place: Its name, for the title.

    Raises:
        RefusedInput: If the ensemble is not in mm/h or lacks a dim or the CRS, the grids differ, a threshold
            is not above 0, or the place is none on the grid, or in a cell of which the forecast says nothing.
    """
    thresholds = several(thresholds)
    refuse_thresholds(thresholds)
    ensemble = checked(ensemble)
    extent_of(ensemble)  # refuses axes that are not even, on which no cell is found
    if not (is_number(longitude) and is_number(latitude)):
        raise RefusedInput(
            "a place is a longitude and a latitude in degrees", came=f"{longitude!r} and {latitude!r}",
            do="give 5.12 and 52.09, say",
        )  # fmt: skip
    row, column = cells_at(ensemble, [longitude], [latitude])[0]
    where = f"{degrees(latitude, 'N', 'S')} {degrees(longitude, 'E', 'W')}"
    if row < 0:
        raise RefusedInput(
            "the place of a plume lies on the grid of the forecast", came=where, do="choose a place inside"
        )
    members = loaded(ensemble.isel(y=row, x=column))
    if not bool(members.notnull().any()):
        raise RefusedInput(
            "a plume shows a cell with data", came=f"no data at {where} at any lead time",
            do="choose a place within range of the radar",
        )  # fmt: skip
    seen = None if observed is None else _seen(on_same_grid(observed, ensemble), members, row, column)
    name = f"{place} ({where})" if place else where
    distance = _distance(ensemble, longitude, latitude, row, column)
    title = [
        *wrap(f"Rain at {name}, the centre of its cell {distance:.1f} km away", _LETTERS),
        *wrap(title_of(members), _LETTERS),
    ]
    figure, upper, lower = _axes(len(title), is_ensemble=members.sizes["realization"] > 1)
    _draw_rates(upper, members, seen)
    if lower is not None:
        _draw_probabilities(lower, members, sorted(thresholds))
    _time_axis(upper if lower is None else lower, members, seen)
    _draw_words(figure, "\n".join(title), data_attribution(ensemble))
    return figure


def _seen(observed: xr.DataArray, members: xr.DataArray, row: int, column: int) -> xr.DataArray | None:
    """What was observed in the cell during the forecast and some time before; None if nothing was."""
    reference, last = members["forecast_reference_time"].values, members["time"].values[-1]
    times = observed["time"].values
    shown = (times >= reference - HISTORY * (last - reference)) & (times <= last)
    cell = loaded(observed.isel(time=shown, y=row, x=column))
    return cell if bool(cell.notnull().any()) else None


def _axes(title_lines: int, *, is_ensemble: bool) -> tuple[Figure, Axes, Axes | None]:
    """A figure with axes of rates, and below them those of probabilities of an ensemble."""
    width, inner = _SIZE[0], _SIZE[1] - _TOP - _BOTTOM
    height = _SIZE[1] + _TITLE_LINE * max(title_lines - 2, 0)
    figure = Figure(figsize=(width, height), dpi=100)
    left, across = _LEFT / width, 1 - (_LEFT + _RIGHT) / width
    if not is_ensemble:
        return figure, figure.add_axes((left, _BOTTOM / height, across, inner / height)), None
    bottom = _BOTTOM + _LOWER * inner
    lower = figure.add_axes((left, _BOTTOM / height, across, (_LOWER * inner - _GAP) / height))
    upper = figure.add_axes((left, bottom / height, across, (1 - _LOWER) * inner / height), sharex=lower)
    upper.tick_params(labelbottom=False)
    return figure, upper, lower


def _lead_minutes(values: xr.DataArray, reference: np.ndarray) -> np.ndarray:
    return (values["time"].values - reference) / np.timedelta64(1, "m")


def _draw_rates(ax: Axes, members: xr.DataArray, seen: xr.DataArray | None) -> None:
    """Members, their median and bands, and what was observed."""
    reference = members["forecast_reference_time"].values
    leads = _lead_minutes(members, reference)
    values = members.values
    some = np.isfinite(values).any(axis=0)
    marker = "o" if leads.size == 1 else ""
    if len(values) > 1:
        for low, high, colour in BANDS:
            edges = np.full((2, leads.size), np.nan)
            edges[:, some] = np.nanpercentile(values[:, some], (low, high), axis=0)
            ax.fill_between(leads, *edges, color=colour, linewidth=0, label=f"{low}–{high} %")
        for number, member in enumerate(values):
            ax.plot(leads, member, color="#4a76a8", linewidth=0.6, alpha=0.55, marker=marker, markersize=2,
                    label="members" if number == 0 else None)  # fmt: skip
    middle = np.full(leads.size, np.nan)
    middle[some] = np.nanmedian(values[:, some], axis=0)
    ax.plot(leads, middle, color=MEDIAN_COLOUR, linewidth=2.0, marker=marker,
            label="median" if len(values) > 1 else "forecast")  # fmt: skip
    if seen is not None:
        ax.plot(_lead_minutes(seen, reference), seen.values, color=OBSERVED_COLOUR, linewidth=1.4, marker="o",
                markersize=3, label="observed")  # fmt: skip
    largest = float(np.nanmax(values)) if seen is None else max(np.nanmax(values), float(seen.max()))
    _rate_axis(ax, largest)
    _draw_legend(ax)


def _rate_axis(ax: Axes, largest: float) -> None:
    """An axis by square roots with plain numbers, as many as there is room for."""
    ax.set_yscale("function", functions=(lambda rate: np.sqrt(np.maximum(rate, 0)), np.square))
    top = 1.15 * max(largest, LEAST_RATE)
    ax.set_ylim(0, top)
    marks = [0.0]
    for rate in RATES:
        if rate <= top and np.sqrt(rate) - np.sqrt(marks[-1]) > 0.07 * np.sqrt(top):
            marks.append(rate)
    ax.set_yticks(marks, labels=[f"{mark:g}" for mark in marks])
    ax.minorticks_off()
    _style(ax, "rain rate (mm/h)")


def _draw_probabilities(ax: Axes, members: xr.DataArray, thresholds: Sequence[float]) -> None:
    """Share of the members with a value that reach each threshold, %."""
    leads = _lead_minutes(members, members["forecast_reference_time"].values)
    known = np.isfinite(members.values).sum(axis=0)
    for number, threshold in enumerate(thresholds):
        share = 100 * (members.values >= threshold).sum(axis=0) / np.where(known, known, np.nan)
        again, colour = divmod(number, len(PROBABILITY_COLOURS))
        ax.plot(leads, share, color=PROBABILITY_COLOURS[colour], linestyle="--" if again else "-", marker="o",
                markersize=2.5, linewidth=1.4, label=f"≥ {threshold:g} mm/h", clip_on=False)  # fmt: skip
    ax.set_ylim(0, 100)
    ax.set_yticks((0, 50, 100))
    _style(ax, "probability (%)")
    _draw_legend(ax)


def _draw_legend(ax: Axes) -> None:
    """Names of the lines, in one row above the axes, where they hide nothing."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.99), borderaxespad=0, ncols=6, fontsize=8, frameon=False,
              columnspacing=1.4, handlelength=1.6)  # fmt: skip


def _style(ax: Axes, label: str) -> None:
    ax.set_ylabel(label, fontsize=9)
    ax.tick_params(labelsize=8.5, length=3)
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _time_axis(ax: Axes, members: xr.DataArray, seen: xr.DataArray | None) -> None:
    """Lead times with the hours they are, and a line at the reference time."""
    reference = members["forecast_reference_time"].values
    last = minutes(members["lead_time"].values[-1])
    first = min(0.0, 0.0 if seen is None else float(_lead_minutes(seen, reference)[0]))
    step = next((step for step in _STEPS if (last - first) / step <= 9), _STEPS[-1])
    marks = np.arange(np.ceil(first / step), np.floor(last / step) + 1) * step
    times = [utc(reference + np.timedelta64(round(60 * mark), "s"))[11:16] for mark in marks]
    labels = [
        f"{'T' if mark == 0 else ''}{mark:+g}\n{time}".replace("-", "−")
        for mark, time in zip(marks, times, strict=True)
    ]
    ax.set_xticks(marks, labels=labels)
    room = 0.02 * (last - first)
    ax.set_xlim(first - room, last + room)
    ax.set_xlabel(f"lead time (min) and time on {utc(reference)[:10]} (UTC)", fontsize=9)
    style: dict[str, Any] = {"color": "0.35", "linewidth": 1.0, "linestyle": (0, (4, 2)), "zorder": 0.9}
    for part in ax.figure.axes:
        part.axvline(0, **style)


def _distance(grid: xr.DataArray, longitude: float, latitude: float, row: int, column: int) -> float:
    """From a place to the centre of a cell, km."""
    to_earth = pyproj.Transformer.from_crs(crs_of(grid), "EPSG:4326", always_xy=True)
    centre = to_earth.transform(grid["x"].values[column], grid["y"].values[row])
    return float(pyproj.Geod(ellps="WGS84").inv(longitude, latitude, *centre)[2]) / 1000


def _draw_words(figure: Figure, title: str, below: str) -> None:
    width, height = figure.get_size_inches()
    figure.suptitle(title, x=_LEFT / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=10.5,
                    linespacing=1.35, parse_math=False)  # fmt: skip
    figure.text(
        _LEFT / width, 0.05 / height, below, fontsize=6.5, color="0.35", va="bottom", parse_math=False
    )
