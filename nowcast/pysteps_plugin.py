"""Our archives, forecasts and models in pysteps: two importers and a nowcast method.

pysteps finds the importers by entry points of the group ``pysteps.plugins.importer`` as soon as it is
imported; torch is not, before a model is loaded. The nowcast method stands in the group
``pysteps.plugins.nowcasts``, which no released pysteps (1.21) looks at: `register` puts it in its place.

Conventions are those of pysteps (`pysteps.io.importers`): NaN is no data, ``zerovalue`` dry, ``transform``
``dB`` means 10 log10, and the first row is the northern one where ``yorigin`` is ``upper``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep.schema import (
    RefusedInput,
    clock_step,
    crs_of,
    iso,
    minutes,
    open_radar,
    open_store,
    rain_array,
)
from nowcast.forecaster import METRES_PER_DEGREE, Forecaster, refuse_senseless_request
from nowcast.forecasters.load import load_forecaster
from nowcast.products.forecast_file import read_forecast

NAME = "nowcast"
"""Of the method in pysteps."""
LEAST_RAIN = 0.1
"""mm/h; the threshold of a field without rain."""
NO_TIME = "2000-01-01T00:00"
"""Reference time of a nowcast from frames whose times are not told."""

Imported = tuple[np.ndarray, None, dict[str, Any]]
"""Precipitation, quality (which is not kept) and metadata, as an importer of pysteps returns them."""


def import_nowcast_zarr(filename: str | Path, *, time: Any = None, **_postprocessing: Any) -> Imported:
    """Import a frame of a radar archive that ``nowcast prep`` made.

    Args:
        filename: The Zarr archive; a time may follow behind ``@``, as in ``radar.zarr@2010-08-26T05:00``, for
            `pysteps.io.read_timeseries`, which takes names alone.
        time: datetime, numpy.datetime64 or text, UTC; the newest frame where none is given.
        **_postprocessing: ``dtype`` and ``fillna`` of pysteps, which acts on them itself.

    Returns:
        Rain rate, mm/h, float32 (y, x), NaN where there is no data; None; metadata.

    Raises:
        RefusedInput: If there is no such archive, or no frame of that time in it.

    {extra_kwargs_doc}
    """
    path, _, stamp = str(filename).partition("@")
    rain = open_radar(path)
    times = rain["time"].values
    asked = _time(time if time is not None else stamp, default=times[-1])
    found = np.flatnonzero(times == asked)
    if not found.size:
        raise RefusedInput(
            f"an archive has a frame of the time that is asked for, from {iso(times[0])} to {iso(times[-1])}",
            came=f"{iso(asked)} for {path}",
            do="give the time of one of its frames, UTC",
        )
    frame = rain[int(found[0])]
    metadata = _metadata(frame, step=minutes(clock_step(open_store(path))))
    return _upright(frame), None, metadata | {"timestamps": _datetimes(times[found])}


def import_nowcast_forecast(
    filename: str | Path,
    *,
    members: Sequence[int] | None = None,
    lead_minutes: Sequence[float] | None = None,
    **_postprocessing: Any,
) -> Imported:
    """Import an ensemble from a forecast file of ``nowcast forecast`` or ``nowcast serve``.

    Args:
        filename: The forecast file.
        members: Numbers of the members; all where none are given.
        lead_minutes: Lead times; all where none are given.
        **_postprocessing: ``dtype`` and ``fillna`` of pysteps, which acts on them itself.

    Returns:
        Rain rate, mm/h, float32 (member, lead time, y, x), NaN where there is no forecast; None; metadata,
        with ``timestamps``, ``leadtimes`` (minutes) and ``startdate``.

    Raises:
        RefusedInput: If it is no forecast file, or has no such member or lead time.

    {extra_kwargs_doc}
    """
    forecast = read_forecast(filename)
    leads = [minutes(lead) for lead in forecast["lead_time"].values]
    for asked, there in ((members, list(range(forecast.sizes["realization"]))), (lead_minutes, leads)):
        lacking = [number for number in asked or () if number not in there]
        if lacking:
            raise RefusedInput(
                "a forecast has the members and lead times that are asked for",
                came=f"{lacking} of {there} in {filename}",
                do="choose from those",
            )
    chosen = [leads.index(lead) for lead in (leads if lead_minutes is None else lead_minutes)]
    part = forecast.isel(lead_time=chosen, realization=slice(None) if members is None else list(members))
    metadata = _metadata(part, step=leads[0] if len(leads) == 1 else float(np.diff(leads).min()))
    start = _datetimes(np.atleast_1d(forecast["forecast_reference_time"].values))[0]
    told = {"timestamps": _datetimes(part["time"].values), "startdate": start,
            "leadtimes": np.array([leads[n] for n in chosen])}  # fmt: skip
    return _upright(part), None, metadata | told


# What pysteps casts to: its default, float64, would double an ensemble.
import_nowcast_zarr.postprocess_kws = {"dtype": "single"}  # type: ignore[attr-defined]
import_nowcast_forecast.postprocess_kws = {"dtype": "single"}  # type: ignore[attr-defined]


def forecast(
    precip: np.ndarray,
    velocity: np.ndarray | None,
    timesteps: int | Sequence[int],
    *,
    metadata: Mapping[str, Any] | None = None,
    kmperpixel: float | None = None,
    timestep: float | None = None,
    n_ens_members: int = 20,
    seed: int = 0,
    model: str | Path | Forecaster = "pretrained",
    device: str = "cpu",
) -> np.ndarray:
    """Nowcast with one of our models, as a method of pysteps.

    Args:
        precip: (t, y, x), oldest first, at least as many frames as the model needs (4 for the network that is
            shipped); in unit and transform of the metadata, NaN where there is no data.
        velocity: Not used, because the models find the motion in the frames; may be None.
        timesteps: Number of time steps ahead, or which, in ascending order.
        metadata: Of ``precip``, as an importer and `pysteps.utils.transformation.dB_transform` give them:
            unit (mm/h or mm), transform (None or dB), threshold, zerovalue; pixel sizes, timestamps and
            yorigin where they are known. Without them ``precip`` is in mm/h, 0 where it is dry.
        kmperpixel: Size of a cell, km; that of the metadata where none is given.
        timestep: Minutes between frames; those between the timestamps of the metadata where none are given.
        n_ens_members: Members of the ensemble.
        seed: With the time of the last frame and the number of the member, all that a member depends on.
        model: As for `nowcast.load_forecaster`, or a forecaster.
        device: Where it computes.

    Returns:
        float64 in unit and transform of ``precip``: (n_ens_members, timesteps, y, x), of a deterministic
        model (timesteps, y, x). NaN where there is no forecast, the zerovalue below the threshold.

    Raises:
        RefusedInput: If shape, unit, transform, size of the cells or time step are not told or cannot be
            used, or the model refuses the frames.
    """
    told = dict(metadata or {"unit": "mm/h", "transform": None})
    steps = _steps(timesteps)
    refuse_senseless_request(lead_steps=steps[-1], members=n_ens_members, seed=seed)
    field = np.ma.filled(np.ma.asarray(precip, dtype=np.float64), np.nan)
    if field.ndim != 3 or (velocity is not None and np.shape(velocity)[-2:] != field.shape[-2:]):
        raise RefusedInput(
            "precip is (t, y, x) and velocity, where it is given, (2, y, x)",
            came=f"{field.shape} and {velocity if velocity is None else np.shape(velocity)}",
            do="stack the frames, oldest first",
        )
    scale = Scale.of(told)
    lower = told.get("yorigin") == "lower"
    rates = scale.rates(field[:, ::-1] if lower else field)
    context = _context(rates, told, kmperpixel=kmperpixel, timestep=timestep)
    forecaster = model if isinstance(model, Forecaster) else _loaded(str(model), device)
    frames = forecaster.recent(context)
    count = forecaster.member_count(n_ens_members)
    chosen = np.array(steps) - 1
    members = forecaster.stream(frames, lead_steps=steps[-1], members=count, seed=seed)
    made = np.stack([scale.field(member[chosen]) for member in members])
    made = made[:, :, ::-1] if lower else made
    return made[0] if forecaster.deterministic else made


def register(name: str = NAME) -> None:
    """Make the method known to `pysteps.nowcasts.get_method`, and so to pysteps' blending.

    Raises:
        RefusedInput: If another method of pysteps has that name.
    """
    from pysteps.nowcasts import interface

    if interface._nowcast_methods.setdefault(name.lower(), forecast) is not forecast:
        raise RefusedInput(
            "a method of pysteps has a name of its own",
            came=f"{name}, which is taken",
            do="choose another name",
        )


class Scale(NamedTuple):
    """How values of pysteps stand for rain rates.

    Attributes:
        decibel: Whether they are 10 log10 of an amount.
        factor: mm/h of one unit of that amount.
        threshold: Values below are dry.
        zerovalue: What dry cells become.
    """

    decibel: bool
    factor: float
    threshold: float
    zerovalue: float

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Scale:
        """The scale that metadata describe.

        Raises:
            RefusedInput: If they do not, or it is none of a rain rate or amount.
        """
        unit, transform = metadata.get("unit"), metadata.get("transform")
        if unit not in ("mm/h", "mm") or transform not in (None, "dB"):
            raise RefusedInput(
                "precip is in mm/h or mm, plain or in dB",
                came=f"unit {unit!r}, transform {transform!r}",
                do="convert it with pysteps.utils.conversion.to_rainrate",
            )
        decibel = transform == "dB"
        period = 60.0 if unit == "mm/h" else _number(metadata, "accutime")
        zero = _number(metadata, "zerovalue") if decibel else 0.0
        # Without a threshold, whatever is more than dry is rain.
        above = math.nextafter(zero, math.inf)
        known = metadata.get("threshold") is not None and math.isfinite(metadata["threshold"])
        return cls(decibel, 60.0 / period, float(metadata["threshold"]) if known else above, zero)

    def rates(self, field: np.ndarray) -> np.ndarray:
        """Rain rates, mm/h, 0 where it is dry, NaN where there is no data.

        Raises:
            RefusedInput: If they cannot be on this scale.
        """
        if not self.decibel and (field < 0).any():
            raise RefusedInput(
                "rain is not negative unless it is in dB",
                came=f"values down to {np.nanmin(field):g} and no transform",
                do="give the metadata that dB_transform returned",
            )
        amount = 10 ** (field / 10) if self.decibel else field
        return np.where(field < self.threshold, 0, amount * self.factor)

    def field(self, rates: np.ndarray) -> np.ndarray:
        """Rain rates on this scale, float64."""
        amount = rates.astype(np.float64) / self.factor
        with np.errstate(divide="ignore"):
            values = 10 * np.log10(amount) if self.decibel else amount
        return np.where(values < self.threshold, self.zerovalue, values)


@lru_cache(maxsize=4)
def _loaded(model: str, device: str) -> Forecaster:
    """A model, loaded once."""
    return load_forecaster(model, device=device)


def _steps(timesteps: int | Sequence[int]) -> list[int]:
    steps = list(range(1, timesteps + 1)) if isinstance(timesteps, (int, np.integer)) else list(timesteps)
    whole = all(step == int(step) >= 1 for step in steps)
    if not steps or not whole or any(later <= step for step, later in zip(steps, steps[1:], strict=False)):
        raise RefusedInput(
            "timesteps are a number, or whole steps in ascending order, 1 or more",
            came=timesteps,
            do="choose others",
        )
    return [int(step) for step in steps]


def _context(
    rates: np.ndarray, metadata: Mapping[str, Any], *, kmperpixel: float | None, timestep: float | None
) -> xr.DataArray:
    """The frames as a rain array, on a grid that lies nowhere: no model asks where."""
    width, height = _cell_size(metadata, kmperpixel)
    stamps = np.asarray(metadata.get("timestamps", ()), dtype="datetime64[ns]")
    last = stamps[-1] if stamps.size else np.datetime64(NO_TIME, "ns")
    step = _time_step(metadata, timestep, stamps)
    ages = np.arange(len(rates))[::-1] * np.timedelta64(round(step * 60), "s")
    times = stamps if stamps.size == len(rates) and timestep is None else last - ages
    rows, columns = rates.shape[1:]
    x, y = (np.arange(columns) - columns / 2) * width, (rows / 2 - np.arange(rows)) * height
    plane = pyproj.CRS.from_proj4("+proj=laea +lat_0=0 +lon_0=0 +R=6371000 +units=m")
    return rain_array(rates, time=times, x=x, y=y, crs=plane)


def _time_step(metadata: Mapping[str, Any], timestep: float | None, stamps: np.ndarray) -> float:
    """Minutes between frames."""
    if timestep is None and stamps.size > 1:
        timestep = float(np.diff(stamps).min() / np.timedelta64(1, "m"))
    if timestep is None and metadata.get("timestep") is not None:
        timestep = _number(metadata, "timestep")
    if timestep is None or not timestep > 0:
        raise RefusedInput(
            "the time between two frames is known",
            came="neither timestep nor metadata with timestamps" if timestep is None else f"{timestep} min",
            do="give timestep, in minutes",
        )
    return timestep


def _cell_size(metadata: Mapping[str, Any], kmperpixel: float | None) -> tuple[float, float]:
    """Width and height of a cell, metres."""
    if kmperpixel is not None:
        width = height = kmperpixel * 1000
    elif {"xpixelsize", "ypixelsize", "cartesian_unit"} <= metadata.keys():
        unit = metadata["cartesian_unit"]
        metres = {"m": 1.0, "km": 1000.0, "degrees": METRES_PER_DEGREE}.get(unit, math.nan)
        width, height = (_number(metadata, f"{axis}pixelsize") * metres for axis in "xy")
        if unit == "degrees":
            width *= math.cos(math.radians((_number(metadata, "y1") + _number(metadata, "y2")) / 2))
    else:
        raise RefusedInput(
            "the size of a cell is known",
            came="neither kmperpixel nor metadata with pixel sizes and cartesian_unit",
            do="give kmperpixel",
        )
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise RefusedInput(
            "a cell has a size", came=f"{width} x {height} m", do="correct kmperpixel or metadata"
        )
    return width, height


def _metadata(rain: xr.DataArray, *, step: float) -> dict[str, Any]:
    """Metadata of pysteps for rain rates (..., y, x) every so many minutes."""
    crs = crs_of(rain)
    with warnings.catch_warnings():
        # That a PROJ string says less than the CRS; pysteps takes no other.
        warnings.simplefilter("ignore", UserWarning)
        projection = crs.to_proj4()
    edges: dict[str, float] = {}
    for axis in ("x", "y"):
        values = rain[axis].values
        size = float(abs(values[-1] - values[0]) / (values.size - 1))
        low, high = float(values.min() - size / 2), float(values.max() + size / 2)
        edges |= {f"{axis}1": low, f"{axis}2": high, f"{axis}pixelsize": size}
    values = rain.values
    wet = values[values > 0]
    return {
        "projection": projection,
        **edges,
        "cartesian_unit": "degrees" if crs.is_geographic else "m",
        "yorigin": "upper",
        "institution": str(rain.attrs.get("institution", "unknown")),
        "unit": "mm/h",
        "transform": None,
        "accutime": step,
        "timestep": step,
        "threshold": float(wet.min()) if wet.size else LEAST_RAIN,
        "zerovalue": 0.0,
    }


def _upright(rain: xr.DataArray) -> np.ndarray:
    """Values (..., y, x) with the north first."""
    y = rain["y"].values
    values = rain.values if y[0] > y[-1] else rain.values[..., ::-1, :]
    return np.ascontiguousarray(values, dtype=np.float32)


def _time(asked: Any, *, default: np.datetime64) -> np.datetime64:

    try:
        return np.datetime64(asked, "ns") if asked != "" else default.astype("datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise RefusedInput(
            "a time is as 2010-08-26T05:00", came=f"{asked!r} ({error})", do="correct it"
        ) from error


def _datetimes(times: np.ndarray) -> np.ndarray:
    """Times as pysteps has them: datetime, UTC."""
    return np.array(times.astype("datetime64[s]").tolist(), dtype=object)


def _number(metadata: Mapping[str, Any], key: str) -> float:
    value = metadata.get(key)
    if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise RefusedInput("the metadata hold what they describe", came=f"{key} {value!r}", do=f"give {key}")
    return float(value)
