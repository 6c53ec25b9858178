"""The sums of live verification: a file for each reference time, and what they add up to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.evaluation.cases import Case
from nowcast.files import written_whole
from nowcast.verification import ScoreSettings
from nowcast.verification.labels import PADDED, label_sums
from nowcast.verification.sums import DIMS

logger = logging.getLogger(__name__)

ByModel = Mapping[str, Mapping[str, np.ndarray]]
"""What `lead_sums` gives for each model."""
STATE = "live_verification"
"""Attribute of a file that says what it holds, as JSON."""


@dataclass(frozen=True)
class Known:
    """What the file of a reference time holds.

    Attributes:
        settings: What the scores look at.
        grid: What tells the grid from others.
        lead_times: All there will be, ns.
        members: Size of the ensemble, by model.
        done: Lead times that are scored, ns, by model.
    """

    settings: str
    grid: str
    lead_times: list[int]
    members: dict[str, int]
    done: dict[str, list[int]]

    @property
    def scored(self) -> set[int]:
        """Lead times that are scored, for all models or for some."""
        return {lead for leads in self.done.values() for lead in leads}


class LiveSums:
    """Sums of single cases by model and lead time, NaN where nothing is scored.

    Args:
        folder: Where their files are.
        settings: What the scores look at; files made with others count for nothing.
    """

    def __init__(self, folder: Path, settings: ScoreSettings) -> None:
        self._folder = folder
        self._settings, self._digest = settings, _digest(asdict(settings))
        self._grid: str | None = None
        self._known: dict[np.datetime64, Known] = {}
        for file in sorted(folder.glob("*.nc")):
            known = _known(file)
            if known and known.settings == self._digest:
                self._known[_time_of(file)] = known
        if self._known:
            self._grid = self._known[max(self._known)].grid

    def use_grid(self, radar: xr.DataArray) -> None:
        """Say on which grid sums are to be; those on others count for nothing."""
        self._grid = _digest([radar[axis].values.tolist() for axis in ("y", "x")])

    def known(self, time: np.datetime64) -> Known | None:
        """What there is of a reference time."""
        known = self._known.get(time)
        return known if known and known.grid == self._grid else None

    def add(
        self,
        time: np.datetime64,
        lead_times: np.ndarray,
        made: Mapping[np.timedelta64, ByModel],
        *,
        shape: tuple[int, ...],
        spacing: float,
    ) -> None:
        """Keep sums of some lead times of a reference time.

        Args:
            time: Reference time.
            lead_times: timedelta64, all there will be.
            made: Sums by lead time. Those of the first call have all models there will be.
            shape: Rows and columns of the fields.
            spacing: Between neighbouring cells, km.
        """
        known = self.known(time)
        found = {name: sums for by_model in made.values() for name, sums in by_model.items()}
        members = (
            known.members if known else {name: sums["rank_count"].size - 1 for name, sums in found.items()}
        )
        example = next(iter(found.values()))
        by_model = {
            name: [made.get(lead, {}).get(name) or _nothing(example, count) for lead in lead_times]
            for name, count in members.items()
        }
        told = {"settings": self._settings, "shape": shape, "spacing": spacing}
        whole = label_sums(by_model, lead_times=lead_times, **told)  # type: ignore[arg-type]
        done = {name: list(known.done[name]) if known else [] for name in members}
        for lead_time, sums_of in made.items():
            for name in sums_of:
                done[name].append(_ns(lead_time))
        if known:
            whole = _read(self._file(time)).fillna(whole)
        known = Known(self._digest, str(self._grid), [_ns(lead) for lead in lead_times], members, done)
        self._write(time, whole, known)
        self._known[time] = known

    def cases(self, since: np.datetime64 | None, until: np.datetime64 | None) -> Iterator[xr.Dataset]:
        """Sums of all cases of a period, one after another, with the same models, lead times and sizes.

        Raises:
            RefusedInput: If there are none.
        """
        chosen = self._chosen(since, until)
        members = _newest_members(chosen)
        leads = sorted({lead for known in chosen.values() for lead in known.lead_times})
        lead_times = np.array(leads, dtype="timedelta64[ns]")
        for time, known in chosen.items():
            agreeing = [name for name in known.members if members[name] == known.members[name]]
            sums = _read(self._file(time)).sel(model=agreeing)
            wide = _widened(sums, list(members), lead_times, 1 + max(members.values()))
            yield wide.assign_coords(
                member_count=("model", list(members.values())),
                case=Case(time).name,
                reference_time=time,
                weight=1.0,
            )

    def total(
        self, since: np.datetime64 | None, until: np.datetime64 | None
    ) -> tuple[xr.Dataset, xr.DataArray]:
        """Sums over the cases of a period, and how many cases they are of, by lead time.

        A case counts at a lead time if every model is scored there that is so in any case of the period.

        Raises:
            RefusedInput: If there are none.
        """
        chosen = self._chosen(since, until)
        counted = _counted(chosen)
        total: xr.Dataset | None = None
        number: xr.DataArray | int = 0
        for leads, sums in zip(counted, self.cases(since, until), strict=True):
            lead_time = sums["lead_time"]
            counts = lead_time.copy(data=np.isin(lead_time.values.astype(int), list(leads)))
            plain = sums.drop_vars(["case", "reference_time", "weight"]).where(counts, 0).fillna(0)
            total = plain if total is None else total + plain
            number = counts.astype(int) + number
        assert total is not None
        assert isinstance(number, xr.DataArray)
        return total, number.rename("case_count")

    def prune(self, before: np.datetime64) -> None:
        """Remove the files of earlier reference times, and what a killed run has left of files."""
        for file in sorted(self._folder.glob("*.nc")):
            time = _time_of(file)
            if time < before:
                self._known.pop(time, None)
                file.unlink(missing_ok=True)
        for partial in self._folder.glob(".*.nc.*.partial"):
            partial.unlink(missing_ok=True)

    def _chosen(self, since: np.datetime64 | None, until: np.datetime64 | None) -> dict[np.datetime64, Known]:
        chosen = {
            time: self._known[time]
            for time in sorted(self._known)
            if self.known(time) and (since is None or time >= since) and (until is None or time <= until)
        }
        if not chosen:
            raise RefusedInput(
                "forecasts of the period were scored",
                came=f"none of {len(self._known)} reference time(s) in {self._folder} lies in it",
                do="wait for the truth, or ask for another period",
            )
        return chosen

    def _file(self, time: np.datetime64) -> Path:
        return self._folder / f"{Case(time).name}.nc"

    def _write(self, time: np.datetime64, sums: xr.Dataset, known: Known) -> None:
        state = json.dumps(asdict(known))
        small = {name: {"zlib": True, "complevel": 1} for name in sums.data_vars}
        with written_whole(self._file(time)) as name:
            sums.assign_attrs({STATE: state}).to_netcdf(name, engine="netcdf4", encoding=small)


def _counted(chosen: Mapping[np.datetime64, Known]) -> list[set[int]]:
    """Lead times at which each case counts, ns."""
    members = _newest_members(chosen)
    done = [
        {name: set(leads) for name, leads in known.done.items() if members[name] == known.members[name]}
        for known in chosen.values()
    ]
    models_at: dict[int, set[str]] = {}
    for by_model in done:
        for name, leads in by_model.items():
            for lead in leads:
                models_at.setdefault(lead, set()).add(name)
    return [
        {lead for lead, models in models_at.items() if all(lead in by_model.get(name, ()) for name in models)}
        for by_model in done
    ]


def _newest_members(chosen: Mapping[np.datetime64, Known]) -> dict[str, int]:
    """Members of every model in the newest case that it has."""
    newest_first = [chosen[time].members for time in sorted(chosen, reverse=True)]
    return {
        name: next(members[name] for members in newest_first if name in members)
        for name in dict.fromkeys(name for members in newest_first for name in members)
    }


def _widened(sums: xr.Dataset, models: list[str], lead_times: np.ndarray, largest: int) -> xr.Dataset:
    """The same sums with more models and lead times (NaN) and of larger ensembles (0)."""
    plain = sums.drop_vars("member_count")
    if plain.sizes["rank"] < largest:
        plain = plain.reindex({name: np.arange(largest) for name in PADDED}, fill_value=0.0)
    if np.array_equal(plain["model"], models) and np.array_equal(plain["lead_time"], lead_times):
        return plain
    return plain.reindex(model=models, lead_time=lead_times)


def _nothing(sums: Mapping[str, np.ndarray], members: int) -> dict[str, np.ndarray]:
    """NaN in the shape of the sums of an ensemble."""
    shapes = {
        name: (*values.shape[:-1], members + 1) if set(DIMS[name]) & set(PADDED) else np.shape(values)
        for name, values in sums.items()
    }
    return {name: np.full(shape, np.nan) for name, shape in shapes.items()}


def _ns(lead_time: np.timedelta64) -> int:
    return int(lead_time / np.timedelta64(1, "ns"))


def _known(file: Path) -> Known | None:
    """What a file says of itself; nothing if it is damaged, and then it counts as not there."""
    try:
        with netCDF4.Dataset(file) as dataset:
            return Known(**json.loads(dataset.getncattr(STATE)))
    except (OSError, AttributeError, TypeError, ValueError) as error:
        logger.warning("%s holds no sums that can be read (%s) and counts as absent", file, error)
        return None


def _read(file: Path) -> xr.Dataset:
    with xr.open_dataset(file, engine="netcdf4", decode_timedelta=True) as sums:
        return sums.load()


def _time_of(file: Path) -> np.datetime64:
    """Reference time of a file by its name; not a time if it is none of ours."""
    name = file.stem
    try:
        return np.datetime64(f"{name[:13]}:{name[13:15]}:{name[15:]}", "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
