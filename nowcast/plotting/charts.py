"""What charts share: how a model looks, panels of one size with a legend above them, axes.

A model has one colour, marker and line in all charts. What is undefined is a gap; where nothing of a figure
is defined there is none, and `Undefined` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter

from data_prep.schema import RefusedInput
from nowcast.verification.score_text import Lead, at, shortened

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a")
"""Of the models that are not the reference (Okabe and Ito's, told apart by the colour-blind)."""
MARKERS = "os^Dv<P"
REFERENCE_COLOUR = "#666666"
OBSERVED_COLOUR = "#000000"
PANEL_SIZE = (4.1, 2.9)
"""Inches."""
_MARGINS = {"left": 0.7, "right": 0.18, "bottom": 0.52, "top": 0.34}
"""Inches around the axes of a panel; fixed, so that panels line up."""
_LEGEND_LINE = 0.22
_LEGEND_LETTER = 0.082
"""Inches: height of a line of a legend, and width of a letter in it."""
_LEGEND_NAME = 40
"""Letters of a name in a legend at most."""


class Undefined(RefusedInput):
    """Nothing of what a figure would show is defined."""


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


OBSERVED = Look(OBSERVED_COLOUR, marker="")


def looks_of(scores: xr.Dataset) -> dict[str, Look]:
    """The looks of all models: the reference grey and dashed, the others in `COLOURS`.

    Beyond as many models as there are colours they come again with dotted lines.
    """
    reference = scores.attrs.get("reference")
    looks = {}
    others = 0
    for model in map(str, np.atleast_1d(scores["model"].values)):
        if model == reference:
            looks[model] = Look(REFERENCE_COLOUR, "--", "x")
            continue
        again, place = divmod(others, len(COLOURS))
        looks[model] = Look(COLOURS[place], ("-", ":", "-.")[again % 3], MARKERS[place])
        others += 1
    return looks


def legend_of(
    looks: Mapping[str, Look], *, marked: bool = True, observed: bool = False
) -> dict[str, dict[str, Any]]:
    """Entries of a legend: names and the arguments of ``Axes.plot``.

    Args:
        looks: Of the models.
        marked: Whether their lines have markers.
        observed: Whether there is a line of what was observed.
    """
    shown = {**looks, "observed": OBSERVED} if observed else looks
    return {name: look.line() | ({} if marked else {"marker": ""}) for name, look in shown.items()}


def by_model_and_lead(scores: xr.Dataset) -> xr.Dataset:
    """Scores with the dims ``model`` and ``lead_time``, of which one entry may have been picked before.

    Raises:
        RefusedInput: If they are no scores, or those of several regions.
    """
    axes = ("model", "lead_time")
    if not isinstance(scores, xr.Dataset) or not set(axes) <= set(scores.coords):
        came = f"coordinates {sorted(map(str, scores.coords))}" if isinstance(scores, xr.Dataset) else ""
        raise RefusedInput(
            "scores are a Dataset by model and lead_time",
            came=came or type(scores).__name__,
            do="give what nowcast.verify returns, or xarray.open_dataset('scores.nc')",
        )
    if "region" in scores.dims:
        raise RefusedInput(
            "a figure shows one region",
            came=f"{scores.sizes['region']}",
            do="pick one with scores.isel(region=0)",
        )
    return scores.expand_dims([axis for axis in axes if axis not in scores.dims])


def picked(
    scores: xr.Dataset,
    *names: str,
    ensembles_only: bool = False,
    **where: Lead,
) -> xr.Dataset:
    """Scores that a figure needs all of, at one threshold, lead time and so on.

    Args:
        scores: By (model, lead_time, ...).
        *names: Of the scores.
        ensembles_only: Whether to leave the deterministic models out.
        **where: As of `nowcast.verification.score_text.at`.

    Raises:
        RefusedInput: As `by_model_and_lead`.
        Undefined: If one of the scores is not there or has no value.
    """
    scores = by_model_and_lead(scores)
    if ensembles_only:
        scores = scores.sel(model=ensembles(scores))
    chosen = at(scores[[name for name in names if name in scores]], **where)
    lacking = [name for name in names if name not in chosen or not bool(np.isfinite(chosen[name]).any())]
    if lacking:
        raise Undefined(
            f"this figure shows {' and '.join(names)}{' of ensembles' if ensembles_only else ''}",
            came=f"no value of {', '.join(lacking)}",
            do="verify more cases, or choose another threshold or lead time",
        )
    return chosen


def ensembles(scores: xr.Dataset) -> list[str]:
    """Models with two members or more."""
    return [model for model, count in member_counts(scores).items() if count > 1]


def member_counts(scores: xr.Dataset) -> dict[str, int]:
    """Members of every model; 1 where nothing is said."""
    models = map(str, np.atleast_1d(scores["model"].values))
    if "member_count" not in scores.coords:
        return dict.fromkeys(models, 1)
    return dict(zip(models, map(int, np.atleast_1d(scores["member_count"].values)), strict=True))


def new_panels(
    count: int = 1,
    *,
    columns: int = 2,
    width: float = PANEL_SIZE[0],
    legend: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure of some panels, row by row.

    Args:
        count: Of panels.
        columns: At most.
        width: Of a panel, inches.
        legend: Entries above the panels: names and arguments of ``Axes.plot``.
    """
    columns = min(columns, count)
    height, rows = PANEL_SIZE[1], -(-count // columns)
    handles = [
        Line2D([], [], label=shortened(name, _LEGEND_NAME), **line) for name, line in (legend or {}).items()
    ]
    across = legend_columns([str(handle.get_label()) for handle in handles], columns * width)
    above = _LEGEND_LINE * -(-len(handles) // across) + 0.1 * bool(handles)
    size = (columns * width, rows * height + above)
    figure = Figure(figsize=size, dpi=110)
    inner = (width - _MARGINS["left"] - _MARGINS["right"], height - _MARGINS["bottom"] - _MARGINS["top"])
    axes = []
    for row, column in [divmod(place, columns) for place in range(count)]:
        left, bottom = column * width + _MARGINS["left"], (rows - 1 - row) * height + _MARGINS["bottom"]
        place = (left / size[0], bottom / size[1], inner[0] / size[0], inner[1] / size[1])
        axes.append(figure.add_axes(place))
    if handles:
        drawn = figure.legend(handles=handles, loc="upper left", ncols=across, frameon=False, fontsize=9.5,
                              borderaxespad=0.3, columnspacing=1.2)  # fmt: skip
        for text in drawn.get_texts():
            text.set_parse_math(False)
    return figure, axes


def legend_columns(names: Sequence[str], width: float) -> int:
    """Columns of a legend that is as wide as this, inches; one or more."""
    longest = 0.55 + _LEGEND_LETTER * max(map(len, names), default=0)
    return max(1, min(int(width / longest), len(names)))


def style_axes(ax: Axes, title: str, *, x: str = "", y: str = "") -> None:
    """Title and labels, which are never read as mathematics, and a light grid; of axes in a panel."""
    figure = ax.get_figure(root=True)
    width = ax.get_position().width * figure.get_figwidth() if figure else PANEL_SIZE[0]
    ax.set_title(title, loc="left", x=(0.1 - _MARGINS["left"]) / width, fontsize=10.5, parse_math=False)
    ax.set_xlabel(x, fontsize=9.5, parse_math=False)
    ax.set_ylabel(y, fontsize=9.5, parse_math=False)
    ax.tick_params(labelsize=9)
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def log_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with plain numbers at some values."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.minorticks_off()
