"""Times and accumulation intervals of CF variables (CF conventions 1.11, sections 4.4 and 7)."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import xarray as xr

from data_prep.readers import in_nanoseconds
from data_prep.readers.cf_source import Source, Variable
from data_prep.readers.cf_values import Unit, decode
from data_prep.readers.limits import refuse_many_frames
from data_prep.schema import time_step

LONGEST_MINUTES = 44640.0
"""The longest interval of an accumulation, a month of 31 days."""

_NAMES = ("time", "valid_time")
_START = "start_time"
_INTERVAL = re.compile(r"time\d*: sum[^(]*\(\s*interval:\s*([\d.]+)\s*([a-z]+)")
_MINUTES = {**dict.fromkeys(("s", "sec", "second", "seconds"), 1 / 60),
            **dict.fromkeys(("min", "mins", "minute", "minutes"), 1.0),
            **dict.fromkeys(("h", "hr", "hour", "hours"), 60.0)}  # fmt: skip


class Clock(NamedTuple):
    """Times of the frames, datetime64[ns] of shape (frames,), and over how many minutes each of them goes."""

    times: np.ndarray
    minutes: np.ndarray | None


def time_variable(source: Source, field: Variable, spatial: tuple[str, str]) -> Variable:
    """The coordinate time of a variable: along a dimension of it, else a single one.

    Raises:
        ValueError: If there is none, or several.
    """
    times = [v for v in source.variables.values() if _is_time(v)]
    along = [v for v in times if len(v.dims) == 1 and v.dims[0] in field.dims and v.dims[0] not in spatial]
    single = [v for v in times if v.shape in ((), (1,)) and v not in along]
    for found in (along, single):
        ranked = sorted(
            found, key=lambda v: (v.attributes.get("standard_name") != "time", v.dims != (v.name,))
        )
        if len(ranked) > 1 and ranked[0].attributes.get("standard_name") == ranked[1].attributes.get(
            "standard_name"
        ):
            raise ValueError(f"the times {sorted(v.name for v in found)}: which?")
        if ranked:
            return ranked[0]
    raise ValueError(f"{field.name} {field.dims} has no time")


def read_clock(source: Source, field: Variable, time: Variable, unit: Unit) -> Clock:
    """Times and intervals of the frames.

    Raises:
        ValueError: If times are missing, no dates of the common calendar, or the interval of an accumulation
            is not said.
    """
    refuse_many_frames(math.prod(time.shape), source.path)
    times = _dates(time, np.atleast_1d(time.read()), time)
    interval = _interval(source, time, times)
    instant = unit.name == "dBZ" or "time: point" in str(field.attributes.get("cell_methods", ""))
    if interval is not None and not instant:
        begin, end = interval
        lasts = (end - begin) / np.timedelta64(1, "m")
        if not ((lasts >= 0) & (lasts <= LONGEST_MINUTES)).all():
            raise ValueError(f"bounds of {time.name} from {begin[0]} to {end[0]}")
        if (lasts > 0).all():
            return Clock(end, lasts)
    if unit.name != "mm":
        return Clock(times, None)
    stated = _stated_minutes(field, unit)
    minutes = _regular_minutes(times, field) if stated is None else stated
    if not 0 < minutes <= LONGEST_MINUTES:
        raise ValueError(f"{field.name} is accumulated over {minutes:g} minutes")
    return Clock(times, np.full(times.shape, minutes))


def _is_time(variable: Variable) -> bool:
    attributes = variable.attributes
    if variable.dtype.kind != "M" and not (
        variable.dtype.kind in "iuf" and " since " in str(attributes.get("units", ""))
    ):
        return False
    if "standard_name" in attributes:
        return attributes["standard_name"] == "time"
    return (
        attributes.get("axis") == "T" or variable.name.lower() in _NAMES or variable.dims == (variable.name,)
    )


def _interval(source: Source, time: Variable, times: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Begin and end of what each frame goes over, if the file states them."""
    bounds = source.variables.get(str(time.attributes.get("bounds", "")))
    if bounds is not None:
        if bounds.shape != (*time.shape, 2):
            raise ValueError(f"{bounds.name} has shape {bounds.shape}")
        both = _dates(bounds, bounds.read().reshape(-1, 2), time)
        return both[:, 0], both[:, 1]
    start = source.variables.get(_START)
    if start is not None and start.shape == time.shape:
        return _dates(start, np.atleast_1d(start.read()), time), times
    return None


def _stated_minutes(field: Variable, unit: Unit) -> float | None:
    stated = field.attributes.get("accumulation_minutes")
    if isinstance(stated, (int, float)):
        return float(stated)
    method = _INTERVAL.search(str(field.attributes.get("cell_methods", "")).lower())
    if method and method[2] in _MINUTES:
        return float(method[1]) * _MINUTES[method[2]]
    return unit.minutes


def _regular_minutes(times: np.ndarray, field: Variable) -> float:
    if times.size < 2:
        raise ValueError(
            f"{field.name} is an accumulation, and neither time bounds nor an attribute nor a time step say "
            "over how many minutes"
        )
    step = time_step(times)
    if ((times - times[0]) % step).any():
        raise ValueError(f"{field.name} is an accumulation, and the file has no regular time step")
    return float(step / np.timedelta64(1, "m"))


def _dates(variable: Variable, raw: np.ndarray, units_of: Variable) -> np.ndarray:
    """Times as datetime64[ns].

    Raises:
        ValueError: If one is missing or beyond nanoseconds, or they are no dates.
    """
    if raw.dtype.kind == "M":
        dates = in_nanoseconds(raw)
    else:
        values = decode(variable, raw)
        if not np.isfinite(values).all():
            raise ValueError(f"{variable.name} has missing times")
        if raw.dtype.kind in "iu" and not {"scale_factor", "add_offset"} & variable.attributes.keys():
            # As they are: nanoseconds do not fit into float64.
            values = raw.astype(raw.dtype.newbyteorder("="))
        attributes = variable.attributes if "units" in variable.attributes else units_of.attributes
        described = {key: attributes[key] for key in ("units", "calendar") if key in attributes}
        coder = xr.coders.CFDatetimeCoder(use_cftime=False)
        coded = xr.Dataset({"time": (tuple("ab"[: raw.ndim]), values, described)})
        dates = xr.decode_cf(coded, decode_times=coder)["time"].values
        if dates.dtype.kind != "M":
            raise ValueError(f"{variable.name} in {described} is no date")
        if values.dtype.kind == "f":
            dates = (dates + np.timedelta64(500, "ms")).astype("datetime64[s]")
        dates = in_nanoseconds(dates)
    if np.isnat(dates).any():
        raise ValueError(f"{variable.name} has missing times")
    return dates
