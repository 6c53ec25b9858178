"""Diagrams of ensembles and of rain fields at one lead time: are probabilities right, is rain like rain?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nowcast.plotting.charts import (
    OBSERVED_COLOUR,
    Look,
    Undefined,
    legend_of,
    log_axis,
    looks_of,
    member_counts,
    new_panels,
    picked,
    style_axes,
)
from nowcast.plotting.scores import lead_of
from nowcast.verification.score_text import Lead

WAVELENGTHS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Labels of a spectrum, km."""
LOWEST_VALUE = -0.25
"""Below which a relative economic value is not shown: nobody would use the forecast."""
COST_LOSS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_DIAGONAL: dict[str, Any] = {"color": "0.6", "linewidth": 0.9, "zorder": 1}


def plot_reliability(
    scores: xr.Dataset, *, threshold: float = 1.0, lead_time: Lead = 30.0, legend: bool = True
) -> Figure:
    """Observed frequency by forecast probability of the ensembles, and how often each is forecast.

    Args:
        scores: ``observed_frequency`` and ``forecast_share`` (model, lead_time, threshold, forecast_count).
        threshold: mm/h, the nearest there is.
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If no ensemble forecasts the event.
    """
    values = picked(scores, "observed_frequency", "forecast_share", ensembles_only=True,
                    threshold=threshold, lead_time=lead_time)  # fmt: skip
    observed, shares = values["observed_frequency"], values["forecast_share"]
    looks = _looks(scores, values)
    figure, (ax,) = new_panels(legend=legend_of(looks) if legend else None)
    inset = ax.inset_axes((0.13, 0.66, 0.33, 0.24))
    ax.plot((0, 1), (0, 1), **_DIAGONAL)
    for model, count in member_counts(values).items():
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


def _looks(scores: xr.Dataset, shown: xr.Dataset) -> dict[str, Look]:
    """The looks that models have in all figures, of those that are shown."""
    return {model: look for model, look in looks_of(scores).items() if model in shown["model"]}


def _refuse_no_rain(observed: np.ndarray) -> None:
    if not np.nansum(observed) > 0:
        raise Undefined("rain was observed", came="none", do="verify cases with rain")


def _draw_share_frame(inset: Axes) -> None:
    inset.set_title("share of cells", fontsize=8, loc="left", pad=2)
    inset.set_xlim(0, 1)
    smallest = inset.dataLim.y0 if np.isfinite(inset.dataLim.y0) else 0.1
    inset.set_ylim(10 ** min(np.floor(np.log10(smallest)), -1), 1)
    inset.set_xticks((0, 0.5, 1))
    _percent_axis(inset, numticks=4)
    inset.tick_params(labelsize=7.5, length=2, pad=1)
    inset.patch.set_alpha(0.85)


def _percent_axis(ax: Axes, *, numticks: int = 6) -> None:
    """A logarithmic y axis of shares in percent, with plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=numticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.minorticks_off()


def plot_rank_histogram(scores: xr.Dataset, *, lead_time: Lead = 30.0, legend: bool = True) -> Figure:
    """Rank histograms of the ensembles, as multiples of what each rank has in a perfect ensemble.

    Args:
        scores: ``rank_frequency`` (model, lead_time, rank).
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If no ensemble has ranks.
    """
    values = picked(scores, "rank_frequency", ensembles_only=True, lead_time=lead_time)
    frequency = values["rank_frequency"]
    looks = _looks(scores, values)
    figure, (ax,) = new_panels(legend=legend_of(looks, marked=False) if legend else None)
    ax.axhline(1, **_DIAGONAL)
    for model, count in member_counts(values).items():
        multiple = frequency.sel(model=model).values[: count + 1] * (count + 1)
        edges = np.arange(count + 2) / (count + 1)
        ax.stairs(multiple, edges, baseline=None, color=looks[model].colour, linewidth=1.6,
                  linestyle=looks[model].dashes)  # fmt: skip
    style_axes(ax, f"Rank of the observation, +{lead_of(frequency):g} min",
               x="share of members below what was observed", y="frequency / that of a flat one")  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, max(ax.get_ylim()[1], 1.5)))
    return figure


def plot_roc(
    scores: xr.Dataset, *, threshold: float = 1.0, lead_time: Lead = 30.0, legend: bool = True
) -> Figure:
    """Hit rate by false alarm rate at all probabilities, with the areas below.

    Args:
        scores: ``hit_rate`` and ``false_alarm_rate`` (model, lead_time, threshold, probability), and
            ``roc_area`` if it is known.
        threshold: mm/h, the nearest there is.
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If there was no event, or nothing else.
    """
    values = picked(scores, "hit_rate", "false_alarm_rate", threshold=threshold, lead_time=lead_time)
    hits, alarms = values["hit_rate"], values["false_alarm_rate"]
    looks = looks_of(scores)
    figure, (ax,) = new_panels(legend=legend_of(looks) if legend else None)
    ax.plot((0, 1), (0, 1), **_DIAGONAL)
    areas = None
    if "roc_area" in scores:
        areas = picked(scores, "roc_area", threshold=threshold, lead_time=lead_time)["roc_area"]
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


def plot_economic_value(
    scores: xr.Dataset, *, threshold: float = 1.0, lead_time: Lead = 30.0, legend: bool = True
) -> Figure:
    """Relative economic value by the ratio of cost and loss, each model at its best probability.

    Args:
        scores: ``economic_value`` (model, lead_time, threshold, cost_loss).
        threshold: mm/h, the nearest there is.
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If there was no event, or nothing else.
    """
    values = picked(scores, "economic_value", threshold=threshold, lead_time=lead_time)["economic_value"]
    looks = looks_of(scores)
    figure, (ax,) = new_panels(legend=legend_of(looks) if legend else None)
    ratios = values["cost_loss"].values
    for model, look in looks.items():
        ax.plot(ratios, values.sel(model=model).values, **look.line(ratios.size))
    ax.axhline(0, **_DIAGONAL)
    style_axes(ax, f"Rain ≥ {float(values['threshold']):g} mm/h, +{lead_of(values):g} min",
               x="cost of acting / loss avoided", y="value, 1 is perfect")  # fmt: skip
    log_axis(ax, _within(COST_LOSS, ratios))
    ax.set_ylim(max(ax.get_ylim()[0], LOWEST_VALUE), 1)
    return figure


def plot_spectrum(scores: xr.Dataset, *, lead_time: Lead = 30.0, legend: bool = True) -> Figure:
    """Variance of the members and of the observed rain by wavelength, summed over all cases.

    Args:
        scores: ``power`` and ``observed_power`` (model, lead_time, ring) with the coordinate
            ``wavelength (ring)`` in km.
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If no rain was observed.
    """
    values = picked(scores, "power", "observed_power", lead_time=lead_time)
    power, seen = values["power"], values["observed_power"].isel(model=0).values
    _refuse_no_rain(seen)
    looks = looks_of(scores)
    figure, (ax,) = new_panels(legend=legend_of(looks, marked=False, observed=True) if legend else None)
    lengths = values["wavelength"].values
    for model, look in looks.items():
        line = power.sel(model=model).values
        ax.loglog(lengths, np.where(line > 0, line, np.nan), **look.line() | {"marker": ""})
    ax.loglog(lengths, np.where(seen > 0, seen, np.nan), color=OBSERVED_COLOUR, linewidth=1.8, zorder=4)
    style_axes(ax, f"Spectrum of the members, +{lead_of(power):g} min", x="wavelength (km)",
               y="power (mm² h⁻², summed)")  # fmt: skip
    log_axis(ax, _within(WAVELENGTHS, lengths))
    ax.set_xlim(lengths.max() * 1.1, lengths.min() / 1.1)
    ends = np.log10([ax.dataLim.y0, ax.dataLim.y1])
    ax.set_ylim(10 ** np.floor(ends[0]), 10 ** np.ceil(ends[1]))
    ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _within(labels: Sequence[float], values: np.ndarray) -> list[float]:
    """Labels between the smallest and the largest value; the values themselves if there is none."""
    return [label for label in labels if values.min() <= label <= values.max()] or values.tolist()


def plot_intensities(scores: xr.Dataset, *, lead_time: Lead = 30.0, legend: bool = True) -> Figure:
    """How often each class of rain is forecast, against how often it was observed.

    Args:
        scores: ``intensity_share`` and ``observed_intensity_share`` (model, lead_time, intensity_bin).
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If nothing was observed.
    """
    chosen = picked(scores, "intensity_share", "observed_intensity_share", lead_time=lead_time)
    shares, observed = chosen["intensity_share"], chosen["observed_intensity_share"].isel(model=0).values
    _refuse_no_rain(observed)
    looks = looks_of(scores)
    figure, (ax,) = new_panels(legend=legend_of(looks, observed=True) if legend else None)
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
