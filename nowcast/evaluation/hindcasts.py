"""Hindcasts: every model forecasts every case, and what comes of it is kept as sums.

All models are scored on the same cells: those where the truth and every member of every model has a value.
Members go to a scratch file and are scored one lead time after another, so that memory does not grow with the
ensemble. A model that fails on a case is named in its result, and the other models go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput, iso, time_step
from nowcast.evaluation.cases import Case, context_at
from nowcast.evaluation.work import open_work
from nowcast.files import written_whole
from nowcast.forecaster import Forecaster, spacing_km
from nowcast.verification import ScoreSettings, lead_sums
from nowcast.verification.labels import label_sums

logger = logging.getLogger(__name__)

EVERYWHERE = "all"
"""The region that is the whole field."""


@dataclass(frozen=True)
class Hindcasts:
    """What every case is made with, by workers that know nothing else.

    Attributes:
        forecasters: By name.
        radar: Rain array with contexts and truth.
        lead_steps: Future frames.
        members: Members of every forecaster that is not deterministic.
        seed: Of the members.
        scores: What the scores look at.
        regions: Integer labels (y, x) on the grid of the radar, with attribute ``names``: labels 1, 2, ...
            are scored apart, beside the whole field.
    """

    forecasters: Mapping[str, Forecaster]
    radar: xr.DataArray
    lead_steps: int = 18
    members: int = 20
    seed: int = 0
    scores: ScoreSettings = field(default_factory=ScoreSettings)
    regions: xr.DataArray | None = None

    @property
    def lead_times(self) -> np.ndarray:
        """Timedelta64, (lead_time,)."""
        return time_step(self.radar["time"].values) * np.arange(1, self.lead_steps + 1)

    @property
    def context_frames(self) -> int:
        """Frames that the most demanding forecaster needs."""
        return max(forecaster.context_frames for forecaster in self.forecasters.values())

    def fingerprint(self) -> str:
        """What tells results of other models or settings from these."""
        told = {
            "nowcast": version("nowcast"),
            "models": {name: model.provenance() for name, model in self.forecasters.items()},
            "settings": [self.lead_steps, self.members, self.seed, asdict(self.scores)],
            "lead_times": [str(lead_time) for lead_time in self.lead_times],
            "grid": [str(self.radar[axis].values.tolist()) for axis in ("y", "x")],
            "regions": None
            if self.regions is None
            else [list(self.regions.attrs["names"]), self.regions.values.tolist()],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def window(self, case: Case) -> xr.DataArray:
        """The frames that a case is made from and scored on, mm/h, float32, in memory."""
        step = time_step(self.radar["time"].values)
        first = case.time - self.context_frames * step
        frames = self.radar.sel(time=slice(first, case.time + self.lead_times[-1]))
        return case.cut(frames).astype(np.float32).load()


def results(
    hindcasts: Hindcasts,
    cases: Sequence[Case],
    *,
    folder: Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
) -> Iterator[xr.Dataset]:
    """Forecast and score cases, in their order.

    Args:
        hindcasts: Models and settings.
        cases: What to forecast.
        folder: Where results are kept, one file per case. A case whose file is there, made with the same
            models, settings and radar data and without a failure, is read and not computed again.
        workers: Processes that work on cases.
        scheduler: Address of a dask.distributed scheduler to work on them instead.

    Yields:
        Sums as `label_sums` makes them, with the scalar coordinates ``reference_time`` and ``weight`` and the
        attribute ``failures``: JSON, message by model.

    Raises:
        RefusedInput: If the truth of a case is not in the radar data.
    """
    _refuse_without_truth(hindcasts, cases)
    fingerprint = hindcasts.fingerprint()
    files = [folder / f"{case.name}.nc" if folder else None for case in cases]
    known = {
        number
        for number, (case, file) in enumerate(zip(cases, files, strict=True))
        if file and _is_done(file, fingerprint, hindcasts, case)
    }
    if known:
        logger.info("%d of %d cases were done before", len(known), len(cases))
    pending = [case for number, case in enumerate(cases) if number not in known]
    with open_work(score_case, hindcasts, workers=min(workers, len(pending)), scheduler=scheduler) as work:
        computed = work(pending)
        for number, (case, file) in enumerate(zip(cases, files, strict=True)):
            if number in known and file:
                yield _read(file)
                continue
            result = next(computed).assign_attrs(fingerprint=fingerprint)
            logger.info("case %d of %d: %s", number + 1, len(cases), iso(case.time))
            for model, message in json.loads(result.attrs["failures"]).items():
                logger.warning("%s failed at %s: %s", model, iso(case.time), message)
            if file:
                with written_whole(file) as name:
                    result.to_netcdf(name)
            yield result


def score_case(hindcasts: Hindcasts, case: Case) -> xr.Dataset:
    """Forecast one case with all models and add up what the scores need; see `results`."""
    times = case.time + hindcasts.lead_times
    window = hindcasts.window(case)
    observed = window.sel(time=times).values
    mask = scored_cells(observed, hindcasts.scores.margin)
    failures: dict[str, str] = {}
    made: dict[str, MembersOnDisk] = {}
    with ExitStack() as files:
        for name, forecaster in hindcasts.forecasters.items():
            try:
                made[name] = _forecast(forecaster, window, case, hindcasts, files)
            except Exception as error:  # noqa: BLE001 (whatever ails a model, the others go on; it is named)
                failures[name] = f"{type(error).__name__}: {error}"
        for members in made.values():
            mask &= members.complete
        sums = _case_sums(made, observed, mask, hindcasts, case) if made else xr.Dataset()
    return sums.assign_coords(reference_time=case.time, weight=case.weight).assign_attrs(
        failures=json.dumps(failures), data=_digest(window)
    )


class MembersOnDisk:
    """Members of one forecast in a scratch file, read by lead time.

    Attributes:
        complete: Where every member has a value, (lead_time, H, W).
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._count, self._shape = count, shape
        self._written = 0
        self.complete = np.ones(shape, bool)

    def add(self, member: np.ndarray) -> None:
        """Keep the next member, mm/h, (lead_time, H, W)."""
        if member.shape != self._shape:
            raise ValueError(f"a member has the shape {self._shape}, got {member.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            member = np.asarray(member, dtype=np.float32)
        if (member < 0).any():
            raise ValueError(f"rain rates are 0 or more, got {np.nanmin(member):g} mm/h")
        for lead, values in enumerate(member):
            self._file.seek(self._offset(lead) + self._written * values.nbytes)
            self._file.write(values.tobytes())
        self.complete &= np.isfinite(member)
        self._written += 1

    def at(self, lead: int) -> np.ndarray:
        """All members at one lead time, mm/h, (M, H, W)."""
        if self._written != self._count:
            raise ValueError(f"a forecast of {self._count} members, got {self._written}")
        self._file.seek(self._offset(lead))
        size = self._count * self._shape[1] * self._shape[2]
        return np.frombuffer(self._file.read(4 * size), np.float32).reshape(self._count, *self._shape[1:])

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def _offset(self, lead: int) -> int:
        return 4 * lead * self._count * self._shape[1] * self._shape[2]


def _forecast(
    forecaster: Forecaster, window: xr.DataArray, case: Case, hindcasts: Hindcasts, files: ExitStack
) -> MembersOnDisk:
    context = forecaster.recent(context_at(window, case.time, forecaster.context_frames))
    count = forecaster.member_count(hindcasts.members)
    shape = (hindcasts.lead_steps, window.sizes["y"], window.sizes["x"])
    members = MembersOnDisk(count, shape)
    files.callback(members.close)
    asked = {"lead_steps": hindcasts.lead_steps, "members": count, "seed": hindcasts.seed}
    for member in forecaster.stream(context, **asked):
        members.add(member)
    members.at(0)  # refuses a forecast that is not whole
    return members


def _case_sums(
    made: Mapping[str, MembersOnDisk],
    observed: np.ndarray,
    mask: np.ndarray,
    hindcasts: Hindcasts,
    case: Case,
) -> xr.Dataset:
    """Sums of one case by model and lead time, and by region where there are some."""
    regions = _region_masks(hindcasts.regions, case, observed.shape[1:])
    spacing = spacing_km(hindcasts.radar)
    by_region: dict[str, dict[str, list]] = {name: {model: [] for model in made} for name in regions}
    for lead, lead_time in enumerate(hindcasts.lead_times):
        seed = rank_seed(case.time, lead_time)
        for model, members in made.items():
            fields = members.at(lead)
            for region, inside in regions.items():
                counted = mask[lead] & inside
                sums = lead_sums(
                    fields, observed[lead], counted, hindcasts.scores, spacing=spacing, seed=seed
                )
                by_region[region][model].append(sums)
    labelled = [
        label_sums(
            by_model,
            lead_times=hindcasts.lead_times,
            settings=hindcasts.scores,
            shape=observed.shape[1:],
            spacing=spacing,
        )
        for by_model in by_region.values()
    ]
    if hindcasts.regions is None:
        return labelled[0]
    return xr.concat(labelled, dim=xr.Variable("region", list(regions)))


def _region_masks(regions: xr.DataArray | None, case: Case, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    masks = {EVERYWHERE: np.ones(shape, bool)}
    if regions is not None:
        labels = case.cut(regions).values
        masks |= {name: labels == number for number, name in enumerate(regions.attrs["names"], start=1)}
    return masks


def scored_cells(observed: np.ndarray, margin: int) -> np.ndarray:
    """Where there is a truth, and not along the border: (..., H, W)."""
    height, width = observed.shape[-2:]
    inside = np.zeros((height, width), bool)
    inside[margin : max(height - margin, 0), margin : max(width - margin, 0)] = True
    return np.isfinite(observed) & inside


def rank_seed(time: np.datetime64, lead_time: np.timedelta64) -> int:
    """Seed of the ranks that are drawn among equal values, from reference time and lead time alone."""
    seconds = [int(time.astype("datetime64[s]").astype(np.int64)), int(lead_time / np.timedelta64(1, "s"))]
    return int(np.random.SeedSequence([abs(number) for number in seconds]).generate_state(1)[0])


def _refuse_without_truth(hindcasts: Hindcasts, cases: Sequence[Case]) -> None:
    known = set(hindcasts.radar["time"].values.astype("datetime64[ns]").tolist())
    for case in cases:
        wanted = (case.time + hindcasts.lead_times).astype("datetime64[ns]")
        lacking = [time for time in wanted if time.item() not in known]
        if lacking:
            raise RefusedInput(
                "the radar data hold the truth of every case",
                came=f"no frame at {iso(lacking[0])} for the forecast from {iso(case.time)}",
                do="choose other starts, as nowcast.evaluation.cases.valid_starts does, or fewer lead steps",
            )


def _is_done(file: Path, fingerprint: str, hindcasts: Hindcasts, case: Case) -> bool:
    """Whether a file holds the result of a case that need not be computed again."""
    try:
        with xr.open_dataset(file, engine="netcdf4", decode_timedelta=True) as result:
            told = dict(result.attrs)
    except (OSError, ValueError, RuntimeError):
        return False
    same = told.get("fingerprint") == fingerprint and told.get("failures") == "{}"
    return same and told.get("data") == _digest(hindcasts.window(case))


def _digest(window: xr.DataArray) -> str:
    """What tells this radar data from other data on the same grid: context and truth."""
    return hashlib.sha256(window.values.tobytes()).hexdigest()[:16]


def _read(file: Path) -> xr.Dataset:
    with xr.open_dataset(file, engine="netcdf4", decode_timedelta=True) as result:
        return result.load()
