"""What a forecaster is, and how its values get their labels.

A *context* is a rain array (`data_prep.schema`): a few consecutive frames, the last of which is now.
A *forecast* is a DataArray ``(realization, lead_time, y, x)`` in mm/h on the grid of its context.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from data_prep.schema import (
    RATE_UNITS,
    VARIABLE,
    RefusedInput,
    crs_of,
    evenly_spaced,
    iso,
    minutes,
    missing_from_clock,
    time_step,
)

logger = logging.getLogger(__name__)

FORECAST_ATTRIBUTES = {
    "standard_name": "rainfall_rate",
    "long_name": "rain rate",
    "units": "mm h-1",
    "grid_mapping": "crs",
}
INPUT_STATUS = ("observed", "interpolated", "missing")
"""What a frame of a context may be, by the code of the coordinate ``input_frame_status``."""
METRES_PER_DEGREE = 111_195.0
"""Of a great circle on a sphere of 6371 km."""


class Forecaster(ABC):
    """Makes ensembles of future rain from a context.

    Attributes:
        name: What tables, files and maps call it.
        context_frames: Frames it needs.
        deterministic: Whether all its members are the same; it then makes one.
        takes_gaps: Whether frames but the last may be without any data.
    """

    name: str
    context_frames: int = 4
    deterministic: bool = False
    takes_gaps: bool = False

    @abstractmethod
    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Make the members one at a time, so that memory stays that of one.

        Args:
            context: What `recent` returned.
            lead_steps: Future frames, at the context's own time step.
            members: How many members.
            seed: With the reference time and the number of the member, all that a member depends on.

        Yields:
            mm/h, float32 (lead_step, y, x), NaN where there is no forecast.
        """

    def provenance(self) -> dict[str, str]:
        """What a product has to say of the model that made it."""
        return {"model": self.name}

    def made_from(self, frames: xr.DataArray, *, seed: int) -> dict[str, Any]:
        """Attributes of a forecast: whose data, which frames, which model, which seed."""
        cited = {name: frames.attrs[name] for name in ("institution", "license") if name in frames.attrs}
        status = frames.coords.get("input_frame_status")
        codes = [0] * frames.sizes["time"] if status is None else status.values
        told = zip(frames["time"].values, codes, strict=True)
        inputs = ", ".join(f"{iso(time)} {INPUT_STATUS[code]}" for time, code in told)
        return {**cited, **self.provenance(), "seed": seed, "input_frames": inputs}

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """The frames this forecaster uses, loaded and checked.

        Raises:
            RefusedInput: If the context is no rain array, too short, broken by a gap, or without data.
        """
        return usable_frames(context, self.context_frames, gaps=self.takes_gaps)

    def member_count(self, members: int) -> int:
        """How many members a request for some gives: one from a deterministic forecaster."""
        return 1 if self.deterministic else members

    def forecast(
        self, context: xr.DataArray, *, lead_steps: int = 18, members: int = 1, seed: int = 0
    ) -> xr.DataArray:
        """Forecast from the last frames of a context.

        Args:
            context: Rain array, mm/h, (time, y, x).
            lead_steps: Future frames, at the context's own time step.
            members: How many members; a deterministic forecaster makes one.
            seed: Same seed, same members, however many there are.

        Returns:
            mm/h, (realization, lead_time, y, x), NaN where there is no forecast.

        Raises:
            RefusedInput: If the context cannot be used.
        """
        refuse_senseless_request(lead_steps=lead_steps, members=members, seed=seed)
        frames = self.recent(context)
        count = self.member_count(members)
        values = np.stack(list(self.stream(frames, lead_steps=lead_steps, members=count, seed=seed)))
        return label(values, frames, attributes=self.made_from(frames, seed=seed))


def refuse_senseless_request(*, lead_steps: int, members: int, seed: int) -> None:
    """Refuse a forecast without a lead time or a member.

    Raises:
        RefusedInput: If a number is too small.
    """
    if lead_steps < 1 or members < 1 or seed < 0:
        raise RefusedInput(
            "lead_steps and members are 1 or more and seed is 0 or more",
            came=f"{lead_steps}, {members} and {seed}",
            do="correct the number",
        )


def label(values: np.ndarray, context: xr.DataArray, *, attributes: dict[str, object]) -> xr.DataArray:
    """Dress forecast values with time, grid and provenance.

    Args:
        values: mm/h, (realization, lead_step, y, x).
        context: The frames the forecast was made from.
        attributes: Provenance, as `Forecaster.made_from` gives it.

    Returns:
        (realization, lead_time, y, x) with ``time`` (valid time) along ``lead_time``, and
        ``forecast_reference_time``: the time of the last frame of the context.
    """
    coordinates = forecast_coordinates(context, members=values.shape[0], lead_steps=values.shape[1])
    return xr.DataArray(
        values,
        dims=("realization", "lead_time", "y", "x"),
        coords=coordinates,
        name=VARIABLE,
        attrs={**FORECAST_ATTRIBUTES, **attributes},
    )


def forecast_coordinates(context: xr.DataArray, *, members: int, lead_steps: int) -> dict[str, Any]:
    """Coordinates of a forecast from a context."""
    times = context["time"].values.astype("datetime64[ns]")
    lead_times = np.arange(1, lead_steps + 1) * time_step(times).astype("timedelta64[ns]")
    return {
        "realization": ("realization", np.arange(members)),
        "lead_time": ("lead_time", lead_times),
        "time": ("lead_time", times[-1] + lead_times),
        "forecast_reference_time": ((), times[-1]),
        **{name: context[name].variable for name in ("y", "x", "lat", "lon", "crs")},
    }


def refuse_dry(context: xr.DataArray) -> None:
    """Refuse a context without rain: a forecast from it says nothing that the context does not.

    Raises:
        RefusedInput: If cells are observed but none of them holds rain in any frame.
    """
    if bool(context.notnull().any()) and not bool((context > 0).any()):
        times = context["time"].values
        raise RefusedInput(
            "a context holds rain in one cell or more",
            came=f"{times.size} dry frames up to {iso(times[-1])}",
            do="choose another time, or --allow_dry true to write the dry forecast",
        )


def member_seed(seed: int, reference_time: np.datetime64, member: int) -> int:
    """Seed of one member, from nothing but these three."""
    seconds = int(reference_time.astype("datetime64[s]").astype(np.int64))
    return int(np.random.SeedSequence([seed, abs(seconds), member]).generate_state(1, np.uint64)[0] >> 1)


def grid_spacing(array: xr.DataArray) -> float:
    """Distance between neighbouring columns, metres."""
    x = array["x"].values
    return float(abs(x[-1] - x[0]) / (x.size - 1))


def cell_size(array: xr.DataArray) -> tuple[float, float]:
    """Distance between neighbouring columns and between neighbouring rows, metres.

    Degrees are turned into metres at the middle of the grid.
    """
    x, y = (array[axis].values for axis in ("x", "y"))
    columns, rows = (float(abs(axis[-1] - axis[0]) / max(axis.size - 1, 1)) for axis in (x, y))
    if not crs_of(array).is_geographic:
        return columns, rows
    middle = np.deg2rad((y[0] + y[-1]) / 2)
    return columns * METRES_PER_DEGREE * float(np.cos(middle)), rows * METRES_PER_DEGREE


def spacing_km(array: xr.DataArray) -> float:
    """Distance between neighbouring cells, km: the geometric mean of rows and columns."""
    return float(np.sqrt(np.prod(cell_size(array)))) / 1000


def usable_frames(context: xr.DataArray, count: int, *, gaps: bool) -> xr.DataArray:
    """The last frames of a context, loaded and checked.

    Args:
        context: Rain array, mm/h, (time, y, x).
        count: How many frames.
        gaps: Whether frames but the last may be without any data.

    Raises:
        RefusedInput: If the context is no rain array, too short, broken by a gap, or without data.
    """
    if context.dims != ("time", "y", "x") or context.attrs.get("units") not in RATE_UNITS:
        raise RefusedInput(
            f"a context is rain rate (time, y, x) in one of {RATE_UNITS}",
            came=f"{context.name} {context.dims} in {context.attrs.get('units')!r}",
            do="prepare it with nowcast prep or data_prep.schema.rain_array",
        )
    crs_of(context)
    _refuse_odd_grid(context)
    if context.sizes["time"] < count:
        raise RefusedInput(
            f"a context holds {count} frames or more",
            came=context.sizes["time"],
            do="give earlier frames too",
        )
    frames = context.isel(time=slice(-count, None)).astype(np.float32).load()
    times = frames["time"].values
    step = time_step(context["time"].values) if context.sizes["time"] > 1 else np.timedelta64(0, "ns")
    absent = missing_from_clock(times, step) if count > 1 else times[:0]
    if absent.size:
        raise RefusedInput(
            f"the {count} frames up to {iso(times[-1])} follow each other every {minutes(step):g} min",
            came=f"no frame at {', '.join(iso(time) for time in absent)}",
            do="choose a time after the gap",
        )
    if (frames.values < 0).any():
        raise RefusedInput(
            "rain rates of a context are not negative, and NaN where there is no data",
            came=f"{np.nanmin(frames.values):g} to {np.nanmax(frames.values):g} mm/h",
            do="repair the data",
        )
    frames = frames.where(np.isfinite(frames))  # what is infinite was not measured
    blind = times[~np.isfinite(frames.values).any(axis=(1, 2))]
    if gaps:
        blind = blind[blind == times[-1]]
    if blind.size:
        raise RefusedInput(
            "the last frame of a context holds data" if gaps else "every frame of a context holds data",
            came=f"no observed cell at {', '.join(iso(time) for time in blind)}",
            do="choose a time at which the radar was on",
        )
    return frames


def _refuse_odd_grid(context: xr.DataArray) -> None:
    missing = [name for name in ("y", "x", "lat", "lon") if name not in context.coords]
    if missing:
        raise RefusedInput(
            "a context has the coordinates y, x, lat and lon",
            came=f"no {', '.join(missing)}",
            do="prepare it with nowcast prep or data_prep.schema.rain_array",
        )
    for axis in ("y", "x"):
        values = context[axis].values
        if not evenly_spaced(values):
            raise RefusedInput(
                f"the {axis} of a context are two or more cells at one distance",
                came=f"{values.size} from {values[0]:g} to {values[-1]:g}",
                do="select a box without holes of the grid",
            )


def tell_unknown_motion(context: xr.DataArray, reason: str) -> None:
    """One line in the log on rain that is taken to stand still."""
    logger.warning("no motion is assumed for the rain up to %s: %s", iso(context["time"].values[-1]), reason)
