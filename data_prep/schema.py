"""The contract of prepared radar data, and the only part of `data_prep` that `nowcast` builds on.

A *rain array* is an `xarray.DataArray` named ``rainfall_rate`` with dims ``(time, y, x)``, float, in mm/h
(``kg m-2 h-1``), NaN where there is no data and 0 where it is dry. Its coordinates are ``time``
(datetime64, strictly increasing), cell centres ``x`` and ``y`` in metres, 2-D ``lat`` and ``lon``, and a
scalar ``crs`` whose attributes are a CF grid mapping with ``crs_wkt`` and ``spatial_ref``.

A *store* is a Zarr group that holds one rain array with the coordinate ``missing_times`` (the times of the
regular clock for which there is no frame), and with what `REQUIRED_ATTRIBUTES` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyproj
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

VARIABLE = "rainfall_rate"
FRAMES_GROUP = "frames"
"""Group of a store that tells where each frame came from and what was noticed."""
PACKED_SCALE = 0.01
"""mm/h for one step of the packed uint16."""
PACKED_MISSING = 65535
LARGEST_RATE = (PACKED_MISSING - 1) * PACKED_SCALE
"""The largest rate a store can hold, mm/h."""

RATE_ATTRIBUTES = {
    "standard_name": "rainfall_flux",
    "long_name": "rain rate",
    "units": "kg m-2 h-1",
    "grid_mapping": "crs",
}
RATE_UNITS = ("kg m-2 h-1", "mm h-1", "mm/h")
REQUIRED_ATTRIBUTES = ("Conventions", "title", "license", "source", "history", "consistent_timestep_start")
SPLITS = ("train", "validation", "test", "guard")
"""Values of the coordinate ``split(time)``, by code. Frames of ``guard`` belong to no split."""
ROWS_AT_ONCE = 256
"""Rows of a grid that are projected at a time."""
GEOLOCATION_TOLERANCE = 1e-4
"""Degrees by which stored latitude and longitude may differ from what the CRS says."""


class RefusedInput(ValueError):
    """An input that breaks a rule: says the rule, what came instead, and what to do about it, in one line.

    Args:
        rule: What has to hold.
        came: What was found.
        do: What the user can do.
    """

    def __init__(self, rule: str, *, came: object, do: str) -> None:
        super().__init__(" ".join(f"{rule}; came: {came}; {do}".split()))


def refuse_less(settings: Mapping[str, float], *, than: float) -> None:
    """Refuse settings below a number.

    Raises:
        RefusedInput: If one is.
    """
    for name, value in settings.items():
        if not than <= value < float("inf"):
            raise RefusedInput(f"{name} is {than} or more", came=value, do="correct the configuration")


def crs_variable(crs: pyproj.CRS) -> xr.DataArray:
    """Scalar CF grid-mapping variable of a CRS, with ``crs_wkt`` and ``spatial_ref``."""
    attributes = crs.to_cf()
    if attributes.get("grid_mapping_name") == "polar_stereographic":
        # CF asks for the pole even where a standard parallel says it.
        pole = float(np.copysign(90, attributes.get("standard_parallel", 90)))
        attributes.setdefault("latitude_of_projection_origin", pole)
    return xr.DataArray(np.int32(0), attrs={**attributes, "spatial_ref": attributes["crs_wkt"]})


def crs_of(array: xr.DataArray | xr.Dataset) -> pyproj.CRS:
    """The CRS of a rain array.

    Raises:
        RefusedInput: If there is no coordinate ``crs`` with a ``crs_wkt`` that pyproj understands.
    """
    wkt = array.coords["crs"].attrs.get("crs_wkt") if "crs" in array.coords else None
    if wkt is None:
        raise RefusedInput(
            "radar data carries its CRS in a scalar coordinate 'crs' with attribute crs_wkt",
            came=f"coordinates {sorted(map(str, array.coords))}",
            do="build the array with data_prep.schema.rain_array",
        )
    try:
        return pyproj.CRS.from_wkt(wkt)
    except pyproj.exceptions.CRSError as error:
        raise RefusedInput(
            "crs_wkt is well-known text that PROJ understands", came=error, do="repair the store"
        ) from error


def map_coordinates(x: np.ndarray, y: np.ndarray, crs: pyproj.CRS) -> dict[str, xr.DataArray]:
    """The spatial coordinates of a grid: ``x, y, lat, lon, crs``; latitude and longitude on WGS 84.

    Args:
        x: Cell centres in metres, eastward, shape (X,); degrees east on a geographic CRS.
        y: Cell centres in metres, northward, shape (Y,); degrees north on a geographic CRS.
        crs: Projected CRS in metres, or a geographic one in degrees (which a frame may have, a store not).

    Raises:
        RefusedInput: If the unit of the CRS is another one.
    """
    units = {axis.unit_name for axis in crs.axis_info}
    if not (crs.is_projected and units == {"metre"}) and not (crs.is_geographic and units == {"degree"}):
        raise RefusedInput(
            "a grid is projected and in metres, or geographic and in degrees",
            came=f"{crs.name} in {', '.join(sorted(units))}",
            do="convert the projection and the coordinates in the reader",
        )
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return {
        "y": xr.DataArray(y, dims="y", attrs=_axis("y", crs)),
        "x": xr.DataArray(x, dims="x", attrs=_axis("x", crs)),
        "lat": _geolocation_variable(x, y, crs, "latitude", "degrees_north"),
        "lon": _geolocation_variable(x, y, crs, "longitude", "degrees_east"),
        "crs": crs_variable(crs),
    }


class _Geolocation(BackendArray):
    """Latitude or longitude of a grid, worked out when it is looked at: it takes longer than a frame."""

    def __init__(self, x: np.ndarray, y: np.ndarray, crs: pyproj.CRS, which: str) -> None:
        self.shape, self.dtype = (y.size, x.size), np.dtype(np.float64)
        self._grid, self._which = (x.tobytes(), y.tobytes(), crs), which

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        support = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._part)

    def _part(self, key: tuple) -> np.ndarray:
        return _geolocation(*self._grid)[self._which][key]


def _geolocation_variable(
    x: np.ndarray, y: np.ndarray, crs: pyproj.CRS, which: str, units: str
) -> xr.DataArray:
    lazy = indexing.LazilyIndexedArray(_Geolocation(x, y, crs, which))
    attributes = {"standard_name": which, "units": units}
    return xr.DataArray(xr.Variable(("y", "x"), lazy, attrs=attributes))


@lru_cache(maxsize=2)
def _geolocation(x: bytes, y: bytes, crs: pyproj.CRS) -> dict[str, np.ndarray]:
    """Latitude and longitude (WGS 84) of cell centres, each of shape (Y, X), not to be written to."""
    columns, rows = np.frombuffer(x), np.frombuffer(y)
    shape = (rows.size, columns.size)
    if crs.is_geographic:
        # Views that take no room; the datum is taken for WGS 84, as weather services do.
        return {
            "longitude": np.broadcast_to(columns, shape),
            "latitude": np.broadcast_to(rows[:, None], shape),
        }
    transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    longitude, latitude = np.empty(shape), np.empty(shape)
    for first in range(0, rows.size, ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        longitude[part], latitude[part] = transformer.transform(*np.meshgrid(columns, rows[part]))
    longitude.flags.writeable = latitude.flags.writeable = False
    return {"longitude": longitude, "latitude": latitude}


def _axis(name: str, crs: pyproj.CRS) -> dict[str, str]:
    if crs.is_geographic:
        axis, direction = ("longitude", "east") if name == "x" else ("latitude", "north")
        return {"standard_name": axis, "units": f"degrees_{direction}", "axis": name.upper()}
    return {
        "standard_name": f"projection_{name}_coordinate",
        "long_name": f"{name} of the projection",
        "units": "m",
        "axis": name.upper(),
    }


def rain_array(
    values: np.ndarray, *, time: np.ndarray, x: np.ndarray, y: np.ndarray, crs: pyproj.CRS
) -> xr.DataArray:
    """Dress rain rates as a rain array.

    Args:
        values: mm/h, shape (time, y, x), NaN where there is no data.
        time: datetime64, shape (time,).
        x: Cell centres in metres, shape (x,).
        y: Cell centres in metres, shape (y,).
        crs: Projected CRS in metres.
    """
    return rain_array_on(values, time=time, coordinates=map_coordinates(x, y, crs))


def rain_array_on(
    values: np.ndarray, *, time: np.ndarray, coordinates: dict[str, xr.DataArray]
) -> xr.DataArray:
    """As `rain_array`, on spatial coordinates already made by `map_coordinates`."""
    if coordinates["x"].attrs.get("units") != "m":
        raise RefusedInput(
            "a rain array lies on a projected grid in metres",
            came=f"x in {coordinates['x'].attrs.get('units')}",
            do="set regrid in the prep configuration",
        )
    stamps = xr.DataArray(
        np.asarray(time, dtype="datetime64[ns]"), dims="time", attrs={"standard_name": "time", "axis": "T"}
    )
    return xr.DataArray(
        np.asarray(values, dtype=np.float32),
        dims=("time", "y", "x"),
        coords={"time": stamps, **coordinates},
        name=VARIABLE,
        attrs=RATE_ATTRIBUTES,
    )


def evenly_spaced(values: np.ndarray) -> bool:
    """Whether coordinates, two or more, follow each other at one distance."""
    spacing = np.diff(values)
    return spacing.size > 0 and spacing[0] != 0 and np.allclose(spacing, spacing[0], rtol=1e-3)


def time_step(times: np.ndarray) -> np.timedelta64:
    """The step of the regular clock behind a list of times: their smallest difference.

    Raises:
        RefusedInput: If there are fewer than two times or they do not strictly increase.
    """
    differences = np.diff(np.asarray(times, dtype="datetime64[ns]"))
    if differences.size == 0 or differences.min() <= np.timedelta64(0, "ns"):
        raise RefusedInput(
            "two or more frames in strictly increasing time are needed",
            came=f"{len(times)} frame(s)" if differences.size == 0 else "times out of order or repeated",
            do="give more frames, each once",
        )
    return differences.min()


def clock_step(dataset: xr.Dataset) -> np.timedelta64:
    """The step of a store's clock: as it says, or else the smallest difference of its times.

    Raises:
        RefusedInput: As `time_step`.
    """
    said = dataset.attrs.get("time_step_minutes")
    if isinstance(said, (int, float)) and 0 < said < np.inf:
        return np.timedelta64(round(said * 60), "s").astype("timedelta64[ns]")
    return time_step(dataset["time"].values)


def missing_from_clock(times: np.ndarray, step: np.timedelta64) -> np.ndarray:
    """Times of the regular clock between the first and the last frame that have no frame.

    Raises:
        RefusedInput: If a frame lies off the clock that the first frame and the step define.
    """
    times = np.asarray(times, dtype="datetime64[ns]")
    off = times[(times - times[0]) % step != np.timedelta64(0, "ns")]
    if off.size:
        raise RefusedInput(
            f"frames lie on a regular clock of {minutes(step):g} min from {iso(times[0])}",
            came=f"{off.size} off it, first {iso(off[0])}",
            do="set time_step to the archive's own step",
        )
    clock = np.arange(times[0], times[-1] + step, step)
    return clock[~np.isin(clock, times)]


def minutes(step: np.timedelta64) -> float:
    """A time difference in minutes."""
    return float(step / np.timedelta64(1, "s")) / 60


def iso(time: np.datetime64 | np.ndarray) -> str:
    """A time as ``2010-08-26T05:00`` (seconds only where they are not zero)."""
    text = str(time.astype("datetime64[s]"))
    return text.removesuffix(":00")


def open_store(path: str | Path) -> xr.Dataset:
    """Open a store lazily, as plain xarray would.

    Raises:
        RefusedInput: If there is no Zarr store at the path or it holds no rain array.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise RefusedInput(
            "a radar store is a Zarr v3 directory",
            came=f"{path} ({'no zarr.json in it' if path.exists() else 'does not exist'})",
            do="make one with: nowcast prep",
        )
    try:
        dataset = xr.open_zarr(path, chunks=None, decode_timedelta=False)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RefusedInput(
            "a radar store is intact", came=f"{path} ({type(error).__name__}: {error})", do="prepare it anew"
        ) from error
    if VARIABLE not in dataset or dataset[VARIABLE].dims != ("time", "y", "x"):
        raise RefusedInput(
            f"a radar store holds {VARIABLE}(time, y, x)",
            came=f"{path} with {sorted(map(str, dataset.data_vars))}",
            do="make one with: nowcast prep",
        )
    return dataset


def open_radar(path: str | Path) -> xr.DataArray:
    """Open the rain array of a store: lazy, mm/h, NaN where there is no data.

    Raises:
        RefusedInput: If there is no radar store at the path.
    """
    dataset = open_store(path)
    cited = {name: dataset.attrs[name] for name in ("institution", "license") if name in dataset.attrs}
    return dataset[VARIABLE].assign_attrs(cited)


def open_frames(path: str | Path) -> xr.Dataset | None:
    """Where each frame of a store came from and what was noticed; nothing for a store that does not tell.

    Returns:
        ``source``, ``reader``, the numbers of `data_prep.quality.FrameSummary` and ``marks`` along ``time``,
        and ``quality (time, y, x)``; for the frames that are committed.
    """
    if not (Path(path) / FRAMES_GROUP / "zarr.json").is_file():
        return None
    time = open_store(path)["time"]
    frames = xr.open_zarr(path, group=FRAMES_GROUP, chunks=None, consolidated=False)
    frames = frames.isel(time=slice(0, time.size))
    return frames.assign_coords(time=time) if frames.sizes["time"] == time.size else frames


def validate(dataset: xr.Dataset) -> list[str]:
    """Everything in which the layout of a dataset departs from the contract, one finding a line."""
    if VARIABLE not in dataset.data_vars:
        return [f"variable {VARIABLE} is absent; there are {sorted(map(str, dataset.data_vars))}"]
    array = dataset[VARIABLE]
    if array.dims != ("time", "y", "x"):
        return [f"{VARIABLE} has dims {array.dims}, not ('time', 'y', 'x')"]
    findings = [f"coordinate {name} is absent" for name in ("time", "y", "x", "lat", "lon", "crs")
                if name not in array.coords]  # fmt: skip
    if findings:
        return findings
    return [*_attribute_findings(dataset), *_time_findings(dataset), *_grid_findings(array)]


def _attribute_findings(dataset: xr.Dataset) -> list[str]:
    array = dataset[VARIABLE]
    findings = [f"attribute {name} is absent" for name in REQUIRED_ATTRIBUTES if not dataset.attrs.get(name)]
    if array.dtype.kind != "f":
        findings.append(f"{VARIABLE} decodes to {array.dtype}, not to a float")
    for name in ("standard_name", "grid_mapping"):
        if array.attrs.get(name) != RATE_ATTRIBUTES[name]:
            findings.append(f"{VARIABLE}.{name} is {array.attrs.get(name)!r}, not {RATE_ATTRIBUTES[name]!r}")
    if array.attrs.get("units") not in RATE_UNITS:
        findings.append(f"{VARIABLE}.units is {array.attrs.get('units')!r}, not one of {RATE_UNITS}")
    return findings


def _time_findings(dataset: xr.Dataset) -> list[str]:
    times = dataset["time"].values
    if times.size == 0:
        return ["no frame"]
    if (np.diff(times) <= np.timedelta64(0, "ns")).any():
        return ["time does not strictly increase"]
    try:
        gaps = missing_from_clock(times, clock_step(dataset))
    except RefusedInput as error:
        return [str(error)]
    if "missing_times" not in dataset.coords:
        return [] if gaps.size == 0 else [f"coordinate missing_times is absent, {gaps.size} gap(s)"]
    named = dataset["missing_times"].values
    both, unnamed = np.intersect1d(named, times), np.setdiff1d(gaps, named)
    return [
        *(f"missing_times names {iso(time)}, for which there is a frame" for time in both),
        *(f"no frame at {iso(time)} and missing_times does not name it" for time in unnamed),
    ]


def _grid_findings(array: xr.DataArray) -> list[str]:
    findings = []
    for name in ("x", "y"):
        values, attributes = array[name].values, array[name].attrs
        if not evenly_spaced(values):
            findings.append(f"{name} is not evenly spaced")
        if attributes.get("units") != "m" or "standard_name" not in attributes:
            findings.append(f"{name} lacks units 'm' or standard_name")
    try:
        crs = crs_of(array)
        from_cf = pyproj.CRS.from_cf(
            {k: v for k, v in array["crs"].attrs.items() if k not in ("crs_wkt", "spatial_ref")}
        )
    except (RefusedInput, pyproj.exceptions.CRSError, KeyError) as error:
        return [*findings, f"crs: {error}"]
    corners = {name: np.unique(np.linspace(0, array.sizes[name] - 1, 3).astype(int)) for name in ("y", "x")}
    part = array.isel(corners)
    for origin, candidate in (("crs_wkt", crs), ("CF grid mapping", from_cf)):
        expected = map_coordinates(part["x"].values, part["y"].values, candidate)
        miss = max(float(np.abs(expected[name].values - part[name].values).max()) for name in ("lat", "lon"))
        if not miss <= GEOLOCATION_TOLERANCE:
            findings.append(f"lat/lon differ from {origin} by {miss:.2g} degrees")
    return findings
