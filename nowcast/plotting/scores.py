"""Curves of scores, one small panel a figure: side by side on a screen, below each other on a phone.

A model has one colour, marker and line in all of them. What is undefined is a gap. A panel of which nothing
is defined is not drawn: the functions then return None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MultipleLocator, NullFormatter

from nowcast.verification.score_table import SCORES
from nowcast.verification.score_text import at, bounds, lead_minutes, shortened

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a")
"""Of the models that are not the reference (Okabe and Ito's, told apart by the colour-blind)."""
MARKERS = "os^Dv<P"
REFERENCE_COLOUR = "#666666"
OBSERVED_COLOUR = "#000000"
PANEL_SIZE = (4.1, 2.9)
"""Inches."""
_MARGINS = {"left": 0.66, "right": 0.12, "bottom": 0.5, "top": 0.32}
"""Inches around the axes of a panel; fixed, so that panels line up."""
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
_EVENT_DIMS = {"threshold": "≥ {:g} mm/h", "scale": "{:g} km", "window": "{:g} km"}
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)


@dataclass(frozen=True)
class Look:
    """How one model is drawn in every figure.

    Attributes:
        colour: Of its lines.
        dashes: Of its lines, as matplotlib writes them.
        marker: Of its points.
    """

    colour: str
    dashes: str = "-"
    marker: str = "o"

    def line(self, points: int = 0) -> dict[str, Any]:
        """Arguments of ``Axes.plot`` for a line of some points; of many, few are marked."""
        return {
            "color": self.colour, "linestyle": self.dashes, "marker": self.marker, "markersize": 3.5,
            "markevery": max(1, points // 6), "linewidth": 1.6,
        }  # fmt: skip


def looks_of(scores: xr.Dataset) -> dict[str, Look]:
    """The looks of all models: the reference grey and dashed, the others in `COLOURS`.

    Beyond as many models as there are colours they come again with dotted lines.
    """
    reference = scores.attrs.get("reference")
    looks = {}
    others = 0
    for model in map(str, scores["model"].values):
        if model == reference:
            looks[model] = Look(REFERENCE_COLOUR, "--", "x")
            continue
        again, place = divmod(others, len(COLOURS))
        looks[model] = Look(COLOURS[place], ("-", ":", "-.")[again % 3], MARKERS[place])
        others += 1
    return looks


def plot_scores(
    scores: xr.Dataset,
    intervals: xr.Dataset | None = None,
    *,
    variables: tuple[str, ...] = ("crps", "mae", "csi", "bias"),
    threshold: float = 1.0,
) -> Figure:
    """Curves of some scores by lead time in one figure with a legend.

    Args:
        scores: By (model, lead_time, ...).
        intervals: ``<score>_low`` and ``<score>_high``.
        variables: Names of the scores to draw.
        threshold: mm/h, of the scores that depend on one; the nearest there is.
    """
    looks = looks_of(scores)
    columns = min(2, len(variables))
    rows = -(-len(variables) // columns)
    size = (PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows + 0.4)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    for ax, name in zip(figure.subplots(rows, columns, squeeze=False).flat, variables, strict=False):
        draw_curves(ax, scores, name, looks, intervals=intervals, threshold=threshold)
    for ax in figure.axes[len(variables) :]:
        ax.remove()
    handles = [Line2D([], [], label=shortened(name, 40), **look.line()) for name, look in looks.items()]
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=min(len(looks), 3),
                           frameon=False, fontsize=9)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def curves(
    scores: xr.Dataset,
    name: str,
    looks: Mapping[str, Look],
    intervals: xr.Dataset | None = None,
    **where: float,
) -> Figure | None:
    """A panel of one score by lead time, with bands between the bounds of its intervals.

    Args:
        scores: By (model, lead_time, ...).
        name: Of the score, or of a skill.
        looks: As `looks_of` makes them.
        intervals: ``<name>_low`` and ``<name>_high``.
        **where: ``threshold`` (mm/h), ``scale`` or ``window`` (km): the nearest there is.
    """
    if name not in scores or not bool(np.isfinite(at(scores[name], **where)).any()):
        return None
    figure, ax = new_panel()
    draw_curves(ax, scores, name, looks, intervals=intervals, **where)
    return figure


def new_panel(columns: int = 1) -> tuple[Figure, Axes]:
    """A figure of one axes, as wide as some panels."""
    figure = Figure(figsize=(columns * PANEL_SIZE[0], PANEL_SIZE[1]), dpi=110)
    width, height = figure.get_size_inches()
    across, up = _MARGINS["left"] + _MARGINS["right"], _MARGINS["bottom"] + _MARGINS["top"]
    place = (_MARGINS["left"] / width, _MARGINS["bottom"] / height, 1 - across / width, 1 - up / height)
    return figure, figure.add_axes(place)


def draw_curves(
    ax: Axes,
    scores: xr.Dataset,
    name: str,
    looks: Mapping[str, Look],
    *,
    intervals: xr.Dataset | None = None,
    **where: float,
) -> None:
    """As `curves`, in axes of your own."""
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


def style_axes(ax: Axes, title: str, *, x: str = "", y: str = "") -> None:
    """Title and labels, which are never read as mathematics, and a light grid."""
    ax.set_title(title, loc="left", fontsize=10, parse_math=False)
    ax.set_xlabel(x, fontsize=9, parse_math=False)
    ax.set_ylabel(y, fontsize=9, parse_math=False)
    ax.tick_params(labelsize=8.5)
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def lead_axis(ax: Axes, leads: np.ndarray) -> None:
    """Lead times from 0 in minutes, with round numbers; a single one in the middle."""
    last = float(leads[-1])
    ax.set_xlabel("lead time (min)", fontsize=9)
    if leads.size == 1:
        ax.set_xlim(last * (1 - ALONE), last * (1 + ALONE))
        ax.set_xticks([last])
        return
    step = next((step for step in _STEPS if last / step <= 7), _STEPS[-1])
    ax.set_xlim(0, last * 1.03)
    ax.xaxis.set_major_locator(MultipleLocator(step))


def by_window(scores: xr.Dataset, name: str, looks: Mapping[str, Look], **where: float) -> Figure | None:
    """A panel of a fractions skill score by the side of the window, at one lead time and threshold."""
    if name not in scores or scores.sizes.get("window", 0) < 2:
        return None
    values = at(scores[name], **where)
    if not bool(np.isfinite(values).any()):
        return None
    figure, ax = new_panel()
    sides = scores["window"].values
    for model, look in looks.items():
        ax.plot(sides, values.sel(model=model).values, **look.line())
    style_axes(ax, f"{short_title(name, values)}, +{lead_of(values):g} min", x="side of the window (km)",
               y="1 is perfect")  # fmt: skip
    log_axis(ax, sides.tolist())
    ax.set_ylim(0, 1)
    return figure


def lead_of(values: xr.DataArray) -> float:
    """The lead time of an array without that dim, minutes."""
    return float(lead_minutes(values.expand_dims("lead_time"))[0])


def log_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with plain numbers at some values."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.minorticks_off()


def spread_and_error(scores: xr.Dataset, looks: Mapping[str, Look]) -> Figure | None:
    """A panel of the RMSE of the mean (lines) and of the spread (dotted) of the ensembles by lead time."""
    names = ensembles(scores)
    if not {"spread", "rmse"} <= set(scores) or not names:
        return None
    if not bool(np.isfinite(scores["spread"].sel(model=names)).any()):
        return None
    figure, ax = new_panel()
    leads = lead_minutes(scores)
    for model in names:
        look = looks[model]
        ax.plot(leads, scores["rmse"].sel(model=model).values, **look.line(leads.size))
        ax.plot(leads, scores["spread"].sel(model=model).values, **look.line(leads.size) | {"linestyle": ":"})
    style_axes(ax, "RMSE of the mean (line) and spread (dotted)", y="mm/h")
    ax.set_ylim(0, None)
    lead_axis(ax, leads)
    return figure


def ensembles(scores: xr.Dataset) -> list[str]:
    """Models with two members or more."""
    return [str(model) for model, count in zip(scores["model"].values, member_counts(scores), strict=True)
            if count > 1]  # fmt: skip


def member_counts(scores: xr.Dataset) -> list[int]:
    """Members of every model; 1 where nothing is said."""
    if "member_count" not in scores.coords:
        return [1] * scores.sizes["model"]
    return [int(count) for count in scores["member_count"].values]


def case_series(crps: xr.DataArray, looks: Mapping[str, Look]) -> Figure | None:
    """A panel of the CRPS of every case by reference time; the points of many cases are not joined.

    Args:
        crps: By (case, model), with the coordinate ``reference_time(case)``.
        looks: As `looks_of` makes them.
    """
    if not bool(np.isfinite(crps).any()):
        return None
    figure, ax = new_panel(columns=2)
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
