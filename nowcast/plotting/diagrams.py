"""Diagrams of ensembles and of rain fields at one lead time: is a probability right, is the rain like rain?

As in `nowcast.plotting.scores`, a figure is one panel, and a panel of which nothing is defined is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nowcast.plotting.scores import (
    OBSERVED_COLOUR,
    Look,
    ensembles,
    lead_of,
    log_axis,
    member_counts,
    new_panel,
    style_axes,
)
from nowcast.verification.score_text import at

WAVELENGTHS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Labels of a spectrum, km."""
LOWEST_VALUE = -0.25
"""Below which a relative economic value is not shown: nobody would use the forecast."""
COST_LOSS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_DIAGONAL: dict[str, Any] = {"color": "0.6", "linewidth": 0.9, "zorder": 1}


def reliability(scores: xr.Dataset, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """Observed frequency by forecast probability of the ensembles, and how often each is forecast.

    Args:
        scores: ``observed_frequency`` and ``forecast_share`` (model, lead_time, threshold, forecast_count).
        looks: As `nowcast.plotting.scores.looks_of` makes them.
        **where: ``threshold`` in mm/h and ``lead_time`` in minutes, the nearest there are.
    """
    models = ensembles(scores)
    if "observed_frequency" not in scores or not models:
        return None
    observed = at(scores["observed_frequency"], **where)
    shares = at(scores["forecast_share"], **where)
    if not bool(np.isfinite(observed.sel(model=models)).any()):
        return None
    figure, ax = new_panel()
    inset = ax.inset_axes((0.13, 0.66, 0.33, 0.24))
    ax.plot((0, 1), (0, 1), **_DIAGONAL)
    members = dict(zip(looks, member_counts(scores), strict=True))
    for model in models:
        count = members[model]
        probability = np.arange(count + 1) / count
        line = looks[model].line()
        ax.plot(probability, observed.sel(model=model).values[: count + 1], **line)
        share = shares.sel(model=model).values[: count + 1]
        inset.plot(probability, np.where(share > 0, share, np.nan), **line | {"marker": "", "linewidth": 1.1})
    style_axes(ax, f"Rain ≥ {float(observed['threshold']):g} mm/h, +{lead_of(observed):g} min",
               x="forecast probability", y="observed frequency")  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1))
    _draw_share_frame(inset)
    return figure


def _draw_share_frame(inset: Axes) -> None:
    inset.set_title("share of cells", fontsize=7.5, loc="left", pad=2)
    inset.set_xlim(0, 1)
    smallest = inset.dataLim.y0 if np.isfinite(inset.dataLim.y0) else 0.1
    inset.set_ylim(10 ** min(np.floor(np.log10(smallest)), -1), 1)
    inset.set_xticks((0, 0.5, 1))
    _percent_axis(inset, numticks=4)
    inset.tick_params(labelsize=6.5, length=2, pad=1)
    inset.patch.set_alpha(0.85)


def _percent_axis(ax: Axes, *, numticks: int = 6) -> None:
    """A logarithmic y axis of shares in percent, with plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=numticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.minorticks_off()


def ranks(scores: xr.Dataset, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """Rank histograms of the ensembles, as multiples of what each rank has in a perfect ensemble."""
    models = ensembles(scores)
    if "rank_frequency" not in scores or not models:
        return None
    frequency = at(scores["rank_frequency"], **where)
    if not bool(np.isfinite(frequency.sel(model=models)).any()):
        return None
    figure, ax = new_panel()
    ax.axhline(1, **_DIAGONAL)
    members = dict(zip(looks, member_counts(scores), strict=True))
    for model in models:
        count = members[model]
        multiple = frequency.sel(model=model).values[: count + 1] * (count + 1)
        edges = np.arange(count + 2) / (count + 1)
        ax.stairs(multiple, edges, baseline=None, color=looks[model].colour, linewidth=1.6,
                  linestyle=looks[model].dashes)  # fmt: skip
    style_axes(ax, f"Rank of the observation, +{lead_of(frequency):g} min",
               x="share of members below what was observed", y="frequency / that of a flat one")  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, max(ax.get_ylim()[1], 1.5)))
    return figure


def roc(scores: xr.Dataset, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """Hit rate by false alarm rate at all probabilities, with the areas below."""
    if not {"hit_rate", "false_alarm_rate"} <= set(scores):
        return None
    hits, alarms = at(scores["hit_rate"], **where), at(scores["false_alarm_rate"], **where)
    if not bool((np.isfinite(hits) & np.isfinite(alarms)).any()):
        return None
    figure, ax = new_panel()
    ax.plot((0, 1), (0, 1), **_DIAGONAL)
    areas = at(scores["roc_area"], **where) if "roc_area" in scores else None
    for place, (model, look) in enumerate(looks.items()):
        points = np.array([alarms.sel(model=model).values, hits.sel(model=model).values])
        points = points[:, np.isfinite(points).all(axis=0)]
        points = points[:, np.lexsort(points[::-1])]
        if points.size:
            ax.plot(*np.hstack([[[0.0], [0.0]], points, [[1.0], [1.0]]]), **look.line())
        if areas is not None and np.isfinite(areas.sel(model=model)):
            ax.text(0.97, 0.05 + 0.075 * (len(looks) - 1 - place), f"{float(areas.sel(model=model)):.3f}",
                    color=look.colour, fontsize=8.5, ha="right")  # fmt: skip
    if areas is not None:
        ax.text(0.97, 0.05 + 0.075 * len(looks), "area", fontsize=8.5, ha="right", color="0.3")
    style_axes(ax, f"Rain ≥ {float(hits['threshold']):g} mm/h, +{lead_of(hits):g} min",
               x="false alarm rate", y="hit rate")  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1.01))
    return figure


def economic_value(scores: xr.Dataset, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """Relative economic value by the ratio of cost and loss, each model at its best probability."""
    if "economic_value" not in scores:
        return None
    values = at(scores["economic_value"], **where)
    if not bool(np.isfinite(values).any()):
        return None
    figure, ax = new_panel()
    ratios = values["cost_loss"].values
    for model, look in looks.items():
        ax.plot(ratios, values.sel(model=model).values, **look.line(ratios.size))
    ax.axhline(0, **_DIAGONAL)
    style_axes(ax, f"Rain ≥ {float(values['threshold']):g} mm/h, +{lead_of(values):g} min",
               x="cost of acting / loss avoided", y="value, 1 is perfect")  # fmt: skip
    log_axis(ax, _within(COST_LOSS, ratios))
    ax.set_ylim(max(ax.get_ylim()[0], LOWEST_VALUE), 1)
    return figure


def spectrum(scores: xr.Dataset, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """Variance of the members and of the observed rain by wavelength, relative to the observed total."""
    if not {"power", "observed_power"} <= set(scores):
        return None
    power, observed = at(scores["power"], **where), at(scores["observed_power"], **where)
    seen = observed.isel(model=0).values
    if not np.nansum(seen) > 0:
        return None
    figure, ax = new_panel()
    lengths = scores["wavelength"].values
    for model, look in looks.items():
        line = power.sel(model=model).values
        ax.loglog(lengths, np.where(line > 0, line, np.nan), **look.line() | {"marker": ""})
    ax.loglog(lengths, np.where(seen > 0, seen, np.nan), color=OBSERVED_COLOUR, linewidth=1.8, zorder=4)
    style_axes(ax, f"Spectrum of the members, +{lead_of(power):g} min", x="wavelength (km)",
               y="power (mm² h⁻², summed)")  # fmt: skip
    log_axis(ax, _within(WAVELENGTHS, lengths))
    ax.set_xlim(lengths.max() * 1.1, lengths.min() / 1.1)
    return figure


def _within(labels: Sequence[float], values: np.ndarray) -> list[float]:
    """Labels between the smallest and the largest value; the values themselves if there is none."""
    return [label for label in labels if values.min() <= label <= values.max()] or values.tolist()


def intensities(scores: xr.Dataset, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """How often each class of rain is forecast, against how often it was observed."""
    if not {"intensity_share", "observed_intensity_share"} <= set(scores):
        return None
    shares = at(scores["intensity_share"], **where)
    observed = at(scores["observed_intensity_share"], **where).isel(model=0).values
    if not np.nansum(observed) > 0:
        return None
    figure, ax = new_panel()
    places = np.arange(shares.sizes["intensity_bin"])
    for model, look in looks.items():
        values = shares.sel(model=model).values
        ax.plot(places, np.where(values > 0, values, np.nan), **look.line())
    ax.plot(places, np.where(observed > 0, observed, np.nan), color=OBSERVED_COLOUR, linewidth=1.8, zorder=4,
            drawstyle="steps-mid")  # fmt: skip
    _percent_axis(ax)
    edges = shares["intensity_bin"].values
    ax.set_xticks(places, [f"{edge:g}" for edge in edges])
    style_axes(ax, f"Classes of rain, +{lead_of(shares):g} min", x="class from (mm/h) to the next",
               y="share of cells")  # fmt: skip
    return figure
