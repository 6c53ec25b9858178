"""Curves of scores by lead time, side by side on a screen and below each other on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from data_prep.schema import RefusedInput
from nowcast.plotting.charts import (
    PANEL_SIZE,
    REFERENCE_COLOUR,
    Look,
    Undefined,
    by_model_and_lead,
    legend_of,
    log_axis,
    looks_of,
    new_panels,
    picked,
    style_axes,
)
from nowcast.verification.score_table import SCORES
from nowcast.verification.score_text import Lead, at, bounds, lead_minutes, shortened

MANY_CASES = 60
"""With more, the points of a series are not joined."""
LEAST_ROOM = np.timedelta64(10, "m")
"""Before the first case of a series and after the last."""
ALONE = 0.5
"""Of a lead time that is the only one: the part that its models stand side by side in."""
LOWEST_SKILL = -100.0
"""Percent below which a skill is not shown, because it would squeeze all others."""
SHORT = {
    "crps": "CRPS",
    "fair_crps": "Fair CRPS",
    "tw_crps": "Threshold-weighted CRPS",
    "pooled_mean_crps": "Mean-pooled CRPS",
    "pooled_max_crps": "Max-pooled CRPS",
    "mae": "MAE of the ensemble mean",
    "rmse": "RMSE of the ensemble mean",
    "bias": "Bias: rain forecast / observed",
    "correlation": "Correlation of the ensemble mean",
    "csi": "CSI of the ensemble mean",
    "matched_csi": "CSI of the matched mean",
    "member_csi": "CSI of the members",
    "frequency_bias": "Frequency bias of the mean",
    "fss": "FSS of the ensemble mean",
    "fss_probability": "FSS of the probability",
    "spread_skill": "Spread / error",
    "log_spectral_distance": "Log-spectral distance of the members",
}
"""Titles of panels; others have the long name of the score."""
_CURVE_DIMS = {"model", "lead_time", "threshold", "scale", "window"}
_EVENT_DIMS = {"threshold": "≥ {:g} mm/h", "scale": "{:g} km", "window": "{:g} km"}
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)


def plot_scores(
    scores: xr.Dataset,
    intervals: xr.Dataset | None = None,
    *,
    variables: Sequence[str] = ("crps", "mae", "csi", "bias"),
    threshold: float = 1.0,
    scale: float = 16.0,
    window: float = 16.0,
    legend: bool = True,
) -> Figure:
    """Curves of some scores by lead time, with bands between the bounds of their intervals.

    Args:
        scores: By (model, lead_time, ...), as `nowcast.verify` returns them or ``scores.nc`` holds them.
        intervals: ``<score>_low`` and ``<score>_high``; by default those that ``scores`` has.
        variables: Names of the scores to draw, a panel each; also of a skill, as ``crps_skill``.
        threshold: mm/h, of the scores that depend on one; the nearest there is.
        scale: Side of the neighbourhoods of pooled scores, km; the nearest there is.
        window: Side of the windows of the fractions skill score, km; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        RefusedInput: If a variable is no score by model and lead time.
        Undefined: If one of them is not there, or none has a value.
    """
    scores = by_model_and_lead(scores)
    intervals = scores if intervals is None else intervals
    where = {"threshold": threshold, "scale": scale, "window": window}
    names = [variables] if isinstance(variables, str) else list(variables)
    _refuse_no_curve(scores, names, where)
    looks = looks_of(scores)
    figure, axes = new_panels(len(names), legend=legend_of(looks) if legend else None)
    for ax, name in zip(axes, names, strict=True):
        draw_curves(ax, scores, name, looks, intervals=intervals, **where)
    return figure


def _refuse_no_curve(scores: xr.Dataset, names: Sequence[str], where: Mapping[str, float]) -> None:
    curves = [name for name in map(str, scores) if name in SCORES and set(scores[name].dims) <= _CURVE_DIMS]
    lacking = [name for name in names if name not in scores]
    if lacking or not names:
        raise Undefined(
            "scores hold what is drawn of them",
            came=", ".join(lacking) or "no name",
            do=f"choose of {', '.join(curves)}",
        )
    for name in names:
        if set(at(scores[name], **where).dims) != {"model", "lead_time"}:
            raise RefusedInput(
                "a curve is of a score by model and lead time",
                came=f"{name} by {', '.join(map(str, scores[name].dims))}",
                do=f"choose of {', '.join(curves)}",
            )
    if not any(bool(np.isfinite(at(scores[name], **where)).any()) for name in names):
        raise Undefined(
            "a score to draw has a value",
            came=f"none of {', '.join(names)}",
            do="verify more cases, with rain",
        )


def draw_curves(
    ax: Axes,
    scores: xr.Dataset,
    name: str,
    looks: Mapping[str, Look],
    *,
    intervals: xr.Dataset | None = None,
    **where: float,
) -> None:
    """Curves of one score in axes."""
    is_skill = _is_skill(name)
    factor = 100.0 if is_skill else 1.0
    values = at(scores[name], **where).transpose("model", "lead_time") * factor
    found = bounds(intervals, name, values, **where)
    shown = [model for model in map(str, values["model"].values)
             if not (is_skill and model == scores.attrs.get("reference"))]  # fmt: skip
    leads = lead_minutes(scores)
    for place, model in enumerate(shown):
        look = looks[model]
        places = leads
        if leads.size == 1:
            places = leads * (1 + ALONE * ((place + 0.5) / len(shown) - 0.5))
        ax.plot(places, values.sel(model=model).values, zorder=3, **look.line(leads.size))
        if found is not None:
            low, high = (factor * end.sel(model=model).values for end in found)
            _draw_band(ax, places, low, high, look)
    _draw_frame(ax, scores, name, at(scores[name], **where))
    lead_axis(ax, leads)
    if not bool(np.isfinite(values).any()):
        ax.text(0.5, 0.5, "undefined", transform=ax.transAxes, ha="center", va="center", color="0.4")


def _draw_band(ax: Axes, leads: np.ndarray, low: np.ndarray, high: np.ndarray, look: Look) -> None:
    """A band with fine edges; a bar where there is a single lead time."""
    if leads.size > 1:
        ax.fill_between(leads, low, high, color=look.colour, alpha=0.13, linewidth=0, zorder=1)
        for edge in (low, high):
            ax.plot(leads, edge, color=look.colour, linewidth=0.5, alpha=0.7, zorder=2)
        return
    ax.vlines(leads, low, high, color=look.colour, linewidth=1.4, zorder=2)


def _draw_frame(ax: Axes, scores: xr.Dataset, name: str, values: xr.DataArray) -> None:
    """Title, axis label, the line of no skill or no bias, and limits that all of it fits in."""
    if _is_skill(name):
        base = name.removesuffix("_skill")
        reference = shortened(str(scores.attrs.get("reference", "the reference")), 16)
        style_axes(ax, f"Skill in {short_title(base, values)}", y=f"skill against {reference} (%)")
        ax.axhline(0, color=REFERENCE_COLOUR, linewidth=1.2, linestyle="--", zorder=1)
        lowest, highest = ax.get_ylim()
        ax.set_ylim(max(lowest, LOWEST_SKILL), min(max(highest, 5.0), 103.0))
        if lowest < LOWEST_SKILL:
            ax.annotate("curves go on below", (0.02, 0.03), xycoords="axes fraction", fontsize=8, color="0.3")
        return
    known = SCORES.get(name)
    unit = {"mm h-1": "mm/h", "1": ""}.get(known.units if known else "1", known.units if known else "")
    perfect = f"{known.perfect:g} is perfect" if known and known.perfect is not None else ""
    style_axes(ax, short_title(name, values), y=", ".join(filter(None, (unit, perfect))))
    if known and known.orientation == "nearer" and known.perfect is not None:
        ax.axhline(known.perfect, color="0.6", linewidth=0.8, zorder=1)
        lowest, highest = ax.get_ylim()
        ax.set_ylim(min(lowest, 0.0), max(highest, 1.2))
    elif known and known.range[0] == 0:
        ax.set_ylim(0, None)


def _is_skill(name: str) -> bool:
    """Not so ``spread_skill``, which is a score of its own."""
    return name.endswith("_skill") and name not in SCORES


def short_title(name: str, values: xr.DataArray) -> str:
    """What a panel is called: the score and the threshold, neighbourhood or window."""
    known = SCORES[name].long_name if name in SCORES else name.replace("_", " ")
    parts = [
        text.format(float(values[dim])) for dim, text in _EVENT_DIMS.items()
        if dim in values.coords and values[dim].ndim == 0
    ]  # fmt: skip
    return ", ".join([SHORT.get(name, known), *parts])


def lead_axis(ax: Axes, leads: np.ndarray) -> None:
    """Lead times from 0 in minutes, with round numbers; a single one in the middle."""
    last = float(leads[-1])
    ax.set_xlabel("lead time (min)", fontsize=9.5)
    if leads.size == 1:
        ax.set_xlim(last * (1 - ALONE), last * (1 + ALONE))
        ax.set_xticks([last])
        return
    step = next((step for step in _STEPS if last / step <= 7), _STEPS[-1])
    ax.set_xlim(0, last * 1.03)
    ax.xaxis.set_major_locator(MultipleLocator(step))


def plot_fss_by_window(
    scores: xr.Dataset,
    *,
    variable: str = "fss",
    threshold: float = 1.0,
    lead_time: Lead = 30.0,
    legend: bool = True,
) -> Figure:
    """A fractions skill score by the side of the window.

    Args:
        scores: With ``variable (model, lead_time, threshold, window)``.
        variable: ``fss`` or ``fss_probability``.
        threshold: mm/h, the nearest there is.
        lead_time: In minutes, as a timedelta, or as a text like ``30min``; the nearest there is.
        legend: Whether the models are named above.

    Raises:
        Undefined: If it has no value, or there is one window.
    """
    values = picked(scores, variable, threshold=threshold, lead_time=lead_time)[variable]
    if values.sizes.get("window", 0) < 2:
        raise Undefined(
            "a curve by window has two windows or more", came="fewer", do="verify with more windows"
        )
    looks = looks_of(scores)
    figure, (ax,) = new_panels(legend=legend_of(looks) if legend else None)
    sides = values["window"].values
    for model, look in looks.items():
        ax.plot(sides, values.sel(model=model).values, **look.line())
    style_axes(ax, f"{short_title(variable, values)}, +{lead_of(values):g} min", x="side of the window (km)",
               y="1 is perfect")  # fmt: skip
    log_axis(ax, sides.tolist())
    ax.set_ylim(0, 1)
    return figure


def lead_of(values: xr.DataArray) -> float:
    """The lead time of an array without that dim, minutes."""
    return float(lead_minutes(values.expand_dims("lead_time"))[0])


def plot_spread(scores: xr.Dataset, *, legend: bool = True) -> Figure:
    """RMSE of the mean (lines) and spread (dotted) of the ensembles by lead time.

    Args:
        scores: With ``rmse`` and ``spread`` (model, lead_time).
        legend: Whether the models are named above.

    Raises:
        Undefined: If no ensemble has both.
    """
    values = picked(scores, "rmse", "spread", ensembles_only=True)
    looks = {model: look for model, look in looks_of(scores).items() if model in values["model"]}
    figure, (ax,) = new_panels(legend=legend_of(looks) if legend else None)
    leads = lead_minutes(values)
    for model, look in looks.items():
        ax.plot(leads, values["rmse"].sel(model=model).values, **look.line(leads.size))
        ax.plot(leads, values["spread"].sel(model=model).values, **look.line(leads.size) | {"linestyle": ":"})
    style_axes(ax, "RMSE of the mean (line) and spread (dotted)", y="mm/h")
    ax.set_ylim(0, None)
    lead_axis(ax, leads)
    return figure


def plot_case_series(crps: xr.DataArray, looks: Mapping[str, Look], *, legend: bool = True) -> Figure:
    """The CRPS of every case by reference time; the points of many cases are not joined.

    Args:
        crps: By (case, model), with the coordinate ``reference_time(case)``.
        looks: As `nowcast.plotting.charts.looks_of` makes them.
        legend: Whether the models are named above.

    Raises:
        Undefined: If no case has a value.
    """
    if not bool(np.isfinite(crps).any()):
        raise Undefined("a series of cases has a score", came="none", do="verify more cases")
    figure, (ax,) = new_panels(width=2 * PANEL_SIZE[0], legend=legend_of(looks) if legend else None)
    order = np.argsort(crps["reference_time"].values, kind="stable")
    times = crps["reference_time"].values[order]
    style: dict[str, Any] = {"linewidth": 0.9} if times.size <= MANY_CASES else {"linestyle": "none"}
    for model in map(str, crps["model"].values):
        if model in looks:
            ax.plot(times, crps.sel(model=model).values[order], **looks[model].line() | style)
    style_axes(ax, "CRPS of each case, all lead times together", x="reference time (UTC)", y="mm/h")
    locator = AutoDateLocator(minticks=3, maxticks=11)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    room = max((times[-1] - times[0]) // 20, LEAST_ROOM)
    ax.set_xlim(times[0] - room, times[-1] + room)
    ax.set_ylim(0, None)
    return figure
