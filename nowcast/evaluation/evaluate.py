"""From the results of cases to scores with intervals: sums first, divide last, the same cells for all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput, iso
from nowcast.evaluation.cases import Case
from nowcast.evaluation.hindcasts import Hindcasts, rank_seed, results, scored_cells
from nowcast.files import written_whole
from nowcast.forecaster import Forecaster, refuse_senseless_request, spacing_km
from nowcast.forecasters.baselines import Persistence
from nowcast.forecasters.stored_forecasts import on_one_grid, reference_time
from nowcast.verification import ScoreSettings, score, skill
from nowcast.verification.labels import label_sums
from nowcast.verification.sums import sums_of_leads
from nowcast.verification.uncertainty import block_labels, default_block_length, intervals, permutation_test

BY_CASE = ("cells", "forecast", "observed", "absolute_error", "squared_error", "crps_error", "crps_spread",
           "hits", "misses", "false_alarms")  # fmt: skip
"""Sums that scores of single cases are made from."""
HOUR = np.timedelta64(1, "h")


class Failure(NamedTuple):
    """A model that gave no forecast of a case."""

    model: str
    time: np.datetime64
    message: str


@dataclass(frozen=True)
class Evaluation:
    """Sums of many cases, added up in several ways; cases that a model failed on are in none of them.

    Attributes:
        blocks: Sums by ``block`` of consecutive cases, the units that intervals are made from.
        hours: Sums by ``hour`` of the day (UTC) of the reference time.
        cases: Scores of single cases by ``case, model, lead_time``; ``case`` is its name, beside
            ``reference_time(case)`` and ``weight(case)``.
        failures: What went wrong, model by model and case by case.
        block_length: Of the blocks.
        settings: What the sums were made with.
    """

    blocks: xr.Dataset
    hours: xr.Dataset
    cases: xr.Dataset
    failures: tuple[Failure, ...]
    block_length: np.timedelta64
    settings: ScoreSettings = field(default_factory=ScoreSettings)

    @property
    def models(self) -> list[str]:
        """Those that are scored: all but those that failed on every case."""
        return [str(name) for name in self.blocks["model"].values]

    def total(self) -> xr.Dataset:
        """Sums over all cases."""
        return self.blocks.sum("block")

    def scores(self, reference: str, settings: ScoreSettings | None = None) -> xr.Dataset:
        """Scores over all cases, their skill against one model, and the spectra.

        Args:
            reference: Name of the model that skill is measured against.
            settings: What the sums were made with, if that is not what they say themselves.

        Raises:
            RefusedInput: If the reference is not among the models that are scored.
        """
        if reference not in self.models:
            first = next((failure.message for failure in self.failures if failure.model == reference), "none")
            raise RefusedInput(
                "the reference is a model that gave forecasts",
                came=f"{reference}, which gave none ({first})",
                do=f"one of {self.models}, or mend it",
            )
        return scored(self.total(), reference, settings or self.settings)

    def uncertainty(self, reference: str, *, seed: int = 0) -> xr.Dataset:
        """Intervals of scores, differences and skill, and p-values, from resampled and exchanged blocks.

        Returns:
            What `intervals` and `permutation_test` give by lead time, and of the CRPS over all lead times
            together ``crps_skill_all_leads_low``, ``_high`` and ``crps_all_leads_p_value``.
        """
        tested = permutation_test(self.blocks, reference, seed=seed)
        ranges = intervals(self.blocks, reference, seed=seed)
        together = self.blocks.sum("lead_time")
        overall = intervals(together, reference, scores=("crps",), seed=seed)
        p_value = permutation_test(together, reference, ("crps",), seed=seed)["crps_p_value"]
        names = {f"crps_skill_{side}": f"crps_skill_all_leads_{side}" for side in ("low", "high")}
        return xr.merge(
            [ranges, tested, overall[list(names)].rename(names),
             p_value.to_dataset(name="crps_all_leads_p_value")],
            join="exact", compat="override", combine_attrs="drop_conflicts",
        )  # fmt: skip


def scored(sums: xr.Dataset, reference: str, settings: ScoreSettings | None = None) -> xr.Dataset:
    """Scores of sums over all cases that count, with skill against one model and the spectra."""
    scores = score(sums, settings or ScoreSettings())
    spectra = sums[[name for name in ("power", "observed_power") if name in sums]]
    return xr.merge(
        [scores, skill(scores, reference), spectra], join="exact", compat="override"
    ).assign_attrs(reference=reference)


def evaluate(
    forecasters: Mapping[str, Forecaster],
    radar: xr.DataArray,
    starts: Sequence[np.datetime64] | np.ndarray | Sequence[Case],
    *,
    lead_steps: int = 18,
    members: int = 20,
    seed: int = 0,
    scores: ScoreSettings | None = None,
    workers: int = 1,
) -> Evaluation:
    """Hindcasts of all forecasters from all starts.

    Args:
        forecasters: By name.
        radar: Rain array with contexts and truth.
        starts: Reference times, as `valid_starts` gives them, or cases, as `sampled_cases` does.
        lead_steps: Future frames.
        members: Members of every forecaster that is not deterministic.
        seed: Of the members.
        scores: What the scores look at.
        workers: Processes that work on cases.

    Raises:
        RefusedInput: If no case is left that any model gave a forecast of.
    """
    hindcasts = Hindcasts(forecasters, radar, lead_steps, members, seed, scores or ScoreSettings())
    cases = [start if isinstance(start, Case) else Case(start.astype("datetime64[ns]")) for start in starts]
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_cases(hindcasts, cases, folder=Path(folder), workers=workers)


def evaluate_cases(
    hindcasts: Hindcasts,
    cases: Sequence[Case],
    *,
    folder: Path,
    workers: int = 1,
    scheduler: str | None = None,
    block_length: np.timedelta64 | None = None,
) -> Evaluation:
    """Forecast and score cases, keeping the result of each in a folder; see `hindcasts.results`.

    Args:
        hindcasts: Models and settings.
        cases: What to forecast.
        folder: Where results are kept; what is there is not computed again.
        workers: Processes that work on cases.
        scheduler: Address of a dask.distributed scheduler to work on them instead.
        block_length: Of the blocks that intervals are made from; see `default_block_length`.

    Raises:
        RefusedInput: If no case is left that any model gave a forecast of.
    """
    refuse_senseless_request(lead_steps=hindcasts.lead_steps, members=hindcasts.members, seed=hindcasts.seed)
    if not cases:
        raise RefusedInput("there is a case to verify", came="none", do="choose other starts")
    if block_length is not None and block_length <= np.timedelta64(0):
        raise RefusedInput("a block of cases is longer than nothing", came=block_length, do="correct it")
    found = results(hindcasts, cases, folder=folder, workers=workers, scheduler=scheduler)
    failed = [json.loads(result.attrs["failures"]) for result in found]
    failures = tuple(
        Failure(model, case.time, message)
        for case, messages in zip(cases, failed, strict=True)
        for model, message in messages.items()
    )
    models = [name for name in hindcasts.forecasters if not all(name in messages for messages in failed)]
    whole = [not any(name in messages for name in models) for messages in failed]
    kept = [case for case, counts in zip(cases, whole, strict=True) if counts]
    if not models or not kept:
        model, time, message = failures[0]
        raise RefusedInput(
            "a case counts if every model that works at all gives a forecast of it",
            came=f"none of {len(cases)} does: {model} at {iso(time)}: {message}",
            do="leave out the model that fails, or mend it",
        )
    times = np.array([case.time for case in kept])
    length = block_length
    if length is None:
        length = default_block_length(times, hindcasts.lead_times[-1])
    blocks, hours, single = _gather(hindcasts, kept, models, folder, length)
    return Evaluation(blocks, hours, single, failures, length, hindcasts.scores)


def _gather(
    hindcasts: Hindcasts, cases: Sequence[Case], models: list[str], folder: Path, length: np.timedelta64
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Sums by block and by hour, and scores by case, from one file after another."""
    labels = block_labels(np.array([case.time for case in cases]), length)
    blocks, hours = _Sums(), _Sums()
    single = []
    fingerprint = hindcasts.fingerprint()
    for case, label in zip(cases, labels, strict=True):
        with xr.open_dataset(folder / f"{case.name}.nc", engine="netcdf4", decode_timedelta=True) as result:
            if result.attrs["fingerprint"] != fingerprint:
                raise RefusedInput(
                    "one verification at a time writes to a folder",
                    came=f"results of another one at {iso(case.time)} in {folder}",
                    do="run it again, with a folder of its own",
                )
            sums = result.sel(model=models).load()
        blocks.add(int(label), sums, case.weight)
        hours.add(int((case.time - case.time.astype("datetime64[D]")) / HOUR), sums, case.weight)
        own = {"case": case.name, "reference_time": case.time, "weight": case.weight}
        single.append(score(sums[list(BY_CASE)]).assign_coords(own))
    return (
        blocks.dataset("block"),
        hours.dataset("hour"),
        xr.concat(single, dim="case", coords=["case", "reference_time", "weight"], compat="override"),
    )


class _Sums:
    """Weighted sums of datasets by a key; all have the variables and sizes of the first."""

    def __init__(self) -> None:
        self._by_key: dict[int, dict[Hashable, np.ndarray]] = {}
        self._first: xr.Dataset | None = None

    def add(self, key: int, sums: xr.Dataset, weight: float) -> None:
        """Take a dataset in."""
        if self._first is None:
            self._first = sums
        totals = self._by_key.setdefault(key, {name: np.zeros(sums[name].shape) for name in sums})
        for name in sums:
            totals[name] += weight * sums[name].values

    def dataset(self, dim: str) -> xr.Dataset:
        """The sums along a dim of that name, in the order of the keys."""
        assert self._first is not None
        keys = sorted(self._by_key)
        kept = self._first.drop_vars(["reference_time", "weight"], errors="ignore")
        variables = {
            name: ((dim, *kept[name].dims), np.stack([self._by_key[key][name] for key in keys]))
            for name in kept
        }
        return xr.Dataset(variables, coords={**kept.coords, dim: keys})


def verify(
    forecasts: Mapping[str, xr.DataArray],
    *,
    truth: xr.DataArray,
    reference: str = "persistence",
    settings: ScoreSettings | None = None,
) -> xr.Dataset:
    """Score forecasts of one reference time against what fell.

    Args:
        forecasts: By name, each (realization, lead_time, y, x) in mm/h, of one reference time.
        truth: Rain array that holds the valid times.
        reference: Name of the forecast that skill is measured against; persistence is made if not given.
        settings: What the scores look at.

    Returns:
        Scores and skill by ``model, lead_time, ...``; see `nowcast.verification.score`.

    Raises:
        RefusedInput: If forecasts differ in time, grid or units, or the truth lacks a valid time.
    """
    refuse_unlike(forecasts, truth)
    first = next(iter(forecasts.values()))
    start = reference_time(first)
    leads = first["lead_time"].values
    members = {name: forecast.values.astype(np.float32) for name, forecast in forecasts.items()}
    if reference == Persistence.name and reference not in members:
        last = truth.sel(time=start).values.astype(np.float32)
        members[reference] = np.broadcast_to(last, (1, *first.shape[1:]))
    if reference not in members:
        raise RefusedInput(
            "the reference is persistence or one of the forecasts",
            came=reference,
            do=f"one of {list(members)}",
        )
    settings = settings or ScoreSettings()
    observed = truth.sel(time=start + leads).values.astype(np.float32)
    mask = scored_cells(observed, settings.margin)
    for values in members.values():
        mask &= np.isfinite(values).all(axis=0)
    spacing = spacing_km(truth)
    seeds = [rank_seed(start, lead) for lead in leads]
    threads = os.cpu_count() or 1
    by_model = {
        name: sums_of_leads(
            values.swapaxes(0, 1), observed, mask, settings, spacing=spacing, seeds=seeds, threads=threads
        )
        for name, values in members.items()
    }
    shape = observed.shape[1:]
    sums = label_sums(by_model, lead_times=leads, settings=settings, shape=shape, spacing=spacing)
    return scored(sums, reference, settings)


def refuse_unlike(forecasts: Mapping[str, xr.DataArray], truth: xr.DataArray) -> None:
    """Refuse forecasts that differ from one another or from the truth in time, grid or units.

    Raises:
        RefusedInput: If they do.
    """
    if not forecasts:
        raise RefusedInput("there is a forecast to verify", came="none", do="give one by its name")
    first = next(iter(forecasts.values()))
    axes = ("forecast_reference_time", "lead_time")
    for name, forecast in forecasts.items():
        same = all(np.array_equal(forecast[axis], first[axis]) for axis in axes)
        if not same or not on_one_grid(forecast, first):
            raise RefusedInput(
                "forecasts to compare have one reference time, one set of lead times and one grid",
                came=f"{name} at {iso(forecast['forecast_reference_time'].values)} with {forecast.shape[1:]}",
                do="verify them one by one",
            )
        _refuse_unit(name, forecast)
    _refuse_unit("the truth", truth)
    start = first["forecast_reference_time"].values
    lacking = np.setdiff1d([start, *(start + first["lead_time"].values)], truth["time"].values)
    if lacking.size:
        raise RefusedInput(
            "the truth holds the reference time and every valid time of the forecasts",
            came=f"no frame at {iso(lacking[0])}",
            do="shorten the forecast or wait for the truth",
        )
    if not on_one_grid(first, truth):
        raise RefusedInput(
            "forecasts and truth lie on one grid",
            came=f"{first.shape[2:]} cells against {truth.shape[1:]}, or cells elsewhere",
            do="verify against the archive the forecasts were made from",
        )


def write_scores(evaluation: Evaluation, scores: xr.Dataset, uncertainty: xr.Dataset, folder: Path) -> None:
    """Write ``sums.nc`` (by block) and ``scores.nc`` (all cases; groups ``hour`` and ``case``)."""
    with written_whole(folder / "sums.nc") as name:
        evaluation.blocks.assign_attrs(scores.attrs).to_netcdf(name)
    whole = xr.merge([scores, uncertainty], join="exact", compat="override", combine_attrs="override")
    drawn = {"resampling_seed": uncertainty.attrs["seed"]}
    whole.attrs = {**uncertainty.attrs, **drawn, **scores.attrs}
    whole["lead_time"].attrs |= {"standard_name": "forecast_period", "long_name": "time since the last frame"}
    groups = {"hour": score(evaluation.hours, evaluation.settings), "case": evaluation.cases}
    with written_whole(folder / "scores.nc") as name:
        whole.assign_attrs(Conventions="CF-1.11", title="scores of rain forecasts").to_netcdf(name)
        for group, dataset in groups.items():
            dataset.to_netcdf(name, group=group, mode="a")


def settings_attributes(settings: Mapping[str, object], scores: ScoreSettings) -> dict[str, str]:
    """Settings as attributes of a file."""
    told = {**settings, **asdict(scores)}
    return {name: ", ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str)
            else str(value) for name, value in told.items()}  # fmt: skip


def _refuse_unit(name: str, rain: xr.DataArray) -> None:
    from data_prep.schema import RATE_UNITS

    if rain.attrs.get("units") not in RATE_UNITS:
        raise RefusedInput(
            f"rain rates are in one of {RATE_UNITS}",
            came=f"{name} in {rain.attrs.get('units')!r}",
            do="convert it",
        )
