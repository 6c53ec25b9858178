"""What every file of a forecast has in common: CF-1.11 coordinates, attributes, packing and provenance.

Nothing in a file depends on when it was written: ``date_created`` and ``history`` carry the forecast
reference time, so that the same forecast is the same file, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import netCDF4
import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput, crs_of, iso
from nowcast.forecaster import FORECAST_ATTRIBUTES, INPUT_STATUS

CONVENTIONS = "CF-1.11"
EPOCH = "seconds since 1970-01-01 00:00:00"
OWN = "nowcast__"
"""Prefix of the global attributes that are ours and not CF's."""
CITED = ("title", "institution", "license", "references")
"""Global attributes that a file has from its caller, its radar data or its model."""
NOT_BY_THE_CLOCK = (
    "date_created and history carry the forecast reference time, not the time of writing: the same forecast "
    "is the same file, bit for bit."
)
PACKED_MISSING, PACKED_LARGEST = -32768, 32767
SCALES = (0.01, 0.03125)
"""mm/h or mm that one step of a packed value may stand for."""


class Quantity(NamedTuple):
    """What a rate and the amount that goes with it are called, and the units of the amount."""

    rate_name: str
    amount: str
    amount_name: str
    amount_units: str


RATES = {
    "rainfall_rate": Quantity("rain rate", "rainfall_amount", "amount of rain", "kg m-2"),
    "lwe_precipitation_rate": Quantity(
        "precipitation rate", "lwe_thickness_of_precipitation_amount", "amount of precipitation", "mm"
    ),
}
"""Standard names a rate may have."""
PYSTEPS = "precip_intensity"
"""What pysteps calls the rate."""


@dataclass(frozen=True)
class FileForm:
    """How the files of a forecast are written.

    Args:
        standard_name: rainfall_rate, or lwe_precipitation_rate where the radar sees snow, too. The variable
            is named after it.
        packing: mm/h (of amounts mm) for one step of an int16, 0.01 or 0.03125; by default float32. What is
            beyond its range is written as the largest value it holds, 327.67 or 1023.97.
        dialect: cf, or pysteps for a forecast file that pysteps.io.import_netcdf_pysteps reads.

    Raises:
        RefusedInput: If one of them is another.
    """

    standard_name: Literal["rainfall_rate", "lwe_precipitation_rate"] = "rainfall_rate"
    packing: float | None = None
    dialect: Literal["cf", "pysteps"] = "cf"

    def __post_init__(self) -> None:
        for name, choices in (("standard_name", tuple(RATES)), ("packing", (None, *SCALES)),
                              ("dialect", ("cf", "pysteps"))):  # fmt: skip
            if getattr(self, name) not in choices:
                raise RefusedInput(
                    f"{name} is one of {', '.join('null' if c is None else str(c) for c in choices)}",
                    came=getattr(self, name),
                    do="choose one of them",
                )


@dataclass(frozen=True)
class Labels:
    """What a forecast says beside its values.

    Attributes:
        coordinates: As `nowcast.forecaster.forecast_coordinates` gives them.
        attributes: Whose data, which frames, which model, which seed, as `Forecaster.made_from` gives them.
    """

    coordinates: xr.Dataset
    attributes: Mapping[str, str]

    @staticmethod
    def of(ensemble: xr.DataArray) -> Labels:
        """Those of a forecast (realization, lead_time, y, x)."""
        told = {k: str(v) for k, v in ensemble.attrs.items() if k not in FORECAST_ATTRIBUTES}
        return Labels(ensemble.coords.to_dataset().load(), told)

    @property
    def members(self) -> int:
        """Size of the ensemble."""
        return self.coordinates.sizes["realization"]

    @property
    def reference_time(self) -> np.datetime64:
        """When the forecast starts."""
        time = self.coordinates["forecast_reference_time"].values
        return np.datetime64(time.astype("datetime64[s]").item(), "s")

    @property
    def lead_times(self) -> np.ndarray:
        """Lead times, s, int."""
        return (self.coordinates["lead_time"].values / np.timedelta64(1, "s")).astype(np.int64)

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Times of the frames the forecast was made from, s since 1970, and the code of their status."""
        told = [part.split() for part in self.attributes.get("input_frames", "").split(",") if part.strip()]
        times = np.array([part[0] for part in told], dtype="datetime64[s]").astype(np.int64)
        codes = [INPUT_STATUS.index(part[1]) if len(part) > 1 else 0 for part in told]
        return times, np.array(codes, dtype=np.int8)


def packing_of(values: xr.DataArray) -> float | None:
    """What one step of a variable of a file stands for; None if it is not packed."""
    scale = values.encoding.get("scale_factor")
    return None if scale is None else min(SCALES, key=lambda known: abs(known - scale))


class Field:
    """A variable of a file that is written in parts.

    Args:
        variable: As `create_field` made it.
        packing: mm/h or mm for one step of an int16; None for float32.
    """

    def __init__(self, variable: netCDF4.Variable, packing: float | None) -> None:
        self.variable, self.packing = variable, packing

    def write(self, place: int | tuple[int, ...] | slice, values: np.ndarray) -> None:
        """Write float values, NaN where there are none, to a place of the leading dims."""
        if self.packing is not None:
            with np.errstate(invalid="ignore"):  # of NaN
                steps = np.minimum(np.rint(values / np.float32(self.packing)), PACKED_LARGEST)
                values = np.where(np.isnan(steps), PACKED_MISSING, steps).astype(np.int16)
        self.variable[place] = values


def create_field(
    file: netCDF4.Dataset,
    name: str,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
    *,
    packing: float | None = None,
) -> Field:
    """Add a variable (..., y, x) to a file, compressed, a chunk to a field."""
    field = tuple(file.dimensions[axis].size for axis in ("y", "x"))
    kind, fill = ("f4", np.float32(np.nan)) if packing is None else ("i2", np.int16(PACKED_MISSING))
    variable = file.createVariable(
        name, kind, dims, fill_value=fill,
        compression="zlib", complevel=1, shuffle=True, chunksizes=(1,) * (len(dims) - 2) + field,
        chunk_cache=4 * field[0] * field[1],  # fields are written once, and whole
    )  # fmt: skip
    variable.set_auto_maskandscale(False)
    told: dict[str, Any] = dict(attributes)
    if packing is not None:
        told |= {"scale_factor": np.float32(packing), "add_offset": np.float32(0)}
        capped = f"Values above {PACKED_LARGEST * packing:.2f} are written as that."
        told["comment"] = " ".join(filter(None, (told.get("comment"), capped)))
    variable.setncatts(told)
    return Field(variable, packing)


def create_variable(
    file: netCDF4.Dataset, name: str, kind: str, dims: tuple[str, ...], values: Any, **attributes: Any
) -> None:
    """Add a variable with its values to a file; a field (y, x) is compressed."""
    compression: Literal["zlib"] | None = "zlib" if dims == ("y", "x") else None
    variable = file.createVariable(name, kind, dims, compression=compression, complevel=1)
    variable.setncatts(attributes)
    variable[...] = values


def field_attributes(
    standard_name: str | None, long_name: str, units: str, *, grid_mapping: str = "crs", **more: str
) -> dict[str, str]:
    """Attributes of a variable (..., y, x) on the grid that `define` writes."""
    named: dict[str, str] = {"standard_name": standard_name} if standard_name else {}
    return {
        **named,
        "long_name": long_name,
        "units": units,
        "grid_mapping": grid_mapping,
        "coordinates": "forecast_period forecast_reference_time lat lon",
        "ancillary_variables": "input_frame_status",
        **more,
    }


def clock(origin: str = EPOCH) -> dict[str, str]:
    """Attributes of a variable that holds times."""
    return {"units": origin, "calendar": "standard", "units_metadata": "leap_seconds: none"}


def define(file: netCDF4.Dataset, labels: Labels, *, title: str = "", grid_mapping: str = "crs") -> None:
    """Write global attributes, the grid, the reference time and the status of the input into a new file."""
    file.setncatts(global_attributes(labels, title))
    coordinates = labels.coordinates
    times, status = labels.inputs()
    for name, size in (
        ("y", coordinates.sizes["y"]),
        ("x", coordinates.sizes["x"]),
        ("input_time", times.size),
    ):
        file.createDimension(name, size)
    create_variable(file, "forecast_reference_time", "i8", (), labels.reference_time.astype(np.int64),
                    standard_name="forecast_reference_time", long_name="time of the last radar frame used",
                    **clock())  # fmt: skip
    create_variable(file, "input_time", "i8", ("input_time",), times,
                    long_name="time of a radar frame the forecast was made from", **clock())  # fmt: skip
    create_variable(file, "input_frame_status", "i1", ("input_time",), status, standard_name="status_flag",
                    long_name="status of a radar frame the forecast was made from",
                    flag_values=np.arange(len(INPUT_STATUS), dtype=np.int8),
                    flag_meanings=" ".join(INPUT_STATUS))  # fmt: skip
    for name in ("y", "x"):
        create_variable(file, name, "f8", (name,), coordinates[name].values, **coordinates[name].attrs)
    for name in ("lat", "lon"):
        create_variable(file, name, "f4", ("y", "x"), coordinates[name].values, **coordinates[name].attrs)
    told = {k: v for k, v in coordinates["crs"].attrs.items() if v is not None}
    create_variable(file, grid_mapping, "i4", (), 0, **told)


def define_times(
    file: netCDF4.Dataset, labels: Labels, lead_times: Sequence[int] | np.ndarray, *, origin: str = EPOCH,
    **attributes: str,
) -> None:  # fmt: skip
    """Write the dim time with its times and lead times (s) into a file."""
    file.createDimension("time", len(lead_times))
    start = 0 if origin != EPOCH else int(labels.reference_time.astype(np.int64))
    create_variable(file, "time", "i8", ("time",), np.asarray(lead_times) + start, standard_name="time",
                    axis="T", **clock(origin), **attributes)  # fmt: skip
    create_variable(file, "forecast_period", "i4", ("time",), np.asarray(lead_times),
                    standard_name="forecast_period", units="s", long_name="lead time")  # fmt: skip


def utc(time: np.datetime64 | np.ndarray) -> str:
    """A time as ``2010-08-26T05:00:00Z``."""
    return f"{time.astype('datetime64[s]')}Z"


def proj4_of(labels: Labels) -> str:
    """The projection as a PROJ string, for programs that know no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it says less than crs_wkt, which is there, too
        return crs_of(labels.coordinates).to_proj4()


def global_attributes(labels: Labels, title: str = "") -> dict[str, str]:
    """Global attributes of a file: whose data, which model, which seed, and when the forecast starts."""
    software, told = f"nowcast {version('nowcast')}", labels.attributes
    reference, model = labels.reference_time, told.get("model", "unknown model")
    checkpoint = f", checkpoint sha256 {told['checkpoint']}" if told.get("checkpoint") else ""
    known = {name: told[name] for name in CITED if name in told}
    known["title"] = known.get("title", f"Rain nowcast by {model} from {iso(reference)}") + title
    own = {OWN + name: str(value) for name, value in told.items() if name not in known}
    times = labels.coordinates["time"].values
    return {
        "Conventions": CONVENTIONS,
        "institution": "unknown",
        "source": f"{software}, {model}{checkpoint}",
        "history": f"{utc(reference)} made by {software}",
        "date_created": utc(reference),
        "comment": NOT_BY_THE_CLOCK,
        "time_coverage_start": utc(times[0]),
        "time_coverage_end": utc(times[-1]),
        **known,
        **own,
        f"{OWN}members": str(labels.members),
    }
