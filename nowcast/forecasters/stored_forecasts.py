"""Forecasts made earlier, as a forecaster: what lies in a folder is verified like what is made anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.schema import RATE_UNITS, RefusedInput, crs_of, iso, time_step
from nowcast.forecaster import Forecaster
from nowcast.products.forecast_file import read_forecast

SAME_PLACE = 1e-3
"""Share of the grid spacing by which the cells of one grid may lie apart."""


class ForecastFile(NamedTuple):
    """What a forecast file says of itself."""

    time: np.datetime64
    written: int
    path: Path
    lead_times: np.ndarray
    members: int


class StoredForecasts(Forecaster):
    """Forecast files, each of one reference time, as `nowcast.products.forecast_file` writes them.

    Args:
        path: Forecast file, or folder of them. The newest of two files of one time counts.
        pattern: Names of the files in the folder; ``*/*Z.nc`` of forecasts that ``nowcast serve`` published.

    Attributes:
        path: File or folder.
        pattern: Names of the files in the folder.
        files: The file of each reference time.
        refused: Why files are none that can be read, by their names.

    Raises:
        RefusedInput: If there is no forecast file, or none that can be read.
    """

    context_frames = 2  # they tell the time step

    def __init__(self, path: str | Path, *, pattern: str = "*.nc") -> None:
        self.path, self.pattern = Path(path), pattern
        self.name = self.path.name.removesuffix(".nc")
        self.files: dict[np.datetime64, ForecastFile] = {}
        self.refused: dict[str, str] = {}
        self._seen: dict[Path, int] = {}
        self._found: dict[Path, ForecastFile] = {}
        self.refresh()
        if not self.files:
            raise RefusedInput(
                "stored forecasts are NetCDF files written by nowcast forecast",
                came="; ".join(self.refused.values()) or f"no {pattern} in {path}",
                do="give a folder of forecast files",
            )

    def refresh(self) -> None:
        """Look at files that are new or written anew, and forget those that are gone."""
        present = _written(self.path, self.pattern)
        unchanged = {path for path, written in present.items() if self._seen.get(path) == written}
        self._found = {path: file for path, file in self._found.items() if path in unchanged}
        self.refused = {path.name: self.refused[path.name] for path in unchanged if path.name in self.refused}
        for path in sorted(present.keys() - unchanged):
            self._take(path, present[path])
        self._seen = present
        newest_last = sorted(self._found.values(), key=lambda file: (file.written, file.path))
        self.files = {file.time: file for file in newest_last}

    @property
    def times(self) -> np.ndarray:
        """Reference times there are forecasts from, in order."""
        return np.array(sorted(self.files), dtype="datetime64[ns]")

    def file_of(self, time: np.datetime64) -> ForecastFile:
        """The file with the forecast from a reference time.

        Raises:
            RefusedInput: If there is none.
        """
        file = self.files.get(time.astype("datetime64[ns]"))
        if file is None:
            damaged = f"; unreadable: {'; '.join(self.refused.values())}" if self.refused else ""
            raise RefusedInput(
                "there is a forecast file for every reference time",
                came=f"none from {iso(time)} in {self.name}{damaged}",
                do="make it, or choose other starts",
            )
        return file

    def member_count(self, members: int) -> int:
        """As many as asked for, or as the files hold."""
        return min(members, max(file.members for file in self.files.values()))

    def provenance(self) -> dict[str, str]:
        """How many files there are, and when the last of them was written."""
        newest = max(file.written for file in self.files.values())
        return {"model": self.name, "files": str(len(self.files)), "newest": str(newest)}

    def stream(
        self,
        context: xr.DataArray,
        *,
        lead_steps: int,
        members: int,
        seed: int,  # noqa: ARG002
    ) -> Iterator[np.ndarray]:
        """Read the members of the forecast from the last frame of a context; see `Forecaster.stream`.

        Raises:
            RefusedInput: If there is none, or it differs in grid, units, lead times or members.
        """
        times = context["time"].values
        lead_times = np.arange(1, lead_steps + 1) * time_step(times)
        ensemble = self.opened(times[-1], context, lead_times)
        if ensemble.sizes["realization"] < members:
            raise RefusedInput(
                f"every forecast holds {members} members",
                came=f"{ensemble.sizes['realization']} in {self.file_of(times[-1]).path}",
                do="ask for fewer --members",
            )
        for member in range(members):
            yield values_of(ensemble.isel(realization=member))

    def opened(self, time: np.datetime64, grid: xr.DataArray, lead_times: np.ndarray) -> xr.DataArray:
        """The forecast from a reference time at some lead times, not read yet.

        Args:
            time: Reference time.
            grid: Array with the cells that are wanted: those of the forecast, or a part of them.
            lead_times: timedelta64.

        Returns:
            mm/h, (realization, lead_time, y, x).

        Raises:
            RefusedInput: If there is none, or it differs in grid or units, or lacks a lead time.
        """
        file = self.file_of(time)
        ensemble = read_forecast(file.path).transpose("realization", "lead_time", "y", "x")
        if ensemble.attrs.get("units") not in RATE_UNITS:
            raise RefusedInput(
                f"a forecast is in one of {RATE_UNITS}",
                came=f"{ensemble.attrs.get('units')!r} in {file.path}",
                do="make it again",
            )
        lacking = np.setdiff1d(lead_times, file.lead_times)
        if lacking.size:
            raise RefusedInput(
                f"a forecast has the lead times that are asked for, {len(lead_times)} in all",
                came=f"no lead time of {lacking[0] / np.timedelta64(1, 'm'):g} min in {file.path}",
                do="ask for fewer --lead_steps or make it again",
            )
        part = _cut(ensemble, grid)
        if not on_one_grid(part, grid):
            cells = f"{ensemble.shape[2:]} cells against {grid.shape[-2:]}"
            raise RefusedInput(
                "forecasts and truth lie on one grid",
                came=f"{file.path} with {cells}, or cells elsewhere",
                do="verify against the archive the forecasts were made from",
            )
        return part.sel(lead_time=lead_times)

    def _take(self, path: Path, written: int) -> None:
        try:
            ensemble = read_forecast(path)
            leads, members = ensemble["lead_time"].values, ensemble.sizes["realization"]
            if not members or not leads.size or np.unique(leads).size < leads.size:
                raise ValueError(f"{members} members, lead times {leads}")
            self._found[path] = ForecastFile(reference_time(ensemble), written, path, leads, members)
        except (KeyError, ValueError, RuntimeError, OSError) as error:
            reason = str(error) if isinstance(error, RefusedInput) else f"{type(error).__name__}: {error}"
            self.refused[path.name] = f"{path.name} ({reason})"


def values_of(forecast: xr.DataArray) -> np.ndarray:
    """Read a part of a forecast file, float32.

    Raises:
        RefusedInput: If the file is damaged there.
    """
    try:
        return forecast.values.astype(np.float32, copy=False)
    except (OSError, RuntimeError) as error:
        raise RefusedInput(
            "a forecast file can be read",
            came=f"{forecast.encoding.get('source', 'one that cannot')} ({error})",
            do="make it again",
        ) from error


def reference_time(forecast: xr.DataArray) -> np.datetime64:
    """When a forecast starts."""
    return np.datetime64(
        forecast["forecast_reference_time"].values.astype("datetime64[ns]").astype(int).item(), "ns"
    )


def on_one_grid(first: xr.DataArray, second: xr.DataArray) -> bool:
    """Whether the cells of two arrays (..., y, x) are the same ones."""
    return crs_of(first) == crs_of(second) and all(
        first.sizes[axis] == second.sizes[axis]
        and np.allclose(first[axis], second[axis], rtol=0, atol=SAME_PLACE * _step(second[axis].values))
        for axis in ("y", "x")
    )


def _cut(ensemble: xr.DataArray, grid: xr.DataArray) -> xr.DataArray:
    """As many rows and columns as a grid has, from the cell on that is nearest to its first one."""
    first = {axis: int(abs(ensemble[axis].values - grid[axis].values[0]).argmin()) for axis in ("y", "x")}
    return ensemble.isel({axis: slice(place, place + grid.sizes[axis]) for axis, place in first.items()})


def _written(path: Path, pattern: str) -> dict[Path, int]:
    """When the files of a folder, or a single file, were written; one may vanish while they are listed."""
    found = {}
    for file in path.glob(pattern) if path.is_dir() else [path]:
        try:
            found[file] = file.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def _step(axis: np.ndarray) -> float:
    return float(abs(axis[-1] - axis[0]) / max(axis.size - 1, 1))
