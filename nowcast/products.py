"""Products of a forecast: CF NetCDF with all members, their mean and what is made of both; probabilities.

The file follows CF-1.11: ``rainfall_rate(realization, time, y, x)`` in mm h-1 with forecast_reference_time,
forecast_period and the grid mapping of the radar; of two members or more also ``rainfall_rate_mean`` and
``rainfall_rate_probability_matched_mean(time, y, x)``. It is written member by member beside its place and
moved there when it is complete, so that a reader never sees part of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from data_prep.schema import LARGEST_RATE, VARIABLE, RefusedInput, crs_of, iso
from nowcast.files import written_whole
from nowcast.forecaster import (
    FORECAST_ATTRIBUTES,
    Forecaster,
    forecast_coordinates,
    refuse_senseless_request,
)
from nowcast.verification import matched_mean

EPOCH = "seconds since 1970-01-01 00:00:00"
OWN = "nowcast__"
"""Prefix of the global attributes that are ours and not CF's."""
CITED = ("institution", "license", "references")
"""Global attributes that a product has from its radar data or its model."""
INPUT_STATUS = ("observed", "interpolated", "missing")
MEMBERS = "members"
"""What `read_forecast` gives if nothing else is asked for."""
DIMS = ("realization", "lead_time", "y", "x")


@dataclass(frozen=True)
class Single:
    """A single forecast made of all members.

    Attributes:
        title: What a map calls it.
        of_members: From members (M, H, W), NaN where there is no forecast, to the forecast (H, W), mm/h.
        attributes: Of its variable, beside those of the members.
    """

    title: str
    of_members: Callable[[np.ndarray], np.ndarray]
    attributes: Mapping[str, str]


def _mean_of_present(members: np.ndarray) -> np.ndarray:
    """Mean of the members that have a value, NaN where none has."""
    total, count = np.zeros_like(members[0]), np.zeros_like(members[0])
    for member in members:
        present = np.isfinite(member)
        total += np.where(present, member, 0)
        count += present
    return total / np.where(count > 0, count, np.nan)


SINGLES = {
    "mean": Single(
        "mean",
        _mean_of_present,
        {
            "long_name": "ensemble mean of the rain rate",
            "cell_methods": "time: point realization: mean",
            "comment": "Mean of the members that have a value in the cell. A smooth field: compared with the "
            "members it rains in more cells, and less hard.",
        },
    ),
    "probability_matched_mean": Single(
        "probability-matched mean",
        matched_mean.probability_matched_mean,
        {
            "long_name": "probability-matched ensemble mean of the rain rate",
            "cell_methods": "time: point",
            "comment": "At each time, the ranks of the ensemble mean with the rain rates of all M members in "
            "all cells: of the sorted rates the middle one of each M. Missing where any member is. "
            "Ebert 2001, doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2",
        },
    ),
}
"""By name: as `read_forecast` takes it, and the variables of a file end in it."""


def probability_matched_mean(ensemble: xr.DataArray) -> xr.DataArray:
    """One forecast of an ensemble: rain where its mean has it, as hard as in the members (Ebert 2001).

    See `nowcast.verification.matched_mean`.

    Args:
        ensemble: mm/h, (realization, lead_time, y, x); read one lead time after another.

    Returns:
        mm/h, (lead_time, y, x), NaN where any member has no value. Of one member, that member.
    """
    return _single(ensemble, "probability_matched_mean")


def exceedance_probability(ensemble: xr.DataArray, threshold: float) -> xr.DataArray:
    """Fraction of the members with a value that reach a threshold; NaN where no member has one.

    Args:
        ensemble: mm/h, (realization, lead_time, y, x).
        threshold: mm/h.

    Returns:
        0 to 1, (lead_time, y, x).
    """
    probability = (ensemble >= threshold).where(ensemble.notnull()).mean("realization")
    return probability.rename("probability_of_rainfall_rate_above_threshold").assign_attrs(
        long_name=f"probability of rain of {threshold:g} mm/h or more", units="1", threshold=threshold
    )


def at_lead_time(forecast: xr.DataArray, lead_minutes: int) -> xr.DataArray:
    """The part of a forecast at one lead time.

    Raises:
        RefusedInput: If the forecast does not have it.
    """
    leads = forecast["lead_time"].values / np.timedelta64(1, "m")
    if lead_minutes not in leads:
        raise RefusedInput(
            f"--lead_minutes is one of {', '.join(f'{lead:g}' for lead in leads)}",
            came=lead_minutes,
            do="choose one of them",
        )
    return forecast.isel(lead_time=int(np.flatnonzero(leads == lead_minutes)[0]))


def forecast_to_file(
    path: str | Path,
    forecaster: Forecaster,
    context: xr.DataArray,
    *,
    lead_steps: int = 18,
    members: int = 20,
    seed: int = 0,
) -> None:
    """Forecast straight into a file; memory stays that of one member and of all at one lead time.

    Raises:
        RefusedInput: If the forecaster refuses the context; no file is left behind.
    """
    refuse_senseless_request(lead_steps=lead_steps, members=members, seed=seed)
    frames = forecaster.recent(context)
    count = forecaster.member_count(members)
    coordinates = forecast_coordinates(frames, members=count, lead_steps=lead_steps)
    attributes = forecaster.made_from(frames, seed=seed)
    values = forecaster.stream(frames, lead_steps=lead_steps, members=count, seed=seed)
    _write(path, values, xr.Dataset(coords=coordinates), frames["time"].values, attributes)


def write_forecast(ensemble: xr.DataArray, path: str | Path) -> None:
    """Write an ensemble that is already in memory, as `Forecaster.forecast` returns it.

    Raises:
        RefusedInput: If it lacks the dims of a forecast or its CRS.
    """
    if ensemble.dims != DIMS:
        raise RefusedInput(
            "a forecast has dims (realization, lead_time, y, x)", came=ensemble.dims, do="transpose it"
        )
    inputs = [time.strip() for time in str(ensemble.attrs.get("input_frames", "")).split(",")]
    attributes = {
        name: str(value) for name, value in ensemble.attrs.items() if name not in FORECAST_ATTRIBUTES
    }
    times = np.array([time for time in inputs if time], dtype="datetime64[ns]")
    _write(path, iter(ensemble.values), ensemble.coords.to_dataset(), times, attributes)


def read_forecast(path: str | Path, *, product: str = MEMBERS) -> xr.DataArray:
    """Read a forecast file lazily, labelled as `Forecaster.forecast` labels it.

    Args:
        path: Forecast file.
        product: ``members``, ``mean`` or ``probability_matched_mean``. A single forecast that the file does
            not hold, because there is one member or because it was written earlier, is made from the members.

    Returns:
        mm/h, (realization, lead_time, y, x); a single forecast (lead_time, y, x).

    Raises:
        RefusedInput: If it is not a forecast file of this package, or the product is another.
    """
    if product not in (MEMBERS, *SINGLES):
        raise RefusedInput(
            f"a product is one of {', '.join((MEMBERS, *SINGLES))}", came=product, do="choose one of them"
        )
    path = Path(path)
    try:
        dataset = xr.open_dataset(path, engine="netcdf4", decode_timedelta=False)
        dataset = dataset.set_coords([n for n in ("crs", "input_frame_status") if n in dataset])
        lead_times = dataset["forecast_period"].values.astype("timedelta64[s]").astype("timedelta64[ns]")
        held = _variable(product) in dataset
        values = dataset[_variable(product) if held else VARIABLE]
        values = values.assign_coords(lead_time=("time", lead_times))
        values = values.swap_dims(time="lead_time").drop_vars("forecast_period")
    except (OSError, KeyError, ValueError) as error:
        raise RefusedInput(
            "a forecast is a NetCDF file written by nowcast forecast",
            came=f"{path} ({type(error).__name__}: {error})",
            do="make one with: nowcast forecast",
        ) from error
    own = {k.removeprefix(OWN): v for k, v in dataset.attrs.items() if k.startswith(OWN)}
    for name in ("cell_methods", "ancillary_variables"):
        values.attrs.pop(name, None)
    values = values.assign_attrs({name: dataset.attrs[name] for name in CITED if name in dataset.attrs} | own)
    return values if held else _single(values, product)


def validate_forecast(path: str | Path) -> list[str]:
    """Everything that is wrong with a forecast file, one finding a line."""
    ensemble = read_forecast(path)
    findings = []
    if set(ensemble.dims) != {"realization", "lead_time", "y", "x"}:
        return [f"dims are {ensemble.dims}, not (realization, lead_time, y, x)"]
    try:
        crs_of(ensemble)
    except RefusedInput as error:
        findings.append(str(error))
    if ensemble.attrs.get("units") != FORECAST_ATTRIBUTES["units"]:
        findings.append(f"units are {ensemble.attrs.get('units')!r}, not 'mm h-1'")
    expected = ensemble["forecast_reference_time"].values + ensemble["lead_time"].values
    if not (ensemble["time"].values == expected).all():
        findings.append("time differs from forecast_reference_time + forecast_period")
    for member in range(ensemble.sizes["realization"]):
        values = ensemble.isel(realization=member).values
        if np.isinf(values).any() or (values < 0).any() or (values > LARGEST_RATE).any():
            findings.append(f"member {member} has rates outside 0 to {LARGEST_RATE:g} mm/h")
        if not np.isfinite(values).any(axis=(1, 2)).all():
            findings.append(f"member {member} has a lead time without any value")
    return findings


def _write(
    path: str | Path,
    members: Iterable[np.ndarray],
    coordinates: xr.Dataset,
    input_times: np.ndarray,
    attributes: Mapping[str, str],
) -> None:
    with written_whole(Path(path)) as name, netCDF4.Dataset(name, "w", clobber=True) as file:
        _define(file, coordinates, input_times, attributes)
        for number, member in enumerate(members):
            file[VARIABLE][number] = member
        if coordinates.sizes["realization"] > 1:
            _add_singles(file)


def _add_singles(file: netCDF4.Dataset) -> None:
    """Single forecasts from the members in the file, with memory for those of one lead time."""
    file.set_auto_mask(False)
    for name, single in SINGLES.items():
        _create_rate(file, _variable(name), ("time", "y", "x"), single.attributes)
    for lead in range(file.dimensions["time"].size):
        members = file[VARIABLE][:, lead]
        for name, single in SINGLES.items():
            file[_variable(name)][lead] = single.of_members(members)


def _variable(product: str) -> str:
    """Name of the variable of a product."""
    return VARIABLE if product == MEMBERS else f"{VARIABLE}_{product}"


def _single(ensemble: xr.DataArray, name: str) -> xr.DataArray:
    """A single forecast of an ensemble, one lead time after another."""
    leads = ensemble.transpose("lead_time", "realization", "y", "x")
    values = np.stack([SINGLES[name].of_members(lead.values) for lead in leads])
    first = ensemble.isel(realization=0, drop=True).transpose("lead_time", "y", "x")
    told = {key: text for key, text in SINGLES[name].attributes.items() if key != "cell_methods"}
    return first.copy(data=values).rename(_variable(name)).assign_attrs(told)


def _define(
    file: netCDF4.Dataset, coordinates: xr.Dataset, input_times: np.ndarray, attributes: Mapping[str, str]
) -> None:
    """Dimensions, coordinates, attributes and the empty rate variable."""
    reference = coordinates["forecast_reference_time"].values
    file.setncatts(_global_attributes(coordinates, attributes))
    for name in ("realization", "y", "x"):
        file.createDimension(name, coordinates.sizes[name])
    file.createDimension("time", coordinates.sizes["lead_time"])
    file.createDimension("input_time", input_times.size)

    def variable(name: str, kind: str, dims: tuple[str, ...], values: Any, **attrs: Any) -> None:
        created = file.createVariable(name, kind, dims)
        created.setncatts(attrs)
        created[...] = values

    clock = {"units": EPOCH, "calendar": "standard", "units_metadata": "leap_seconds: none"}
    variable("realization", "i4", ("realization",), coordinates["realization"].values,
             standard_name="realization", units="1")  # fmt: skip
    variable("time", "i8", ("time",), _seconds(coordinates["time"].values),
             standard_name="time", axis="T", **clock)  # fmt: skip
    variable("forecast_period", "i4", ("time",),
             coordinates["lead_time"].values / np.timedelta64(1, "s"),
             standard_name="forecast_period", units="s", long_name="lead time")  # fmt: skip
    variable("forecast_reference_time", "i8", (), _seconds(reference),
             standard_name="forecast_reference_time", **clock)  # fmt: skip
    variable("input_time", "i8", ("input_time",), _seconds(input_times),
             long_name="time of a radar frame the forecast was made from", **clock)  # fmt: skip
    variable("input_frame_status", "i1", ("input_time",), np.zeros(input_times.size),
             long_name="status of a radar frame the forecast was made from",
             flag_values=np.arange(len(INPUT_STATUS), dtype=np.int8),
             flag_meanings=" ".join(INPUT_STATUS))  # fmt: skip
    for name in ("y", "x"):
        variable(name, "f8", (name,), coordinates[name].values, **coordinates[name].attrs)
    for name in ("lat", "lon"):
        variable(name, "f8", ("y", "x"), coordinates[name].values, **coordinates[name].attrs)
    variable("crs", "i4", (), 0, **{k: v for k, v in coordinates["crs"].attrs.items() if v is not None})
    _create_rate(file, VARIABLE, ("realization", "time", "y", "x"), {"cell_methods": "time: point"})


def _create_rate(
    file: netCDF4.Dataset, name: str, dims: tuple[str, ...], attributes: Mapping[str, str]
) -> None:
    field = tuple(file.dimensions[axis].size for axis in ("y", "x"))
    rate = file.createVariable(
        name, "f4", dims, fill_value=np.float32(np.nan),
        compression="zlib", complevel=1, shuffle=True, chunksizes=(1,) * (len(dims) - 2) + field,
    )  # fmt: skip
    rate.setncatts(
        {
            **FORECAST_ATTRIBUTES,
            "coordinates": "forecast_period forecast_reference_time lat lon",
            "ancillary_variables": "input_frame_status",
            **attributes,
        }
    )


def _global_attributes(coordinates: xr.Dataset, attributes: Mapping[str, str]) -> dict[str, str]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    software = f"nowcast {version('nowcast')}"
    model = attributes.get("model", "unknown model")
    known = {name: attributes[name] for name in CITED if name in attributes}
    own = {OWN + name: str(value) for name, value in attributes.items() if name not in known}
    times = coordinates["time"].values
    return {
        "Conventions": "CF-1.11",
        "title": f"Rain nowcast by {model} from {iso(coordinates['forecast_reference_time'].values)}",
        "institution": "unknown",
        "source": f"{software}, {model}",
        "history": f"{now} made by {software}",
        "date_created": now,
        "time_coverage_start": iso(times[0]),
        "time_coverage_end": iso(times[-1]),
        **known,
        **own,
    }


def _seconds(times: np.ndarray) -> np.ndarray:
    return times.astype("datetime64[s]").astype(np.int64)
