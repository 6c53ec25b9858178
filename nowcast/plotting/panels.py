"""Maps of an ensemble in one figure: over lead times, all members, and the probabilities of thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.fields import exceedance_probability
from nowcast.plotting.grids import projection_of
from nowcast.plotting.palettes import PROBABILITY, Palette, palette_of
from nowcast.plotting.sheets import (
    checked,
    chosen_leads,
    draw_blank,
    draw_field,
    draw_key,
    draw_row_label,
    lead_label,
    loaded,
    new_sheet,
    on_same_grid,
    refuse_thresholds,
    several,
    shown_box,
    title_of,
)
from nowcast.verification.score_text import Lead

STAMP_SIDE = 1.75
"""Inches of the longer side of a postage stamp."""
SHEET_SHAPE = 1.4
"""Width by height that the maps of postage stamps fill together, as nearly as they can."""


def plot_panel(
    observed: xr.DataArray | None,
    ensemble: xr.DataArray,
    *,
    lead_times: Lead | Sequence[Lead] | None = None,
    threshold: float = 1.0,
    palette: Palette | str | None = None,
) -> Figure:
    """Maps of an ensemble forecast beside what fell.

    A row is a lead time. The columns are the observation, the ensemble mean, two members and the probability
    of the threshold or more; of a single member, the observation and the forecast. Of a grid that is mostly
    empty the maps show the box that holds data.

    Args:
        observed: Rain array (time, y, x) on the grid of the forecast, in mm/h, from which the valid times are
            picked; a time it lacks is shown as not observed yet. None leaves the column out.
        ensemble: (realization, lead_time, y, x) in mm/h, as forecasters return it.
        lead_times: Rows, or one alone: in minutes, as timedeltas, or as texts like ``30min``; by default 15,
            30 and 60 minutes, or three of the forecast's own evenly chosen.
        threshold: Of the probability, mm/h.
        palette: Of rain, as of `plot_map`.

    Raises:
        RefusedInput: If the ensemble is not in mm/h or lacks a dim, the CRS or a lead time, the grids differ,
            or the threshold is not above 0.
    """
    refuse_thresholds([threshold])
    ensemble = checked(ensemble)
    rows = loaded(ensemble.sel(lead_time=chosen_leads(ensemble, lead_times)))
    frames = None if observed is None else _observed_at(observed, rows)
    box = shown_box(frames, rows)
    columns = _panel_columns(frames, rows, threshold)
    figure, axes = new_sheet(
        rows.isel(box), title_of(rows), rows=rows.sizes["lead_time"], columns=len(columns)
    )
    for column, (name, fields) in enumerate(columns.items()):
        for row, field in enumerate(fields):
            shown = None if field is None else field.isel(box)
            draw_field(axes[row, column], shown, name if row == 0 else "", palette)
    for ax, lead, valid in zip(axes[:, 0], rows["lead_time"].values, rows["time"].values, strict=True):
        draw_row_label(ax, lead_label(lead, valid))
    is_ensemble = rows.sizes["realization"] > 1
    draw_key(axes[-1, :-1] if is_ensemble else axes[-1], palette_of(ensemble, palette), no_data=True)
    if is_ensemble:
        draw_key(axes[-1, -1:], PROBABILITY, no_data=False)
    return figure


def _observed_at(observed: xr.DataArray, rows: xr.DataArray) -> xr.DataArray:
    """The frames at the valid times of a forecast, as far as there are any."""
    observed = on_same_grid(observed, rows)
    return loaded(observed.isel(time=np.isin(observed["time"].values, rows["time"].values)))


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
    if rows.sizes["realization"] == 1:
        columns["Forecast"] = [rows[0, row] for row in range(count)]
        return columns
    mean = rows.mean("realization", keep_attrs=True)
    columns["Ensemble mean"] = [mean[row] for row in range(count)]
    for member in range(2):
        columns[f"Member {rows['realization'].values[member]}"] = [rows[member, row] for row in range(count)]
    probability = exceedance_probability(rows, threshold)
    columns[f"P(≥ {threshold:g} mm/h)"] = [probability[row] for row in range(count)]
    return columns


def plot_stamps(
    ensemble: xr.DataArray,
    *,
    lead_time: Lead,
    observed: xr.DataArray | None = None,
    columns: int | None = None,
    palette: Palette | str | None = None,
) -> Figure:
    """Postage stamps: a small map of every member at one lead time, after what was observed.

    Args:
        ensemble: (realization, lead_time, y, x) in mm/h, as forecasters return it.
        lead_time: In minutes, as a timedelta, or as a text like ``60min``.
        observed: Rain array (time, y, x) on the grid of the forecast, in mm/h, from which the valid time is
            picked; without it the map says that it is not observed yet. None leaves the map out.
        columns: Maps side by side; by default so many that the figure is a little wider than high.
        palette: Of rain, as of `plot_map`.

    Raises:
        RefusedInput: If the ensemble is not in mm/h or lacks a dim, the CRS or the lead time, the grids
            differ, or columns are no number of maps.
    """
    if columns is not None and (not isinstance(columns, (int, np.integer)) or columns < 1):
        raise RefusedInput(
            "columns are 1 or more, and whole", came=columns, do="leave it out, or give 5, say"
        )
    ensemble = checked(ensemble)
    (lead,) = chosen_leads(ensemble, [lead_time])
    members = loaded(ensemble.sel(lead_time=lead))
    frames = None if observed is None else _observed_at(observed, members.expand_dims("lead_time"))
    box = shown_box(frames, members)
    shown = members.isel(box)
    stamps: list[tuple[str, xr.DataArray | None]] = []
    if frames is not None:
        stamps.append(("Observed", frames.isel(box)[0] if frames.sizes["time"] else None))
    stamps += [(f"Member {member['realization'].values}", member) for member in shown]
    columns = min(columns or _full_columns(len(stamps), shown), len(stamps))
    figure, axes = new_sheet(shown, title_of(members), rows=-(-len(stamps) // columns), columns=columns,
                             side=STAMP_SIDE, left=0.15, gap=0.24)  # fmt: skip
    for ax, (name, field) in zip(axes.flat, stamps, strict=False):
        draw_field(ax, field, name, palette, size=8)
    for ax in axes.flat[len(stamps) :]:
        draw_blank(ax)
    draw_key(axes[-1], palette_of(ensemble, palette), no_data=True)
    return figure


def _full_columns(count: int, field: xr.DataArray) -> int:
    """How many maps side by side make a sheet of about `SHEET_SHAPE` with few empty places."""
    west, east, south, north = projection_of(field).bounds
    wanted = np.sqrt(count * SHEET_SHAPE * (north - south) / (east - west))
    candidates = range(max(1, round(wanted)), max(1, int(1.4 * wanted)) + 1)
    return min(candidates, key=lambda columns: (-count % columns, abs(columns - wanted)))


def plot_exceedance(
    ensemble: xr.DataArray,
    *,
    thresholds: float | Sequence[float] = (1.0,),
    lead_times: Lead | Sequence[Lead] | None = None,
) -> Figure:
    """Maps of the probability that it rains as much as a threshold or more: the share of the members.

    A row is a threshold, a column a lead time.

    Args:
        ensemble: (realization, lead_time, y, x) in mm/h, of two members or more.
        thresholds: Rows, or one alone, mm/h.
        lead_times: Columns, as the rows of `plot_panel`.

    Raises:
        RefusedInput: If the ensemble is not in mm/h or lacks a dim, the CRS or a lead time, it has one member
            alone, or a threshold is not above 0.
    """
    thresholds = several(thresholds)
    refuse_thresholds(thresholds)
    ensemble = checked(ensemble)
    if ensemble.sizes["realization"] < 2:
        raise RefusedInput(
            "probabilities are those of an ensemble of two members or more", came="one",
            do="give more members, or draw the forecast with plot_map",
        )  # fmt: skip
    chosen = loaded(ensemble.sel(lead_time=chosen_leads(ensemble, lead_times)))
    chosen = chosen.isel(shown_box(chosen))
    figure, axes = new_sheet(
        chosen, title_of(chosen), rows=len(thresholds), columns=chosen.sizes["lead_time"], left=1.0
    )
    for row, threshold in enumerate(thresholds):
        draw_row_label(axes[row, 0], f"≥ {threshold:g} mm/h")
        probability = exceedance_probability(chosen, threshold)
        for ax, field in zip(axes[row], probability, strict=True):
            above = lead_label(field["lead_time"].values, field["time"].values, between=", ")
            draw_field(ax, field, above if row == 0 else "", None)
    draw_key(axes[-1], PROBABILITY, no_data=True)
    return figure
