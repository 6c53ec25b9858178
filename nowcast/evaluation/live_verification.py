"""Live verification: forecasts are scored as what they foretold is observed, and the sums are kept.

For each reference time there is a file of sums by model and lead time, NaN where nothing is scored yet. They
are the sums that a hindcast of the same forecasts has: of all its models and of persistence from the frame at
the reference time, on the cells where the truth and every member of each has a value.

- A lead time is scored once: when its truth is there and all models have forecast it. Where a model has not,
  or its file cannot be used, the lead time waits until the last truth of the forecast is due, and is then
  scored with the models there are.
- A model that was not there when a reference time was first scored is not added to that time afterwards.
- A truth that comes late fills its gap; one that never comes leaves NaN, which no score counts.
- What has been scored stays as it is, even if the frame or the forecast file changes later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput, iso
from nowcast.evaluation.evaluate import Failure, scored
from nowcast.evaluation.hindcasts import rank_seed, scored_cells
from nowcast.evaluation.live_sums import ByModel, Known, LiveSums
from nowcast.forecaster import spacing_km
from nowcast.forecasters.baselines import Persistence
from nowcast.forecasters.stored_forecasts import ForecastFile, StoredForecasts, values_of
from nowcast.verification import ScoreSettings, lead_sums

logger = logging.getLogger(__name__)

PERSISTENCE = Persistence.name
MONTH = np.timedelta64(30, "D")


class Scored(NamedTuple):
    """What was scored of the forecasts from one reference time, lead time by lead time."""

    time: np.datetime64
    lead_times: list[np.timedelta64]


class Update(NamedTuple):
    """What came of a look at forecasts and truth; a failure is named once, until its file changes."""

    scored: list[Scored]
    failures: list[Failure]


class LiveVerification:
    """Sums of forecasts whose truth arrives bit by bit. One process at a time uses a folder.

    Args:
        folder: Where the sums are kept, one file per reference time.
        settings: What the scores look at. Sums made with others, or on another grid, count for nothing.
        keep: How long sums are kept, counted back from the newest truth.
    """

    def __init__(
        self, folder: str | Path, settings: ScoreSettings | None = None, keep: np.timedelta64 = MONTH
    ) -> None:
        self._settings = settings or ScoreSettings()
        self._keep = keep
        self._sums = LiveSums(Path(folder), self._settings)
        self._stored: dict[str, StoredForecasts] = {}
        self._unusable: dict[tuple[str, np.datetime64], int] = {}
        self._named: dict[tuple[str, object], str] = {}

    def update(self, forecasts: Mapping[str, str | Path], radar: xr.DataArray) -> Update:
        """Score what can be scored and is not.

        Args:
            forecasts: Folders of forecast files (or single files), by model.
            radar: Rain array with the newest truth. It reaches back to the reference times that are to be
                scored: by the longest lead time, and more where frames may come late.

        Returns:
            What was scored, and what could not be; the same is logged.
        """
        result = Update([], [])
        stored = self._refreshed(forecasts, result)
        oldest = radar["time"].values[-1] - self._keep
        self._sums.use_grid(radar)
        for time in sorted({time for model in stored.values() for time in model.files if time >= oldest}):
            self._score_time(time, stored, set(forecasts), radar, result)
        self._sums.prune(oldest)
        return result

    def is_scored(self, time: np.datetime64) -> bool:
        """Whether there are sums of a reference time."""
        return self._sums.known(time) is not None

    def sums(self, since: np.datetime64 | None = None, until: np.datetime64 | None = None) -> xr.Dataset:
        """Sums by case, ready for `nowcast.verification.score` once they are added over cases.

        Args:
            since: First reference time; all there are if not given.
            until: Last reference time.

        Returns:
            As `label_sums` makes them, with the dim ``case`` and the coordinates ``reference_time(case)`` and
            ``weight(case)`` (1). NaN where a model or a lead time is not scored; a model counts as not scored
            in a case with another number of members than in its newest one. Memory grows with the cases.

        Raises:
            RefusedInput: If there are none.
        """
        cases = list(self._sums.cases(since, until))
        own = ["case", "reference_time", "weight"]
        return xr.concat(cases, dim="case", coords=own, compat="override", combine_attrs="drop")

    def scores(
        self,
        reference: str = PERSISTENCE,
        *,
        since: np.datetime64 | None = None,
        until: np.datetime64 | None = None,
    ) -> xr.Dataset:
        """Scores and skill over the cases of a period, in the memory of a few cases.

        At every lead time models are compared on the same cases: those that are scored for each of the models
        that are scored there in any case of the period.

        Args:
            reference: Model that skill is measured against.
            since: First reference time; all there are if not given.
            until: Last reference time.

        Returns:
            As `nowcast.evaluation.evaluate.scored`, with ``case_count(lead_time)``.

        Raises:
            RefusedInput: If there are no sums, or none of the reference.
        """
        total, counts = self._sums.total(since, until)
        return scored(total, reference, self._settings).assign(case_count=counts)

    def _refreshed(self, forecasts: Mapping[str, str | Path], result: Update) -> dict[str, StoredForecasts]:
        """The folders of forecasts as they are now; what cannot be read in them is named."""
        found = {}
        for model, folder in forecasts.items():
            refused: Mapping[str, str]
            try:
                found[model] = self._opened(model, Path(folder))
                refused = found[model].refused
            except RefusedInput as error:
                refused = {str(folder): str(error)}
            for name, reason in refused.items():
                self._name((model, name), Failure(model, np.datetime64("NaT", "ns"), reason), result)
        return found

    def _opened(self, model: str, folder: Path) -> StoredForecasts:
        stored = self._stored.get(model)
        if stored is None or stored.path != folder:
            self._stored[model] = StoredForecasts(folder)
        else:
            stored.refresh()
        return self._stored[model]

    def _score_time(
        self,
        time: np.datetime64,
        stored: Mapping[str, StoredForecasts],
        wanted: set[str],
        radar: xr.DataArray,
        result: Update,
    ) -> None:
        """Score the lead times of one reference time whose truth is there, and keep them."""
        known = self._sums.known(time)
        expected = wanted if known is None else wanted & known.members.keys()
        ours = {name: model for name, model in stored.items() if name in expected and time in model.files}
        lead_times = _lead_times([model.files[time].lead_times for model in ours.values()], known)
        arrived = _arrived(time, lead_times, known, radar)
        if not ours or not arrived.size:
            return
        due = radar["time"].values[-1] >= time + lead_times[-1]
        case = _Case(time, radar, self._settings, own_persistence=PERSISTENCE not in wanted)
        if not case.has_reference:
            failure = Failure(PERSISTENCE, time, "no frame at the reference time")
            self._name((PERSISTENCE, time), failure, result)
            return
        made = {}
        for lead_time in arrived:
            sums = self._score_lead(case, lead_time, ours, result, least=1 if due else len(expected))
            if sums:
                made[lead_time] = sums
        if made:
            self._sums.add(time, lead_times, made, shape=radar.shape[1:], spacing=spacing_km(radar))
            result.scored.append(Scored(time, list(made)))
            logger.info("scored %d lead time(s) of the forecasts from %s", len(made), iso(time))

    def _score_lead(
        self,
        case: _Case,
        lead_time: np.timedelta64,
        stored: Mapping[str, StoredForecasts],
        result: Update,
        *,
        least: int,
    ) -> ByModel:
        """Sums of one lead time by model, or none if fewer models than asked for can be scored."""
        usable = self._usable(case.time, lead_time, stored, result)
        while len(usable) >= least:
            try:
                return case.sums(usable, lead_time)
            except _Unusable as error:
                del usable[error.model]
                self._unusable[error.model, case.time] = stored[error.model].files[case.time].written
                self._name((error.model, case.time), Failure(error.model, case.time, str(error)), result)
        return {}

    def _usable(
        self,
        time: np.datetime64,
        lead_time: np.timedelta64,
        stored: Mapping[str, StoredForecasts],
        result: Update,
    ) -> dict[str, StoredForecasts]:
        """Models whose file has a lead time, and is not known to be of no use; what is wrong is named."""
        known = self._sums.known(time)
        usable = {}
        for name, model in stored.items():
            file = model.files[time]
            wrong = _wrong(file, lead_time, file.members if known is None else known.members[name])
            if wrong:
                self._name((name, time), Failure(name, time, wrong), result)
            elif self._unusable.get((name, time)) != file.written:
                usable[name] = model
        return usable

    def _name(self, key: tuple[str, object], failure: Failure, result: Update) -> None:
        """Report a failure, if it was not reported before."""
        if self._named.get(key) != failure.message:
            self._named[key] = failure.message
            result.failures.append(failure)
            logger.warning("%s at %s: %s", failure.model, iso(failure.time), failure.message)


class _Unusable(Exception):
    """A model whose forecast cannot be read or does not fit the truth."""

    def __init__(self, model: str, message: str) -> None:
        super().__init__(message)
        self.model = model


class _Case:
    """Forecasts from one reference time, of which one model and lead time is in memory at once."""

    def __init__(
        self, time: np.datetime64, radar: xr.DataArray, settings: ScoreSettings, *, own_persistence: bool
    ) -> None:
        self.time, self._radar, self._settings = time, radar, settings
        self._own_persistence = own_persistence
        self._opened: dict[str, xr.DataArray] = {}
        self.has_reference = not own_persistence or time in radar["time"].values

    def sums(self, stored: Mapping[str, StoredForecasts], lead_time: np.timedelta64) -> ByModel:
        """Sums of all models at one lead time, on the cells that they share.

        Raises:
            _Unusable: If a forecast cannot be used.
        """
        read = {name: partial(self._members, name, model, lead_time) for name, model in stored.items()}
        if self._own_persistence:
            read[PERSISTENCE] = partial(self._frames, self.time)
        observed = self._frames(self.time + lead_time)[0]
        mask = scored_cells(observed, self._settings.margin)
        for members in read.values():
            mask &= np.isfinite(members()).all(axis=0)
        told = {"spacing": spacing_km(self._radar), "seed": rank_seed(self.time, lead_time)}
        return {
            name: lead_sums(members(), observed, mask, self._settings, **told)  # type: ignore[arg-type]
            for name, members in read.items()
        }

    def _frames(self, time: np.datetime64) -> np.ndarray:
        """The observation at a time, mm/h, (1, H, W)."""
        return self._radar.sel(time=[time]).values.astype(np.float32)

    def _members(self, name: str, stored: StoredForecasts, lead_time: np.timedelta64) -> np.ndarray:
        """All members at one lead time, mm/h, (M, H, W)."""
        try:
            if name not in self._opened:
                leads = stored.files[self.time].lead_times
                self._opened[name] = stored.opened(self.time, self._radar, leads)
            return values_of(self._opened[name].sel(lead_time=lead_time))
        except RefusedInput as error:
            raise _Unusable(name, str(error)) from error


def _wrong(file: ForecastFile, lead_time: np.timedelta64, members: int) -> str | None:
    """Why a lead time of a forecast cannot be scored beside those of other models or other lead times."""
    if lead_time not in file.lead_times:
        longest = file.lead_times.max() / np.timedelta64(1, "m")
        return f"{file.path} lacks lead times that others have: {file.lead_times.size}, up to {longest:g} min"
    if file.members != members:
        return f"{file.path} holds {file.members} members, and {members} were scored at other lead times"
    return None


def _lead_times(by_model: Sequence[np.ndarray], known: Known | None) -> np.ndarray:
    """All lead times of a reference time, in order: what its first scoring found."""
    if known is not None:
        return np.array(known.lead_times, dtype="timedelta64[ns]")
    return np.unique(np.concatenate([np.array([], "timedelta64[ns]"), *by_model]))


def _arrived(
    time: np.datetime64, lead_times: np.ndarray, known: Known | None, radar: xr.DataArray
) -> np.ndarray:
    """Lead times whose truth is there and that are not scored."""
    done = np.array(sorted(known.scored) if known else [], dtype="timedelta64[ns]")
    return lead_times[np.isin(time + lead_times, radar["time"].values) & ~np.isin(lead_times, done)]
