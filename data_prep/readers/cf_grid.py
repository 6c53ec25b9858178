"""Gridded radar data by the CF conventions, in netCDF (classic, netCDF4) and Zarr (v2, v3).

Archives that follow the MLCast specification, stores of this project, and what weather services write. The
rules, where CF leaves a choice:

*Variable.* One with a standard name of `STANDARD_NAMES`; else one whose units tell precipitation or
reflectivity; else one called as in `NAMES`. Several that fit equally are refused.

*Unit.* The attribute ``units`` says what is stored, whatever the variable is called: ``rainfall_amount`` in
``mm/h`` is a rate. Without units a variable is refused, but for a dialect of `cf_dialects`.

*Interval.* That of an accumulation comes from the bounds of time (or ``start_time`` beside it), else from an
attribute (``accumulation_minutes``, ``cell_methods`` as ``time: sum (interval: 5 minutes)``, units ``sum
5min``), else it is the regular time step of the file. The time of a frame is the end of the bounds, else the
time as given, which for an accumulation is its end. Times stored as floats are rounded to seconds.

*No data.* As in `cf_values.decode`. Negative or impossible amounts that are left are refused: they are a fill
value that no attribute names.

*Place.* As in `cf_geometry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from data_prep.readers import Reader, frame, incomplete, locate
from data_prep.readers.cf_dialects import Dialect, centred, dialect_of, on_levels
from data_prep.readers.cf_geometry import Axis, coordinates_of, find_axes, make_grid
from data_prep.readers.cf_source import Source, Variable, is_netcdf4, is_zarr, open_source
from data_prep.readers.cf_time import Clock, read_clock, time_variable
from data_prep.readers.cf_values import Unit, decode, unit_of
from data_prep.readers.hdf5 import MAGIC as HDF5_MAGIC
from data_prep.readers.netcdf_classic import MAGIC as CLASSIC_MAGIC

STANDARD_NAMES = frozenset({
    "rainfall_flux", "precipitation_flux", "rainfall_rate", "precipitation_rate", "lwe_precipitation_rate",
    "equivalent_reflectivity_factor", "precipitation_amount", "rainfall_amount",
    "lwe_thickness_of_precipitation_amount", "thickness_of_rainfall_amount",
})  # fmt: skip
NAMES = frozenset({
    "mmh", "rr", "rain_rate", "rainfall_rate", "rainfall_flux", "tprate", "prate", "dbz", "rare", "mm", "tp",
    "equivalent_reflectivity_factor", "rainfall_amount", "precipitation_amount", "precipitation",
})  # fmt: skip
"""Names of variables in the MLCast specification, and their like."""
LONG_NAMES = {"mm": "accumulated precipitation", "mm h-1": "rain rate", "dBZ": "radar reflectivity"}
POSSIBLE = {"mm": (0.0, 1e5), "mm h-1": (0.0, 1e5), "dBZ": (-200.0, 200.0)}
"""Between which values of each unit something is radar data, however cluttered."""
ROUNDING = 1e-3
"""mm or mm/h below zero that are taken for the rounding of a packed 0."""
LARGEST_BLOCK = 2**24
"""Cells in the frames that are read together where they are stored together."""


class _Field(NamedTuple):
    """The radar data of a file: variable, unit, axes y and x, times, and the variable that holds them."""

    variable: Variable
    unit: Unit
    axes: tuple[Axis, Axis]
    clock: Clock
    time_dim: str | None
    dialect: Dialect


def detect(head: bytes, path: Path) -> bool:
    """Whether a file is netCDF, or a folder a Zarr group.

    Raises:
        RefusedInput: If it is HDF5 that cannot be opened, because it is cut short.
    """
    if not head:
        return is_zarr(path)
    return head.startswith(CLASSIC_MAGIC) or (head.startswith(HDF5_MAGIC) and is_netcdf4(path))


def read_times(path: Path) -> np.ndarray:
    """Times of the frames, UTC, datetime64[ns] of shape (frames,).

    Raises:
        RefusedInput: If the file is damaged, or its header does not say what the reader needs.
    """
    with open_source(path) as source:
        return _field(source).clock.times


def read_frames(path: Path, numbers: Sequence[int]) -> Iterator[xr.DataArray]:
    """Read frames by their numbers along time; the file is opened once.

    Yields:
        Frames, dims (y, x), north first, in mm h-1, in mm with ``accumulation_minutes``, or in dBZ; NaN where
        there is no data.

    Raises:
        RefusedInput: If the file is damaged, its header does not say what the reader needs, or says what is
            contradictory.
    """
    with open_source(path) as source:
        field = _field(source)
        try:
            grid = make_grid(source, field.variable, field.axes)
        except ValueError as error:
            raise incomplete(path, error) from error
        coordinates = locate(coordinates_of, grid, path)
        for number, raw in _raw_frames(field, numbers):
            attributes: dict[str, Any] = {"long_name": LONG_NAMES[field.unit.name], "units": field.unit.name}
            if field.clock.minutes is not None:
                attributes["accumulation_minutes"] = float(field.clock.minutes[number])
            try:
                values = _values(field, raw)
            except ValueError as error:
                raise incomplete(path, error) from error
            time = field.clock.times[number]
            yield frame(values, time=time, coordinates=coordinates, attributes=attributes)


READER = Reader("cf_grid", detect, read_times, read_frames)


def _field(source: Source) -> _Field:
    """What a header says of the radar data in a file.

    Raises:
        RefusedInput: If it does not say enough.
    """
    try:
        dialect = dialect_of(source)
        variable, unit = _choose(source, dialect)
        axes = find_axes(source, variable)
        if dialect.corners:
            axes = (centred(axes[0]), centred(axes[1]))
        spatial = (axes[0].dim, axes[1].dim)
        time = time_variable(source, variable, spatial)
        time_dim = next((dim for dim in time.dims if dim in variable.dims), None)
        lengths = dict(zip(variable.dims, variable.shape, strict=True))
        wide = {d: n for d, n in lengths.items() if d not in (*spatial, time_dim) and n != 1}
        if wide:
            raise ValueError(f"{variable.name} has, beside time, y and x, the dimensions {wide}")
        clock = read_clock(source, variable, time, unit)
    except ValueError as error:
        raise incomplete(source.path, error) from error
    return _Field(variable, unit, axes, clock, time_dim, dialect)


def _choose(source: Source, dialect: Dialect) -> tuple[Variable, Unit]:
    fields = [v for v in source.variables.values() if len(v.dims) >= 2 and v.dtype.kind in "iuf"]
    named = [v for v in fields if v.attributes.get("standard_name") in STANDARD_NAMES]
    others = [v for v in fields if "standard_name" not in v.attributes]
    measured = [v for v in others if unit_of(v, general=False)]
    found = named or measured or [v for v in others if v.name.lower() in NAMES]
    if not found:
        raise ValueError(f"no precipitation or reflectivity among the variables {sorted(source.variables)}")
    if len(found) > 1:
        raise ValueError(f"the variables {', '.join(sorted(v.name for v in found))} fit equally well")
    unit = unit_of(found[0], general=bool(named))
    if unit is None and dialect.levels and "units" not in found[0].attributes:
        unit = Unit("mm h-1", 1.0)
    if unit is None:
        raise ValueError(f"{found[0].name} has units {found[0].attributes.get('units')!r}")
    return found[0], unit


def _raw_frames(field: _Field, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames as stored, (y, x) as in the file; those of one chunk are read once if they follow each other."""
    y, x = (axis.dim for axis in field.axes)
    dims = field.variable.dims
    order = [dim for dim in dims if dim in (y, x, field.time_dim)]
    length = 1
    if field.time_dim is not None and field.variable.chunks:
        cells = field.axes[0].values.size * field.axes[1].values.size
        length = max(1, min(field.variable.chunks[dims.index(field.time_dim)], LARGEST_BLOCK // cells))
    held, block = -1, np.empty(0)
    for number in numbers:
        if not 0 <= number < field.clock.times.size:
            raise IndexError(f"frame {number} of {field.clock.times.size}")
        if number // length != held:
            held = number // length
            part = {y: slice(None), x: slice(None), field.time_dim: slice(held * length, (held + 1) * length)}
            stored = field.variable.read(*(part.get(dim, 0) for dim in dims))
            block = stored.transpose(*(order.index(dim) for dim in (field.time_dim, y, x) if dim is not None))
        yield number, block[number % length] if field.time_dim is not None else block


def _values(field: _Field, raw: np.ndarray) -> np.ndarray:
    """float32 in the unit of the field, north and west first.

    Raises:
        ValueError: If there are values that are no radar data.
    """
    values = decode(field.variable, raw, field.dialect.no_data)
    values = values * values.dtype.type(field.unit.factor)
    if "units" not in field.variable.attributes and not on_levels(values, field.dialect.levels or (0.0, 0.0)):
        raise ValueError(
            f"{field.variable.name} has no units, and its values are not on levels of reflectivity"
        )
    lowest, highest = POSSIBLE[field.unit.name]
    if field.unit.name != "dBZ":
        values[(values < 0) & (values >= -ROUNDING)] = 0
    wrong = (values < lowest) & (values != -np.inf if field.unit.name == "dBZ" else True) | (values > highest)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} values such as {values[wrong][0]:g} {field.unit.name} in "
            f"{field.variable.name}: a fill value that no attribute names"
        )
    y, x = (axis.values for axis in field.axes)
    values = values[:: 1 if y[0] > y[-1] else -1, :: 1 if x[0] < x[-1] else -1]
    return np.ascontiguousarray(values, dtype=np.float32)
