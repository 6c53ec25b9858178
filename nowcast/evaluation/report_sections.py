"""What a report shows, in its order: sections of panels, each with a word on how to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xarray as xr
from matplotlib.figure import Figure

from nowcast.plotting.charts import ensembles, looks_of
from nowcast.plotting.diagrams import (
    plot_economic_value,
    plot_intensities,
    plot_rank_histogram,
    plot_reliability,
    plot_roc,
    plot_spectrum,
)
from nowcast.plotting.scores import plot_case_series, plot_fss_by_window, plot_scores, plot_spread
from nowcast.verification.score_text import lead_minutes, nearest, over_leads

THRESHOLDS = (1.0, 4.0)
"""mm/h; the nearest there are."""
WINDOW = 16.0
"""Side of the windows of a fractions skill score, km; the nearest there is."""
DIAGRAM_LEAD = 30.0
"""Minutes at which diagrams of one lead time are drawn; the nearest there is."""
Panel = Callable[[], Figure]
"""Draws a figure, or raises `nowcast.plotting.charts.Undefined`."""


@dataclass(frozen=True)
class Section:
    """Panels with a heading.

    Attributes:
        key: Of links to it.
        title: Its heading.
        note: How to read it, one sentence or two.
        panels: Those that are defined are shown.
        observed: Whether the panels have a line of what was observed.
        ensembles_only: Whether deterministic models are in none of the panels.
    """

    key: str
    title: str
    note: str
    panels: tuple[Panel, ...]
    observed: bool = False
    ensembles_only: bool = False


def sections(
    scores: xr.Dataset, intervals: xr.Dataset | None, by_case: xr.Dataset | None
) -> Iterator[Section]:
    """All sections with figures of scores.

    Args:
        scores: By (model, lead_time, ...).
        intervals: ``<score>_low`` and ``<score>_high``, with or without those of skill.
        by_case: ``crps`` and ``cells`` by (case, model) or (case, model, lead_time), with
            ``reference_time(case)``.
    """

    def curve(name: str, **where: float) -> Panel:
        return lambda: plot_scores(scores, intervals, variables=(name,), legend=False, **where)

    def diagram(draw: Callable[..., Figure], **where: float) -> Panel:
        return lambda: draw(scores, legend=False, **where)

    yield from _of_curves(scores, curve, diagram)
    yield from _of_diagrams(scores, curve, diagram)
    if by_case is not None and by_case.sizes.get("case", 0) > 1 and "crps" in by_case:
        crps = over_leads(by_case, "crps") if "lead_time" in by_case["crps"].dims else by_case["crps"]
        yield Section("series", "Case by case", "Where the models differ, and in which weather.",
                      (lambda: plot_case_series(crps, looks_of(scores), legend=False),))  # fmt: skip


def _of_curves(
    scores: xr.Dataset, curve: Callable[..., Panel], diagram: Callable[..., Panel]
) -> Iterator[Section]:
    events = _thresholds(scores)
    scale = [float(scores["scale"].max())] if "scale" in scores.coords else []
    reference = scores.attrs.get("reference", "the reference")
    yield Section(
        "skill", f"Skill against {reference}",
        "The part of the way from the reference to a perfect forecast: 0 % is the reference, 100 % is "
        "perfect, below 0 is worse than the reference. Bands are intervals; curves without them have none.",
        (curve("crps_skill"), curve("mae_skill"), *(curve("csi_skill", threshold=event) for event in events)),
    )  # fmt: skip
    yield Section(
        "crps", "CRPS",
        "Error of the whole ensemble; of a deterministic forecast it is the mean absolute error. Pooled over "
        "neighbourhoods, it forgives what is right a few kilometres off. Small ensembles pay for their size; "
        "the fair CRPS estimates that of an infinite ensemble, and is undefined for one member.",
        (curve("crps"), curve("fair_crps"),
         *(curve(f"pooled_{kind}_crps", scale=side) for kind in ("mean", "max") for side in scale),
         *(curve("tw_crps", threshold=event) for event in events[-1:])),
    )  # fmt: skip
    yield Section(
        "errors", "Errors of the ensemble mean",
        "A smooth forecast has small errors; compare with the spectra.",
        (curve("mae"), curve("rmse"), curve("bias"), curve("correlation")),
    )  # fmt: skip
    yield Section(
        "csi", "Rain or no rain: CSI and frequency bias",
        "Of the mean, a smooth field without peaks; of the probability-matched mean, which has the places "
        "of the mean and the rates of the members; and of the members as single forecasts. Of one member all "
        "three are the same.",
        tuple(curve(name, threshold=event) for event in events
              for name in ("csi", "matched_csi", "member_csi", "frequency_bias")),
    )  # fmt: skip
    names = ("fss", "fss_probability")
    yield Section(
        "fss", "Fractions skill score",
        "Whether the right share of a window has rain; of the mean, and of the probability.",
        (*(curve(name, threshold=event, window=WINDOW) for event in events for name in names),
         *(diagram(plot_fss_by_window, variable=name, threshold=event, lead_time=DIAGRAM_LEAD)
           for event in events[:1] for name in names)),
    )  # fmt: skip


def _of_diagrams(
    scores: xr.Dataset, curve: Callable[..., Panel], diagram: Callable[..., Panel]
) -> Iterator[Section]:
    leads = lead_minutes(scores)
    events = _thresholds(scores)
    one = [{"threshold": event, "lead_time": DIAGRAM_LEAD} for event in events]
    later = nearest(leads, (DIAGRAM_LEAD, leads[-1]))
    if ensembles(scores):
        yield Section(
            "reliability", "Reliability",
            "On the diagonal, rain falls as often as was said. Below it, too much is promised. The inset "
            "says how often each probability is forecast. Ensembles only.",
            tuple(diagram(plot_reliability, **where) for where in one), ensembles_only=True,
        )  # fmt: skip
        yield Section(
            "ranks", "Rank histograms",
            "Flat at 1 is right; high at both ends, the ensemble is too narrow; high at the right, too dry. "
            "Ranks among equal values, as in dry cells, are drawn by lot, which flattens it. Ensembles only.",
            tuple(diagram(plot_rank_histogram, lead_time=lead) for lead in later), ensembles_only=True,
        )  # fmt: skip
        yield Section(
            "spread", "Spread and error",
            "The spread of a good ensemble is as large as the error of its mean; their ratio allows for the "
            "number of members by sqrt((M + 1) / M). Ensembles only.",
            (diagram(plot_spread), curve("spread_skill")), ensembles_only=True,
        )  # fmt: skip
    yield Section(
        "roc", "Hits against false alarms (ROC)",
        "Towards the upper left is better; on the diagonal, a lottery.",
        tuple(diagram(plot_roc, **where) for where in one),
    )  # fmt: skip
    yield Section(
        "value", "Relative economic value",
        "What a user saves who acts on the forecast, as a part of what a perfect one would save, for users "
        "who differ in what acting costs them. Below 0, the observed frequency alone serves them better.",
        tuple(diagram(plot_economic_value, **where) for where in one),
    )  # fmt: skip
    yield Section(
        "spectra", "Spectra",
        "Below the observed line, the forecast is too smooth at that scale; the distance is the root mean "
        "square difference over all scales.",
        (*(diagram(plot_spectrum, lead_time=lead) for lead in nearest(leads, (leads[0], *later))),
         curve("log_spectral_distance")),
        observed=True,
    )  # fmt: skip
    yield Section(
        "intensities", "Intensities",
        "How often each class of rain occurs, wherever it falls; of ensembles, in the members.",
        tuple(diagram(plot_intensities, lead_time=lead) for lead in later), observed=True,
    )  # fmt: skip


def _thresholds(scores: xr.Dataset) -> list[float]:
    return nearest(scores["threshold"].values, THRESHOLDS) if "threshold" in scores.coords else []
