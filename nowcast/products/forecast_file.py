"""Forecast files: CF NetCDF with all members, written whole or not at all, and read again.

The file follows CF-1.11: ``rainfall_rate(realization, time, y, x)`` in mm h-1 with forecast_reference_time,
forecast_period and the grid mapping of the radar. It is written member by member beside its place and moved
there when it is complete, so that a reader never sees part of one. What is made of the members has files of
its own, see `nowcast.products.write`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

from data_prep.schema import (
    GEOLOCATION_TOLERANCE,
    LARGEST_RATE,
    VARIABLE,
    RefusedInput,
    crs_of,
    map_coordinates,
)
from nowcast.fields import SINGLES, single
from nowcast.files import written_whole
from nowcast.forecaster import (
    FORECAST_ATTRIBUTES,
    INPUT_STATUS,
    Forecaster,
    forecast_coordinates,
    refuse_senseless_request,
)
from nowcast.products.cf import (
    CITED,
    EPOCH,
    OWN,
    PYSTEPS,
    RATES,
    Field,
    FileForm,
    Labels,
    create_field,
    create_variable,
    define,
    define_times,
    field_attributes,
    proj4_of,
)
from nowcast.products.zarr_copy import copy_to_zarr

MEMBERS = "members"
"""What `read_forecast` gives if nothing else is asked for."""
DIMS = ("realization", "lead_time", "y", "x")
REQUIRED_ATTRIBUTES = (
    "Conventions", "title", "institution", "source", "history", "date_created", f"{OWN}model", f"{OWN}seed",
    f"{OWN}input_frames",
)  # fmt: skip
"""Global attributes without which nobody can tell where a forecast comes from."""


def nothing() -> None:
    """What happens between pieces of work if the caller has nothing to do there."""


def file_stem(model: str, domain: str, reference_time: np.datetime64) -> str:
    """Name of the files of a forecast without suffix: ``pretrained_knmi_20100826T0500Z``.

    Args:
        model: Name of the forecaster.
        domain: Name of the region.
        reference_time: Time of the newest frame of the context.
    """
    stamp = reference_time.astype("datetime64[m]").item().strftime("%Y%m%dT%H%MZ")
    return "_".join([*(re.sub(r"[^A-Za-z0-9.-]+", "-", name) for name in (model, domain)), stamp])


def forecast_to_file(
    path: str | Path,
    forecaster: Forecaster,
    context: xr.DataArray,
    *,
    lead_steps: int = 18,
    members: int = 20,
    seed: int = 0,
    form: FileForm | None = None,
    attributes: Mapping[str, str] | None = None,
    between: Callable[[], None] = nothing,
) -> None:
    """Forecast straight into a file; memory stays that of one member.

    Args:
        path: Forecast file to write, ``.nc``, or ``.zarr``.
        forecaster: Model.
        context: Rain array (time, y, x); its coordinate ``input_frame_status`` (time), if it has one, tells
            which frames were observed (0), interpolated (1) or missing (2).
        lead_steps: Future frames, at the context's own time step.
        members: How many members; a deterministic forecaster makes one.
        seed: With the reference time and the number of the member, all that a member depends on.
        form: How the file is written.
        attributes: What else it says: title, institution, license and references by these names, all others
            with the prefix ``nowcast__``, as config_hash and run_id.
        between: Called after each member. What it raises ends the work, and no file is left behind.

    Raises:
        RefusedInput: If the forecaster refuses the context; no file is left behind.
    """
    refuse_senseless_request(lead_steps=lead_steps, members=members, seed=seed)
    frames = forecaster.recent(context)
    count = forecaster.member_count(members)
    coordinates = xr.Dataset(coords=forecast_coordinates(frames, members=count, lead_steps=lead_steps))
    told = {**forecaster.made_from(frames, seed=seed), **(attributes or {})}
    labels = Labels(coordinates, {name: str(value) for name, value in told.items()})
    values = forecaster.stream(frames, lead_steps=lead_steps, members=count, seed=seed)
    _write(path, values, labels, form or FileForm(), between)


def write_forecast(ensemble: xr.DataArray, path: str | Path, *, form: FileForm | None = None) -> None:
    """Write an ensemble that is already in memory, as `Forecaster.forecast` returns it.

    Raises:
        RefusedInput: If it lacks the dims of a forecast or its CRS.
    """
    if ensemble.dims != DIMS:
        raise RefusedInput(
            "a forecast has dims (realization, lead_time, y, x)", came=ensemble.dims, do="transpose it"
        )
    _write(path, iter(ensemble.values), Labels.of(ensemble), form or FileForm(), nothing)


def read_forecast(path: str | Path, *, product: str = MEMBERS) -> xr.DataArray:
    """Read a forecast file, NetCDF or Zarr, lazily, labelled as `Forecaster.forecast` labels it.

    Args:
        path: Forecast file.
        product: ``members``, or ``mean`` or ``probability_matched_mean``, which are made from the members.

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
        values = _labelled(_opened(path))
    except (OSError, KeyError, ValueError) as error:
        raise RefusedInput(
            "a forecast is a NetCDF file, or Zarr, written by nowcast forecast",
            came=f"{path} ({type(error).__name__}: {error})",
            do="make one with: nowcast forecast",
        ) from error
    return values if product == MEMBERS else single(values, product)


def validate_forecast(path: str | Path) -> list[str]:
    """Everything that is wrong with a forecast file, one finding a line."""
    ensemble = read_forecast(path)
    if set(ensemble.dims) != set(DIMS):
        return [f"dims are {ensemble.dims}, not (realization, lead_time, y, x)"]
    with _opened(Path(path)) as dataset:
        findings = [*_findings_of_attributes(dataset, ensemble), *_findings_of_inputs(dataset, ensemble)]
    findings += [*_findings_of_grid(ensemble), *_findings_of_times(ensemble)]
    for member in range(ensemble.sizes["realization"]):
        values = ensemble.isel(realization=member).values
        if np.isinf(values).any() or (values < 0).any() or (values > LARGEST_RATE).any():
            findings.append(f"member {member} has rates outside 0 to {LARGEST_RATE:g} mm/h")
        if not np.isfinite(values).any(axis=(1, 2)).all():
            findings.append(f"member {member} has a lead time without any value")
    return findings


def _findings_of_attributes(dataset: xr.Dataset, ensemble: xr.DataArray) -> Iterator[str]:
    if ensemble.attrs.get("units") != FORECAST_ATTRIBUTES["units"]:
        yield f"units are {ensemble.attrs.get('units')!r}, not 'mm h-1'"
    if ensemble.attrs.get("standard_name") not in RATES:
        yield f"standard_name is {ensemble.attrs.get('standard_name')!r}, not {' or '.join(RATES)}"
    for name in REQUIRED_ATTRIBUTES:
        if not str(dataset.attrs.get(name, "")):
            yield f"attribute {name} is absent"


def _findings_of_inputs(dataset: xr.Dataset, ensemble: xr.DataArray) -> Iterator[str]:
    if "input_frame_status" not in dataset or "input_time" not in dataset:
        yield "input_time and input_frame_status, the frames it was made from, are absent"
        return
    status, times = dataset["input_frame_status"].values, dataset["input_time"].values
    if not np.isin(status, range(len(INPUT_STATUS))).all():
        yield f"input_frame_status is {status.tolist()}, not of 0 to {len(INPUT_STATUS) - 1}"
    reference = ensemble["forecast_reference_time"].values
    if not times.size or times[-1] != reference:
        yield "the last frame it was made from is not of the forecast_reference_time"


def _findings_of_grid(ensemble: xr.DataArray) -> Iterator[str]:
    try:
        crs = crs_of(ensemble)
    except RefusedInput as error:
        yield str(error)
        return
    expected = map_coordinates(ensemble["x"].values, ensemble["y"].values, crs)
    for name in ("lat", "lon"):
        miss = float(np.abs(expected[name].values - ensemble[name].values).max())
        if not miss <= GEOLOCATION_TOLERANCE:
            yield f"{name} differs from what the CRS says by {miss:.2g} degrees"


def _findings_of_times(ensemble: xr.DataArray) -> Iterator[str]:
    expected = ensemble["forecast_reference_time"].values + ensemble["lead_time"].values
    if not (ensemble["time"].values == expected).all():
        yield "time differs from forecast_reference_time + forecast_period"
    leads = ensemble["lead_time"].values.astype(np.int64)
    if leads.size == 0 or leads[0] <= 0 or (np.diff(leads) <= 0).any():
        yield "lead times are not positive and in increasing order"
    numbers = ensemble["realization"].values
    if np.unique(numbers).size < numbers.size:
        yield "members have one number twice"


def is_forecast(path: str | Path) -> bool:
    """Whether a path is that of a forecast file and not of a radar store, which is Zarr, too."""
    path = Path(path)
    return path.suffix == ".nc" or (path / "realization").is_dir()


def _opened(path: Path) -> xr.Dataset:
    if path.is_dir():
        return xr.open_zarr(path, chunks=None, decode_timedelta=False)
    return xr.open_dataset(path, engine="netcdf4", decode_timedelta=False)


def _labelled(dataset: xr.Dataset) -> xr.DataArray:
    """The members of a file of either dialect and either rate."""
    dataset = dataset.rename({"ens_number": "realization"} if "ens_number" in dataset.dims else {})
    name = next((name for name in (*RATES, PYSTEPS) if name in dataset), None)
    if name is None:
        raise KeyError(f"no variable {' or '.join(RATES)}")
    mapping = dataset[name].attrs.get("grid_mapping", "crs")
    dataset = dataset.rename({mapping: "crs"} if mapping in dataset and mapping != "crs" else {})
    dataset = dataset.set_coords([crs for crs in ("crs",) if crs in dataset])
    lead_times = dataset["forecast_period"].values.astype("timedelta64[s]").astype("timedelta64[ns]")
    values = dataset[name].rename(VARIABLE).assign_coords(lead_time=("time", lead_times))
    values = values.swap_dims(time="lead_time").drop_vars("forecast_period")
    for told in ("cell_methods", "ancillary_variables", "comment"):
        values.attrs.pop(told, None)
    own = {k.removeprefix(OWN): v for k, v in dataset.attrs.items() if k.startswith(OWN)}
    cited = {name: dataset.attrs[name] for name in CITED if name in dataset.attrs}
    return values.assign_attrs(cited | own, grid_mapping="crs")


def _write(
    path: str | Path,
    members: Iterable[np.ndarray],
    labels: Labels,
    form: FileForm,
    between: Callable[[], None],
) -> None:
    path = Path(path)
    if path.suffix == ".zarr":
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            beside = Path(scratch) / f"{path.stem}.nc"
            _write(beside, members, labels, form, between)
            copy_to_zarr(beside, path)
        return
    crs_of(labels.coordinates)
    rows = _rows(labels, form)
    labels = Labels(labels.coordinates.isel(y=rows), labels.attributes)
    with written_whole(path) as name, netCDF4.Dataset(name, "w", clobber=True) as file:
        rate = _define(file, labels, form)
        for number, member in enumerate(members):
            rate.write(number, member[:, rows])
            between()


def _rows(labels: Labels, form: FileForm) -> slice:
    """All rows in their order; pysteps takes the first one for the northern one."""
    y = labels.coordinates["y"].values
    return slice(None, None, -1 if form.dialect == "pysteps" and y[0] < y[-1] else 1)


def _define(file: netCDF4.Dataset, labels: Labels, form: FileForm) -> Field:
    """Dimensions, coordinates, attributes and the empty rate variable."""
    name: str = form.standard_name
    axis, mapping, origin = "realization", "crs", EPOCH
    if form.dialect == "pysteps":
        name, axis = PYSTEPS, "ens_number"
        origin = f"seconds since {str(labels.reference_time).replace('T', ' ')}"
        if labels.coordinates["crs"].attrs.get("grid_mapping_name") == "polar_stereographic":
            mapping = "polar_stereographic"  # the one projection that it looks for, by this name
        file.setncattr("projection", proj4_of(labels))
    define(file, labels, grid_mapping=mapping)
    file.createDimension(axis, labels.members)
    create_variable(file, axis, "i4", (axis,), labels.coordinates["realization"].values,
                    standard_name="realization", long_name="member of the ensemble", units="1")  # fmt: skip
    define_times(file, labels, labels.lead_times, origin=origin)
    told = field_attributes(
        form.standard_name, RATES[form.standard_name].rate_name, FORECAST_ATTRIBUTES["units"],
        grid_mapping=mapping, cell_methods="time: point",
    )  # fmt: skip
    return create_field(file, name, (axis, "time", "y", "x"), told, packing=form.packing)
