"""Maps of one forecast of several models beside what fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
import xarray as xr
from cartopy.mpl.geoaxes import GeoAxes
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.fields import box_of_data, exceedance_probability
from nowcast.plotting.maps import lead_text, utc
from nowcast.plotting.palettes import PROBABILITY, RAIN
from nowcast.plotting.sheets import MARGIN, draw_blank, draw_field, draw_key, new_sheet
from nowcast.verification.score_text import shortened

SIDE = 2.1
"""Inches of the longer side of a map."""
_NAME_ROOM = 0.6
"""Inches left of the maps."""


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
    margin = max(1, round(MARGIN * max(observed.shape)))
    box = box_of_data(observed, margin=margin)
    observed = observed.isel(box)
    largest = max(forecast.sizes["realization"] for forecast in forecasts.values())
    titles: tuple[str, ...] = ("Observed", "Forecast")
    if largest > 1:
        titles = ("Observed", "Forecast or mean", "Member 0", "Member 1", f"P(≥ {threshold:g} mm/h)")
    heading = (
        f"Valid {utc(valid)}, {lead_text(lead_time)} after {utc(first['forecast_reference_time'].values)}"
    )
    figure, axes = new_sheet(
        observed, heading, rows=len(forecasts), columns=len(titles), side=SIDE, left=_NAME_ROOM
    )
    for row, (name, forecast) in enumerate(forecasts.items()):
        _draw_row(
            axes[row], titles if row == 0 else [""] * len(titles), observed, forecast.isel(box), threshold
        )
        _draw_name(axes[row, 0], name)
    draw_key(axes[-1, :-1] if largest > 1 else axes[-1], RAIN, no_data=True)
    if largest > 1:
        draw_key(axes[-1, -1:], PROBABILITY, no_data=False)
    return figure


def _draw_row(
    axes: np.ndarray, titles: Sequence[str], observed: xr.DataArray, forecast: xr.DataArray, threshold: float
) -> None:
    fields = [observed, forecast.mean("realization", keep_attrs=True)]
    if forecast.sizes["realization"] > 1:
        fields += [forecast[0], forecast[1], exceedance_probability(forecast, threshold)]
    for ax, field, title in zip(axes, fields, titles, strict=False):
        draw_field(ax, field, title, None)
    for ax in axes[len(fields) :]:
        draw_blank(ax)


def _draw_name(ax: GeoAxes, name: str) -> None:
    """The model's name up the left side, on two lines if it is long."""
    text = "\n".join(wrap(shortened(name, 38), 22, break_on_hyphens=True))
    ax.annotate(text, (0, 0.5), (-5, 0), xycoords="axes fraction", textcoords="offset points", rotation=90,
                ha="right", va="center", fontsize=9, parse_math=False)  # fmt: skip
