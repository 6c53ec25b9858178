"""Scores as text for a terminal, and which lead times and thresholds a reader is shown."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from datetime import timedelta
from textwrap import fill
from typing import TypeVar

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput, minutes
from nowcast.verification.score_table import SCORES

Lead = float | str | np.timedelta64 | timedelta
"""A lead time: minutes, a text like ``30min``, or a timedelta."""
WIDTH = 120
"""Columns of a terminal that a table stays within."""
LEADS = (5.0, 10.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
"""Minutes that a long table is cut down to."""
MANY_LEADS = 10
Scores = TypeVar("Scores", xr.DataArray, xr.Dataset)
TITLES = {
    "crps": "CRPS",
    "mae": "MAE of the ensemble mean",
    "csi": "CSI of the ensemble mean",
    "matched_csi": "CSI of the probability-matched mean",
    "member_csi": "CSI of the members",
}
SAME_FOR_ONE_MEMBER = ("matched_csi", "member_csi")
"""Scores that are those of the mean where a model has one member; shown if any has more."""
_NAME = 22
"""Characters of a model's name at most."""
_GAP = "  "


def lead_minutes(values: xr.DataArray | xr.Dataset) -> np.ndarray:
    """The lead times in minutes, (lead_time,)."""
    return np.array([minutes(np.timedelta64(lead, "ns")) for lead in values["lead_time"].values])


def minutes_of(lead_time: Lead) -> float:
    """A lead time in minutes.

    Raises:
        RefusedInput: If it is none.
    """
    if isinstance(lead_time, str):
        said = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(min|h)\s*", lead_time)
        found = float(said[1]) * (60 if said[2] == "h" else 1) if said else np.nan
    else:
        given = np.asarray(np.timedelta64(lead_time) if isinstance(lead_time, timedelta) else lead_time)
        if given.dtype.kind == "m":
            given = given / np.timedelta64(1, "m")
        found = float(given) if given.ndim == 0 and given.dtype.kind in "iuf" else np.nan
    if not np.isfinite(found):
        raise RefusedInput(
            "a lead time is a number of minutes, a timedelta, or a text",
            came=lead_time,
            do="write 30min, or 2h",
        )
    return found


def nearest(values: Iterable[float], wanted: Sequence[float]) -> list[float]:
    """For each wanted value the one that is nearest to it, every one once, in rising order."""
    available = np.array(list(values), dtype=float)
    if not available.size:
        return []
    return sorted({float(available[np.abs(available - value).argmin()]) for value in wanted})


def at(values: Scores, **wanted: Lead) -> Scores:
    """The entry that is nearest to wanted values of dims, of which an array may lack some.

    Args:
        values: Any score, or several.
        **wanted: By name of the dim; ``lead_time`` as `minutes_of` takes it.

    Raises:
        RefusedInput: If a lead time is none.
    """
    for dim, value in wanted.items():
        if dim in values.dims:
            value = minutes_of(value)
            places = lead_minutes(values) if dim == "lead_time" else values[dim].values
            values = values.isel({dim: int(np.abs(places - value).argmin())})
    return values


def bounds(
    intervals: xr.Dataset | None, name: str, like: xr.DataArray, **wanted: Lead
) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Lower and upper bound of a score for the models and lead times of another array.

    Args:
        intervals: Variables ``<name>_low`` and ``<name>_high``.
        name: Of the score.
        like: What the bounds belong to.
        **wanted: As of `at`.

    Returns:
        NaN where there is no interval; None if there is none at all.
    """
    if intervals is None or f"{name}_low" not in intervals or f"{name}_high" not in intervals:
        return None
    axes = {dim: like[dim] for dim in ("model", "lead_time") if dim in like.dims}
    low, high = (
        at(intervals[f"{name}_{end}"], **wanted).reindex(axes).transpose(*axes) for end in ("low", "high")
    )
    known = bool((np.isfinite(low) & np.isfinite(high)).any())
    return (low, high) if known else None


def over_leads(scores: xr.Dataset, name: str) -> xr.DataArray:
    """A score that is a mean over cells, over the cells of all lead times together.

    A lead time at which a model has no score counts for no model, so that all are compared on the same ones.

    Args:
        scores: With the score and ``cells`` by (model, lead_time).
        name: Of a score that is a sum over cells divided by their number.

    Returns:
        (model,), NaN without any cell.
    """
    values = scores[name]
    cells = scores["cells"].where(values.notnull().all("model"), 0)
    total = cells.sum("lead_time")
    return (values.fillna(0) * cells).sum("lead_time") / total.where(total > 0)


def overall_skill(scores: xr.Dataset, name: str = "crps") -> xr.DataArray:
    """Skill of an error over all lead times together, (model,): 1 - error / error of the reference."""
    mean = over_leads(scores, name)
    against = mean.sel(model=scores.attrs["reference"], drop=True)
    return 1 - mean / against.where(against != 0)


def score_table(scores: xr.Dataset, intervals: xr.Dataset | None = None, *, threshold: float = 1.0) -> str:
    """CRPS, MAE and CSI by lead time, each with its skill against the reference.

    Args:
        scores: Scores and ``<score>_skill`` by (model, lead_time), the attribute ``reference``, and the
            coordinate ``member_count``, without which every model has one member.
        intervals: ``<score>_skill_low`` and ``_high``, and the attributes ``level`` and ``blocks``.
        threshold: Of the CSI, mm/h; the nearest one there is.

    Returns:
        Lines of `WIDTH` characters at most, a table a score and group of models.
    """
    largest = int(scores["member_count"].max()) if "member_count" in scores.coords else 1
    shown = [name for name in TITLES if name in scores and (largest > 1 or name not in SAME_FOR_ONE_MEMBER)]
    tables = [table for name in shown for table in _tables(scores, intervals, name, threshold)]
    return "\n\n".join([*tables, fill(interval_note(intervals), WIDTH)])


def interval_note(intervals: xr.Dataset | None) -> str:
    """How intervals were made and how far to trust them, or why there are none."""
    blocks = int(intervals.attrs.get("blocks", 0)) if intervals is not None else 0
    if intervals is None or not blocks:
        return "No intervals were made."
    if blocks < 2:
        return "No intervals: the cases are one block, and how much blocks differ cannot be told from one."
    level = f"{100 * intervals.attrs.get('level', 0.95):g} %"
    note = f"Intervals of {level} come from drawing {blocks} blocks of cases again and again."
    if intervals.attrs.get("indicative"):
        note += f" Those of so few blocks as {blocks} are an indication, and too narrow{_coverage(blocks)}."
    smallest = float(intervals.attrs.get("smallest_p_value", 0))
    if smallest > 0.01:
        note += f" No p-value can be below {smallest:.2g}."
    return note


COVERAGE = {2: 51, 3: 74, 5: 84}
"""How often an interval of 95 % of so many blocks holds the truth, % (independent normal blocks)."""


def _coverage(blocks: int) -> str:
    share = COVERAGE.get(blocks)
    return f" (the truth is in {share} % of those of {blocks} blocks at best)" if share else ""


def signed_percent(share: float) -> str:
    """A skill in percent with its sign, a dash where it is undefined."""
    return f"{round(100 * share):+d}" if np.isfinite(share) else "-"


def number(value: float, unit: Hashable = "mm h-1") -> str:
    """A score with three decimals, rain with one more where it is small; a dash where it is undefined."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.4f}" if unit == "mm h-1" and abs(value) < 0.1 else f"{value:.3f}"


def shortened(name: str, length: int = _NAME) -> str:
    """A name with its middle left out where it is too long, and without what a terminal would obey."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(plain) <= length:
        return plain
    return f"{plain[: (length - 1) // 2]}…{plain[len(plain) - length // 2 :]}"


def _tables(scores: xr.Dataset, intervals: xr.Dataset | None, name: str, threshold: float) -> list[str]:
    """The models of one score side by side, the reference first, in as many tables as the width asks for."""
    reference = scores.attrs.get("reference")
    models = sorted(scores["model"].values.tolist(), key=lambda model: model != reference)
    values = at(scores[name].sel(model=models), threshold=threshold).transpose("model", "lead_time")
    rows = _rows(values)
    values, skill = values.isel(lead_time=rows), _skill(scores, name, models, threshold)
    found = bounds(intervals, f"{name}_skill", values, threshold=threshold)
    columns = [["lead", *(f"{lead:g} min" for lead in lead_minutes(values))]]
    for place, model in enumerate(models):
        shares = None if skill is None or model == reference else skill.isel(lead_time=rows)[place]
        cells = [_cell(values[place], shares, found, place, row) for row in range(len(rows))]
        columns.append([shortened(str(model)), *cells])
    repeated = 2 if reference in models else 1
    heading = _heading(values, name)
    if skill is not None:
        heading += f"; skill against {shortened(str(reference))} in %"
        heading += " (and its interval)" if found else ""
    return [
        "\n".join([heading, *_lines(columns[:repeated] + group)])
        for group in _groups(columns[:repeated], columns[repeated:])
    ]


def _groups(repeated: list[list[str]], columns: list[list[str]]) -> list[list[list[str]]]:
    """Columns in groups that fit beside those that every table repeats."""

    def width(of: list[list[str]]) -> int:
        return sum(max(map(len, column)) + len(_GAP) for column in of)

    groups: list[list[list[str]]] = [[]]
    for column in columns:
        if groups[-1] and width([*repeated, *groups[-1], column]) > WIDTH:
            groups.append([])
        groups[-1].append(column)
    return groups


def _lines(columns: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    return [
        _GAP.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]


def _rows(values: xr.DataArray) -> np.ndarray:
    leads = lead_minutes(values)
    if leads.size <= MANY_LEADS:
        return np.arange(leads.size)
    return np.flatnonzero(np.isin(leads, nearest(leads, LEADS)))


def _skill(scores: xr.Dataset, name: str, models: list[Hashable], threshold: float) -> xr.DataArray | None:
    if f"{name}_skill" not in scores:
        return None
    return at(scores[f"{name}_skill"].sel(model=models), threshold=threshold).transpose("model", "lead_time")


def _heading(values: xr.DataArray, name: str) -> str:
    unit = ", mm/h" if SCORES[name].units == "mm h-1" else ""
    event = f", {float(values['threshold']):g} mm/h or more" if "threshold" in values.coords else ""
    return f"{TITLES[name]}{event}{unit}"


def _cell(
    values: xr.DataArray,
    skill: xr.DataArray | None,
    found: tuple[xr.DataArray, xr.DataArray] | None,
    model: int,
    row: int,
) -> str:
    text = number(float(values[row]), SCORES[str(values.name)].units)
    if skill is None or not np.isfinite(skill[row]):
        return text
    text += f" {signed_percent(float(skill[row])):>3}"
    low, high = (float(end[model, row]) for end in found) if found else (np.nan, np.nan)
    return f"{text} ({round(100 * low)}..{round(100 * high)})" if np.isfinite(low + high) else text
