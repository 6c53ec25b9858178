"""Several maps in one figure: what was observed, and what an ensemble says, over lead times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.fields import exceedance_probability
from nowcast.plotting.maps import (
    GridProjection,
    draw_colour_bar,
    draw_no_data_key,
    heading,
    lead_text,
    plot_map,
    projection_of,
    utc,
)
from nowcast.plotting.palettes import PROBABILITY, RAIN

PREFERRED_LEADS = tuple(np.timedelta64(m, "m") for m in (15, 30, 60))
"""Rows of a panel, where the forecast has them all."""
_GRID_TOLERANCE = 1.0
"""Metres by which the cells of the observation may lie off those of the forecast."""
_PANEL_SIDE, _PANEL_GAP, _PANEL_LEFT, _PANEL_TOP, _PANEL_BOTTOM = 2.7, 0.12, 0.8, 0.7, 0.8
"""Inches: longer side of one map, space between maps, and margins."""


def plot_panel(
    observed: xr.DataArray | None,
    ensemble: xr.DataArray,
    *,
    threshold: float = 1.0,
    lead_times: Sequence[np.timedelta64] | None = None,
) -> Figure:
    """Maps of an ensemble forecast beside what fell.

    A row is a lead time. The columns are the observation, the ensemble mean, two members and the probability
    of the threshold or more; of a single member, the observation and the forecast.

    Args:
        observed: Rain array (time, y, x) on the grid of the forecast, in mm/h, from which the valid times are
            picked; a time it lacks is shown as not observed yet. None leaves the column out.
        ensemble: (realization, lead_time, y, x) in mm/h, as forecasters return it.
        threshold: Of the probability, mm/h.
        lead_times: Rows; by default 15, 30 and 60 minutes, or three of the forecast's own evenly chosen.

    Raises:
        RefusedInput: If the ensemble lacks a dim, the CRS or a lead time, or the grids differ.
    """
    _check_panel(observed, ensemble)
    rows = ensemble.sel(lead_time=_panel_leads(ensemble, lead_times)).load()
    columns = _panel_columns(observed, rows, threshold)
    figure, axes = _panel_axes(projection_of(ensemble), len(columns), rows.sizes["lead_time"])
    for column, (name, fields) in enumerate(columns.items()):
        for row, field in enumerate(fields):
            title = name if row == 0 else ""
            if field is None:
                _draw_absent(axes[row, column], title)
            else:
                plot_map(field, ax=axes[row, column], title=title, colour_bar=False, graticule=False)
    for row, ax in enumerate(axes[:, 0]):
        label = f"+{lead_text(rows['lead_time'].values[row])}\n{utc(rows['time'].values[row])[11:]}"
        ax.annotate(label, (0, 0.5), (-7, 0), xycoords="axes fraction", textcoords="offset points",
                    ha="right", va="center", fontsize=9)  # fmt: skip
    _draw_panel_keys(figure, axes, with_probability=rows.sizes["realization"] > 1)
    members = f"{rows.sizes['realization']} members" if rows.sizes["realization"] > 1 else ""
    made_by = f"by {ensemble.attrs['model']}" if "model" in ensemble.attrs else ""
    title = ", ".join(filter(None, (heading(rows.drop_vars(["time", "lead_time"])), made_by, members)))
    width, height = figure.get_size_inches()
    figure.suptitle(
        title, x=_PANEL_LEFT / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=12 if width > 8 else 8
    )
    return figure


def _check_panel(observed: xr.DataArray | None, ensemble: xr.DataArray) -> None:
    if ensemble.dims != ("realization", "lead_time", "y", "x"):
        raise RefusedInput(
            "a panel shows a forecast (realization, lead_time, y, x)", came=f"dims {ensemble.dims}",
            do="transpose it, or draw one field with plot_map",
        )  # fmt: skip
    if observed is not None and not all(
        observed.sizes[name] == ensemble.sizes[name]
        and np.allclose(observed[name].values, ensemble[name].values, rtol=0, atol=_GRID_TOLERANCE)
        for name in ("x", "y")
    ):
        raise RefusedInput(
            "the observation is on the grid of the forecast",
            came=f"{dict(observed.sizes)} against {dict(ensemble.sizes)}",
            do="crop the observation to the x and y of the forecast",
        )


def _panel_leads(ensemble: xr.DataArray, lead_times: Sequence[np.timedelta64] | None) -> np.ndarray:
    available = ensemble["lead_time"].values
    if lead_times is None:
        if np.isin(PREFERRED_LEADS, available).all():
            return np.array(PREFERRED_LEADS)
        count = min(3, available.size)
        return available[[round((n + 1) * available.size / count) - 1 for n in range(count)]]
    chosen = np.array(list(lead_times), dtype="timedelta64[ns]")
    lacking = chosen[~np.isin(chosen, available)]
    if lacking.size:
        raise RefusedInput(
            "the forecast has every lead time to be drawn", came=f"{lead_text(lacking[0])}, absent",
            do=f"choose from {lead_text(available[0])} to {lead_text(available[-1])}",
        )  # fmt: skip
    return chosen


def _panel_columns(
    observed: xr.DataArray | None, rows: xr.DataArray, threshold: float
) -> dict[str, list[xr.DataArray | None]]:
    """Columns of the panel from left to right, each with a field a row."""
    count = rows.sizes["lead_time"]
    columns: dict[str, list[xr.DataArray | None]] = {}
    if observed is not None:
        known = observed["time"].values
        columns["Observed"] = [
            observed.sel(time=time) if time in known else None for time in rows["time"].values
        ]
    members = rows.sizes["realization"]
    if members == 1:
        columns["Forecast"] = [rows[0, row] for row in range(count)]
        return columns
    mean = rows.mean("realization")
    columns["Ensemble mean"] = [mean[row] for row in range(count)]
    for member in range(2):
        columns[f"Member {rows['realization'].values[member]}"] = [rows[member, row] for row in range(count)]
    probability = exceedance_probability(rows, threshold)
    columns[f"P(≥ {threshold:g} mm/h)"] = [probability[row] for row in range(count)]
    return columns


def _panel_axes(projection: GridProjection, columns: int, rows: int) -> tuple[Figure, np.ndarray]:
    west, east, south, north = projection.bounds
    scale = _PANEL_SIDE / max(east - west, north - south)
    width, height = (east - west) * scale, (north - south) * scale
    size = (
        max(_PANEL_LEFT + columns * (width + _PANEL_GAP) + 0.1, 4.2),
        _PANEL_TOP + rows * (height + _PANEL_GAP) + _PANEL_BOTTOM,
    )
    figure = Figure(figsize=size, dpi=100)
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        left = _PANEL_LEFT + column * (width + _PANEL_GAP)
        bottom = _PANEL_BOTTOM + (rows - 1 - row) * (height + _PANEL_GAP) + _PANEL_GAP
        place = (left / size[0], bottom / size[1], width / size[0], height / size[1])
        axes[row, column] = figure.add_axes(place, projection=projection)
    return figure, axes


def _draw_absent(ax: GeoAxes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10)
    ax.text(0.5, 0.5, "not observed yet", transform=ax.transAxes, ha="center", va="center", color="0.4",
            fontsize=9)  # fmt: skip


def _draw_panel_keys(figure: Figure, axes: np.ndarray, *, with_probability: bool) -> None:
    """One bar of rain under the columns in mm/h and one of probability under its own."""
    unit = np.array([figure.get_figwidth(), figure.get_figheight()])
    bottom, height, key = 0.5 / unit[1], 0.14 / unit[1], 0.85 / unit[0]
    first, last = axes[-1, 0].get_position(), axes[-1, -2 if with_probability else -1].get_position()
    width = np.clip(last.x1 - first.x0 - key, 2.6 / unit[0], 7.0 / unit[0])
    rain = figure.add_axes((first.x0 + key, bottom, width, height))
    draw_colour_bar(rain, RAIN, orientation="horizontal")
    draw_no_data_key(rain, (-key / width, 0.0, 0.25 / unit[0] / width, 1.0), RAIN)
    if with_probability:
        place = axes[-1, -1].get_position()
        draw_colour_bar(
            figure.add_axes((place.x0, bottom, place.width, height)), PROBABILITY, orientation="horizontal"
        )
