"""Any forecasters over any cases, on the same pixels: sums, then scores, then skill."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from data_prep.schema import SPLITS, RefusedInput, iso, time_step
from nowcast.baselines import Persistence
from nowcast.forecaster import Forecaster
from nowcast.verification import lead_sums, score, skill

logger = logging.getLogger(__name__)

THRESHOLDS = (0.5, 1.0, 2.0, 5.0)
"""mm/h."""
Part = Literal["held_out", "all", "train", "validation", "test"]


def verify(
    forecasts: Mapping[str, xr.DataArray],
    *,
    truth: xr.DataArray,
    reference: str = "persistence",
    thresholds: Sequence[float] = THRESHOLDS,
) -> xr.Dataset:
    """Score forecasts of one reference time against what fell.

    Args:
        forecasts: By name, each (realization, lead_time, y, x) in mm/h, of one reference time.
        truth: Rain array that holds the valid times.
        reference: Name of the forecast that skill is measured against; persistence is made if not given.
        thresholds: mm/h.

    Returns:
        Scores and skill by ``model, lead_time, threshold``.

    Raises:
        RefusedInput: If forecasts differ in time or grid, or the truth lacks a valid time.
    """
    first = next(iter(forecasts.values()))
    start = first["forecast_reference_time"].values
    for name, forecast in forecasts.items():
        same = forecast.shape[1:] == first.shape[1:] and all(
            np.array_equal(forecast[axis], first[axis])
            for axis in ("forecast_reference_time", "lead_time", "y", "x")
        )
        if not same:
            raise RefusedInput(
                "forecasts to compare have one reference time, one set of lead times and one grid",
                came=f"{name} at {iso(forecast['forecast_reference_time'].values)} with {forecast.shape[1:]}",
                do="verify them one by one",
            )
    lacking = np.setdiff1d([start, *first["time"].values], truth["time"].values)
    if lacking.size:
        raise RefusedInput(
            "the truth holds the reference time and every valid time of the forecasts",
            came=f"no frame at {iso(lacking[0])}",
            do="shorten the forecast or wait for the truth",
        )
    if not all(np.array_equal(truth[axis], first[axis]) for axis in ("y", "x")):
        raise RefusedInput(
            "forecasts and truth lie on one grid",
            came=f"{first.shape[2:]} cells against {truth.shape[1:]}, or cells elsewhere",
            do="verify against the archive the forecasts were made from",
        )
    members = {name: forecast.values for name, forecast in forecasts.items()}
    if reference == Persistence.name and reference not in members:
        last = truth.sel(time=start).values.astype(np.float32)
        members[reference] = np.broadcast_to(last, (1, *first.shape[1:]))
    if reference not in members:
        raise RefusedInput(
            "the reference is persistence or one of the forecasts",
            came=reference,
            do=f"one of {list(members)}",
        )
    observed = truth.sel(time=first["time"].values).values
    sums = _case_sums(members, observed, thresholds)
    sums = sums.assign_coords(lead_time=first["lead_time"].values, threshold=list(thresholds))
    return scored(sums, reference)


def evaluate(
    forecasters: Mapping[str, Forecaster],
    radar: xr.DataArray,
    starts: Sequence[np.datetime64] | np.ndarray,
    *,
    lead_steps: int = 18,
    members: int = 20,
    seed: int = 0,
    thresholds: Sequence[float] = THRESHOLDS,
) -> xr.Dataset:
    """Hindcasts of all forecasters from all starts, as sums.

    Args:
        forecasters: By name.
        radar: Rain array with contexts and truth.
        starts: Reference times, as `valid_starts` gives them.
        lead_steps: Future frames.
        members: Members of every forecaster that is not deterministic.
        seed: Of the members.
        thresholds: mm/h.

    Returns:
        Sums by ``case, model, lead_time, threshold``; ``case`` is the reference time.
    """
    step = time_step(radar["time"].values)
    leads = step * np.arange(1, lead_steps + 1)
    longest = max(forecaster.context_frames for forecaster in forecasters.values())
    cases = []
    for number, start in enumerate(starts, start=1):
        window = radar.sel(time=slice(start - longest * step, start + leads[-1])).load()
        forecasts = {
            name: forecaster.forecast(
                context_at(window, start, forecaster.context_frames),
                lead_steps=lead_steps,
                members=members,
                seed=seed,
            ).values
            for name, forecaster in forecasters.items()
        }
        cases.append(_case_sums(forecasts, window.sel(time=start + leads).values, thresholds))
        logger.info("case %d of %d: %s", number, len(starts), iso(start))
    sums = xr.concat(cases, dim="case")
    return sums.assign_coords(
        case=np.array(starts, dtype="datetime64[ns]"), lead_time=leads, threshold=list(thresholds)
    )


def scored(sums: xr.Dataset, reference: str) -> xr.Dataset:
    """Scores over all cases, and their skill against one model."""
    total = sums.sum("case") if "case" in sums.dims else sums
    scores = score(total)
    return xr.merge([scores, skill(scores, reference), total[["cells"]]]).assign_attrs(reference=reference)


def skill_table(sums: xr.Dataset, references: Sequence[str], *, threshold: float = 1.0) -> str:
    """Scores and skill by lead time as text: CRPS and MAE in mm/h, and CSI at one threshold.

    Args:
        sums: As `evaluate` makes them.
        references: Models to give the skill against, each in columns of its own.
        threshold: Of the CSI, mm/h.
    """
    total = sums.sum("case")
    scores = score(total).sel(threshold=threshold)
    skills = {name: skill(scores, name) for name in references}
    models = [str(name) for name in scores["model"].values]
    lines = []
    titles = {
        "crps": "CRPS of the ensemble, mm/h",
        "mae": "MAE of the ensemble mean, mm/h",
        "csi": f"CSI of the ensemble mean, {threshold:g} mm/h or more",
    }
    for name, title in titles.items():
        columns = [(model, scores[name].sel(model=model), "{:.3f}") for model in models]
        columns += [
            (f"{model} vs {against}", 100 * values[f"{name}_skill"].sel(model=model), "{:+.0f} %")
            for against, values in skills.items()
            for model in models
            if model != against and models.index(model) > models.index(against)
        ]
        widths = [max(len(label), 8) for label, _, _ in columns]
        lines += ["", f"{title}  (last columns: skill)", " lead  " + _row([c[0] for c in columns], widths)]
        for lead in range(scores.sizes["lead_time"]):
            minute = scores["lead_time"].values[lead] / np.timedelta64(1, "m")
            cells = [shape.format(float(values[lead])) for _, values, shape in columns]
            lines.append(f"{minute:>4.0f}'  " + _row(cells, widths))
    return "\n".join(lines).lstrip("\n")


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def valid_starts(
    radar: xr.DataArray, *, context_frames: int, lead_steps: int, stride: int = 1, part: Part = "held_out"
) -> np.ndarray:
    """Reference times whose whole window, context and lead times, is in a store without a gap.

    Args:
        radar: Rain array with, if it has one, the coordinate ``split(time)``.
        context_frames: Frames up to and including the reference time.
        lead_steps: Frames after it.
        stride: Every how many-th start to take.
        part: Windows of one split; ``held_out`` takes those without any training frame.

    Raises:
        RefusedInput: If there is none.
    """
    times = radar["time"].values
    length = context_frames + lead_steps
    span = (length - 1) * time_step(times)
    allowed = _allowed(radar, part)
    if lead_steps < 1 or stride < 1:
        raise RefusedInput(
            "lead_steps and stride are 1 or more", came=f"{lead_steps} and {stride}", do="correct the number"
        )
    starts = [
        times[first + context_frames - 1]
        for first in range(times.size - length + 1)
        if times[first + length - 1] - times[first] == span and allowed[first : first + length].all()
    ]
    if not starts:
        raise RefusedInput(
            f"the store holds an unbroken window of {length} frames in part '{part}'",
            came=f"{times.size} frames, {int(allowed.sum())} of them in that part",
            do="choose another --part (all, train, validation, test) or fewer lead steps",
        )
    return np.array(starts[::stride])


def context_at(radar: xr.DataArray, time: np.datetime64, frames: int) -> xr.DataArray:
    """The frames of a store up to a time.

    Raises:
        RefusedInput: If the time is not in the store, or a frame before it is missing.
    """
    times = radar["time"].values
    if time not in times:
        near = times[np.abs(times - time).argmin()]
        raise RefusedInput(
            f"--time is the time of a frame between {iso(times[0])} and {iso(times[-1])}",
            came=iso(time),
            do=f"the nearest frame is {iso(near)}",
        )
    step = time_step(times)
    wanted = time - step * np.arange(frames - 1, -1, -1)
    lacking = np.setdiff1d(wanted, times)
    if lacking.size:
        raise RefusedInput(
            f"a context is {frames} frames without a gap up to {iso(time)}",
            came=f"no frame at {', '.join(iso(gap) for gap in lacking)}",
            do="choose a time after the gap",
        )
    return radar.sel(time=slice(wanted[0], wanted[-1]))


def _allowed(radar: xr.DataArray, part: Part) -> np.ndarray:
    """Frames that a part may use, (time,)."""
    if part == "all" or ("split" not in radar.coords and part == "held_out"):
        return np.ones(radar.sizes["time"], bool)
    if "split" not in radar.coords:
        raise RefusedInput("a part of the data is marked in the store", came=part, do="use --part all")
    codes = radar["split"].values
    if part == "held_out":
        return codes != SPLITS.index("train")
    return codes == SPLITS.index(part)


def _case_sums(
    forecasts: Mapping[str, np.ndarray], observed: np.ndarray, thresholds: Sequence[float]
) -> xr.Dataset:
    """Sums by model, lead time and threshold over the cells that every model and the truth have."""
    mask = np.isfinite(observed)
    for members in forecasts.values():
        mask &= np.isfinite(members).all(axis=0)
    by_model = []
    for members in forecasts.values():
        leads = [
            lead_sums(members[:, lead], observed[lead], mask[lead], thresholds=thresholds)
            for lead in range(observed.shape[0])
        ]
        by_model.append({name: np.stack([sums[name] for sums in leads]) for name in leads[0]})
    variables = {}
    for name in by_model[0]:
        values = np.stack([sums[name] for sums in by_model])
        dims = ("model", "lead_time", "threshold")[: values.ndim]
        variables[name] = (dims, values)
    return xr.Dataset(variables, coords={"model": list(forecasts)})
