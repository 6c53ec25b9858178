"""Maps of single cases for the report: the best, the median and the worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from data_prep.schema import iso
from nowcast.evaluation.cases import Case, context_at
from nowcast.evaluation.evaluate import Evaluation
from nowcast.evaluation.hindcasts import Hindcasts
from nowcast.forecaster import label
from nowcast.plotting.cases import draw_case

RANKS = {"best": 0.0, "median": 0.5, "worst": 1.0}
"""Where each lies among the cases, by CRPS."""


def chosen_cases(evaluation: Evaluation, cases: Sequence[Case], count: int) -> dict[str, Case]:
    """Best, median and worst case by the CRPS of the best model over all lead times, as many as asked for."""
    crps = evaluation.cases["crps"]
    crps = crps.isel(region=0) if "region" in crps.dims else crps
    by_model = crps.mean("lead_time")
    if not by_model.notnull().any():
        return {}
    best = by_model.mean("case").argmin("model")
    values = by_model.isel(model=best).values
    order = np.flatnonzero(np.isfinite(values))[np.argsort(values[np.isfinite(values)], kind="stable")]
    by_name = {case.name: case for case in cases}
    names = evaluation.cases["case"].values
    chosen: dict[str, Case] = {}
    for name, place in list(RANKS.items())[:count]:
        if order.size:
            case = by_name[str(names[order[round(place * (order.size - 1))]])]
            if case not in chosen.values():
                chosen[name] = case
    return chosen


def draw_cases(
    hindcasts: Hindcasts, evaluation: Evaluation, cases: Sequence[Case], *, count: int = 3
) -> Iterator[tuple[str, Figure]]:
    """Forecast some cases again, with the same seeds, and draw them.

    Yields:
        Caption and figure.
    """
    lead = (hindcasts.lead_steps - 1) // 2
    lead_time = hindcasts.lead_times[lead]
    for name, case in chosen_cases(evaluation, cases, count).items():
        window = case.cut(hindcasts.radar)
        ensembles = {model: _at_lead(hindcasts, model, window, case, lead) for model in evaluation.models}
        observed = window.sel(time=case.time + lead_time).load()
        yield f"{name} case by CRPS: {iso(case.time)}", draw_case(observed, ensembles, lead_time)


def _at_lead(hindcasts: Hindcasts, model: str, window: xr.DataArray, case: Case, lead: int) -> xr.DataArray:
    """All members at one lead time, (realization, 1, y, x); others are not kept."""
    forecaster = hindcasts.forecasters[model]
    frames = forecaster.recent(context_at(window, case.time, forecaster.context_frames))
    count = forecaster.member_count(hindcasts.members)
    members = forecaster.stream(frames, lead_steps=hindcasts.lead_steps, members=count, seed=hindcasts.seed)
    values = np.stack([member[lead : lead + 1] for member in members])
    lead_times = hindcasts.lead_times[lead : lead + 1]
    return label(values, frames, attributes={"model": model}).assign_coords(
        lead_time=lead_times, time=("lead_time", case.time + lead_times)
    )
