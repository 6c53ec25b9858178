"""What a report says in words and numbers, as plain text: nothing here is escaped yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from nowcast.evaluation.report_sections import DIAGRAM_LEAD, THRESHOLDS, WINDOW
from nowcast.plotting.charts import member_counts
from nowcast.plotting.maps import utc
from nowcast.plotting.scores import SHORT, short_title
from nowcast.verification.score_table import SCORES, SYMBOLS, Score
from nowcast.verification.score_text import (
    at,
    bounds,
    lead_minutes,
    nearest,
    number,
    over_leads,
    overall_skill,
    signed_percent,
)

LEADS = (5.0, 15.0, 30.0, 60.0, 90.0)
"""Minutes, of the table of numbers."""
ROWS: tuple[tuple[str, dict[str, float]], ...] = (
    ("crps_skill", {}),
    ("crps", {}),
    ("fair_crps", {}),
    ("pooled_mean_crps", {"scale": 16.0}),
    ("pooled_max_crps", {"scale": 16.0}),
    ("mae", {}),
    ("rmse", {}),
    ("bias", {}),
    *(
        (name, {"threshold": event})
        for event in THRESHOLDS
        for name in ("csi", "matched_csi", "member_csi", "brier")
    ),
    *(("fss_probability", {"threshold": event, "window": WINDOW}) for event in THRESHOLDS),
    ("spread_skill", {}),
    ("log_spectral_distance", {}),
)
"""Scores of the table of numbers, in its order, with the threshold and so on that is wanted."""
DEFINED = ("crps", "fair_crps", "tw_crps", "pooled_mean_crps", "pooled_max_crps", "mae", "rmse", "bias",
           "correlation", "csi", "matched_csi", "member_csi", "frequency_bias", "brier", "fss",
           "fss_probability", "observed_frequency", "forecast_share", "rank_frequency", "spread",
           "spread_skill", "hit_rate", "false_alarm_rate", "roc_area", "economic_value",
           "log_spectral_distance", "intensity_share")  # fmt: skip
"""Scores that a report shows."""
SETTINGS = {"threshold": "thresholds (mm/h)", "probability": "probabilities of an event",
            "scale": "neighbourhoods (km)", "window": "windows (km)",
            "intensity_bin": "classes of rain from (mm/h)", "cost_loss": "cost / loss"}  # fmt: skip
"""Dims of the scores whose values are settings."""
OVERALL = "crps_skill_all_leads"
"""Of the intervals of the skill over all lead times together."""


def headline(scores: xr.Dataset, intervals: xr.Dataset | None) -> list[str]:
    """A sentence or two a model on its CRPS and CSI against the reference, the best first.

    Every statement is a number; where there is an interval it stands beside it.
    """
    reference = str(scores.attrs.get("reference", ""))
    models = [str(model) for model in scores["model"].values]
    if "crps" not in scores or not bool(np.isfinite(scores["crps"]).any()):
        return ["No score could be worked out: no cell has an observation and a value of every model."]
    mean = over_leads(scores, "crps")
    if reference not in models:
        return [f"{model}: CRPS {number(float(mean.sel(model=model)))} mm/h." for model in models]
    skill = overall_skill(scores)
    others = sorted((model for model in models if model != reference),
                    key=lambda model: -np.nan_to_num(float(skill.sel(model=model)), nan=-np.inf))  # fmt: skip
    lines = [
        f"{model}: CRPS {_against(float(skill.sel(model=model)), reference)} in the mean over all cells and "
        f"lead times{_overall_interval(intervals, model)}.{_at_one_lead(scores, intervals, model, reference)}"
        for model in others
    ]
    return [*lines, f"{reference}, the reference: CRPS {number(float(mean.sel(model=reference)))} mm/h."]


def _against(skill: float, reference: str) -> str:
    if not np.isfinite(skill):
        return f"undefined against {reference}"
    rounded = round(abs(100 * skill))
    if not rounded:
        return f"within half a percent of that of {reference}"
    return f"{rounded} % {'below' if skill > 0 else 'above'} {reference}"


def _overall_interval(intervals: xr.Dataset | None, model: str) -> str:
    """What the blocks say about the skill over all lead times; empty if nothing."""
    if intervals is None or f"{OVERALL}_low" not in intervals:
        return ""
    low, high = (float(intervals[f"{OVERALL}_{end}"].reindex(model=[model])[0]) for end in ("low", "high"))
    if not np.isfinite(low + high):
        return ""
    tested = ""
    if "crps_all_leads_p_value" in intervals:
        p_value = float(intervals["crps_all_leads_p_value"].reindex(model=[model])[0])
        tested = f", p = {p_value:.2g} in a permutation test" if np.isfinite(p_value) else ""
    blocks = int(intervals.attrs.get("blocks", 0))
    return f" ({_level(intervals)} interval {_range(low, high)}, {blocks} blocks{tested})"


def _level(intervals: xr.Dataset) -> str:
    return f"{100 * intervals.attrs.get('level', 0.95):g} %"


def _range(low: float, high: float) -> str:
    """Two skills in percent, in words where one is worse than the reference."""
    low, high = round(100 * low), round(100 * high)
    if low >= 0:
        return f"{low} to {high} % below"
    if high <= 0:
        return f"{-high} to {-low} % above"
    return f"from {-low} % above to {high} % below"


def _at_one_lead(scores: xr.Dataset, intervals: xr.Dataset | None, model: str, reference: str) -> str:
    """CRPS and CSI about half an hour ahead."""
    pair = scores.sel(model=[model, reference])
    errors = at(pair["crps"], lead_time=DIAGRAM_LEAD).values
    lead = float(nearest(lead_minutes(scores), (DIAGRAM_LEAD,))[0])
    if not np.isfinite(errors).all() or not errors[1]:
        return ""
    found = bounds(intervals, "crps_skill", pair["crps"])
    ends = [float(at(end, lead_time=lead)[0]) for end in found] if found else [np.nan]
    interval = ""
    if intervals is not None and np.isfinite(ends).all():
        interval = f" ({_level(intervals)} interval {_range(*ends)})"
    text = f" At {lead:g} min: CRPS {_against(1 - errors[0] / errors[1], reference)}{interval}"
    if "csi" in scores:
        events = at(pair["csi"], lead_time=DIAGRAM_LEAD, threshold=THRESHOLDS[0])
        if np.isfinite(events).all():
            ours, theirs = events.values
            text += f"; CSI at {float(events['threshold']):g} mm/h {ours:.2f} against {theirs:.2f}"
    return f"{text}."


def facts(scores: xr.Dataset, about: Mapping[str, object]) -> list[tuple[str, str]]:
    """Rows of what was compared, and on what."""
    models = [
        f"{model} ({count} members)" if count > 1 else f"{model} (deterministic)"
        for model, count in member_counts(scores).items()
    ]
    leads = lead_minutes(scores)
    every = f"{leads[0]:g} min" if leads.size == 1 else f"{leads.size} from {leads[0]:g} to {leads[-1]:g} min"
    rows = [("models", ", ".join(models)), ("reference", str(scores.attrs.get("reference", "none")))]
    rows.append(("lead times", every))
    told = [(key.replace("_", " "), _plain(value)) for key, value in about.items()]
    return rows + [row for row in told if row[0] not in dict(rows)]


def _plain(value: object) -> str:
    if isinstance(value, np.datetime64):
        return utc(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(_plain, value))
    return str(value)


def cells_sentence(scores: xr.Dataset) -> str:
    """Which cells were scored, and how many are left at the last lead time."""
    if "cells" not in scores:
        return ""
    cells = scores["cells"].transpose("model", "lead_time").values
    leads = lead_minutes(scores)
    if not np.nansum(cells) > 0:
        return "No cell could be scored."
    first, last = (f"{np.nanmax(cells[:, place]):,.0f}".replace(",", "\u202f") for place in (0, -1))
    text = "A cell counts if the observation and every member of every model has a value there"
    if not (cells == cells[:1]).all():
        text = "The models were scored on different numbers of cells, so compare them with care"
    text += f": {first} at {leads[0]:g} min"
    if leads.size > 1 and np.nanmax(cells[:, 0]) > 0:
        share = np.nanmax(cells[:, -1]) / np.nanmax(cells[:, 0])
        text += f", {last} at {leads[-1]:g} min ({100 * share:.0f} % of those)"
    return f"{text}, all cases together."


def failures_rows(failures: Sequence[tuple[str, np.datetime64, str]]) -> list[tuple[str, str, str]]:
    """Rows of model, reference time and message."""
    return [(str(model), utc(np.datetime64(time)), str(message)) for model, time, message in failures]


Cells = list[tuple[str, str]]


def score_rows(
    scores: xr.Dataset, intervals: xr.Dataset | None
) -> tuple[list[float], list[tuple[str, list[tuple[str, Cells]]]]]:
    """The table of numbers.

    Returns:
        Lead times in minutes, and by title of a score the rows of the models: cells of value and interval.
    """
    leads = nearest(lead_minutes(scores), LEADS)
    groups = []
    for name, where in ROWS:
        if name not in scores:
            continue
        values = at(scores[name], **where)
        if not bool(np.isfinite(values).any()):
            continue
        found = bounds(intervals, name, values, **where)
        rows = []
        for model in values["model"].values:
            if name == "crps_skill" and model == scores.attrs.get("reference"):
                continue
            ends = [end.sel(model=model) for end in found] if found else []
            rows.append((str(model), _cells(name, values.sel(model=model), ends, leads)))
        title = short_title(name, values)
        if name == "crps_skill":
            title = f"Skill in CRPS against {scores.attrs.get('reference')} (%)"
        elif SCORES[name].units != "1":
            title += f" ({SCORES[name].units.replace('mm h-1', 'mm/h')})"
        groups.append((title, rows))
    return leads, groups


def _cells(name: str, values: xr.DataArray, ends: list[xr.DataArray], leads: list[float]) -> Cells:
    cells = []
    for lead in leads:
        numbers = [float(at(array, lead_time=lead)) for array in (values, *ends)]
        write = signed_percent if name == "crps_skill" else _number_of(name)
        value, *interval = map(write, numbers)
        known = len(interval) == 2 and np.isfinite(numbers).all()
        cells.append((value, f"{interval[0]} to {interval[1]}" if known else ""))
    return cells


def _number_of(name: str) -> Callable[[float], str]:
    return lambda value: number(value, SCORES[name].units)


def definitions(scores: xr.Dataset) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Titles and rows of tables: settings, scores and symbols."""
    settings: list[tuple[str, ...]] = [
        (title, ", ".join(f"{value:g}" for value in scores[dim].values))
        for dim, title in SETTINGS.items()
        if dim in scores.coords
    ]
    yield (
        "Sums are added over cases and divided last. Without an event or a cell a score is undefined.",
        settings,
    )
    rows: list[tuple[str, ...]] = [
        (SHORT.get(row.name, ""), row.long_name, row.formula, _best(row), row.reference)
        for row in (SCORES[name] for name in DEFINED if name in scores)
    ]
    yield "Scores", rows
    yield "Symbols", [*SYMBOLS.items()]


def _best(row: Score) -> str:
    return "" if row.perfect is None else f"{row.perfect:g} is perfect"
