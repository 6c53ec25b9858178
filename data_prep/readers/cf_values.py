"""Packed numbers and units of CF variables (CF conventions 1.11, sections 2.5.1, 3.1 and 8.1)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from data_prep.readers.cf_source import Variable

DEFAULT_FILLS = {"i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295,
                 "i8": -9223372036854775806, "u8": 18446744073709551614,
                 "f4": 9.969209968386869e36, "f8": 9.969209968386869e36}  # fmt: skip
"""What netCDF fills unwritten values with (netcdf.h, NC_FILL_*); bytes have no such value."""

_SPELLINGS = {
    # Rates: mm/h in one unit.
    **dict.fromkeys(("kg m-2 h-1", "kg m-2 hr-1", "kg m^-2 h^-1", "kg/m2/h", "kg/m^2/h", "kg/(m2 h)",
                     "mm h-1", "mm hr-1", "mm h^-1", "mm/h", "mm/hr", "mm/hour", "mmh-1"), ("mm h-1", 1.0)),
    **dict.fromkeys(("mm/min", "mm min-1"), ("mm h-1", 60.0)),
    **dict.fromkeys(("kg m-2 s-1", "kg m^-2 s^-1", "kg/m2/s", "kg/m^2/s", "kg/(m2 s)", "mm s-1", "mm/s"),
                    ("mm h-1", 3600.0)),
    **dict.fromkeys(("mm/day", "mm day-1", "mm d-1", "kg m-2 day-1", "kg m-2 d-1"), ("mm h-1", 1 / 24)),
    **dict.fromkeys(("m s-1", "m/s"), ("mm h-1", 3.6e6)),
    **dict.fromkeys(("m h-1", "m/h"), ("mm h-1", 1000.0)),
    # Accumulations: mm in one unit.
    **dict.fromkeys(("kg m-2", "kg m^-2", "kg/m2", "kg/m^2", "mm"), ("mm", 1.0)),
    "cm": ("mm", 10.0),
    "m": ("mm", 1000.0),
    "dbz": ("dBZ", 1.0),
}  # fmt: skip
_GENERAL = {"m s-1", "m/s", "m h-1", "m/h", "m", "cm"}
"""Units that wind and height have too: they tell rain only beside a standard name."""
_SUM = re.compile(r"sum (\d+) ?min(?:utes)?")


class Unit(NamedTuple):
    """What one unit in the file is: ``factor`` of mm, mm h-1 or dBZ; over how many minutes, if it says so."""

    name: str
    factor: float
    minutes: float | None = None


def unit_of(variable: Variable, *, general: bool) -> Unit | None:
    """The unit of precipitation or reflectivity that the attribute ``units`` names, if it names one.

    ``sum 5min`` is taken for mm in 5 minutes.

    Args:
        variable: Of which it is the unit.
        general: Whether units that other quantities have too, such as ``m s-1``, are accepted.
    """
    text = " ".join(str(variable.attributes.get("units", "")).lower().split())
    if summed := _SUM.fullmatch(text):
        return Unit("mm", 1.0, float(summed[1]))
    if text not in _SPELLINGS or (text in _GENERAL and not general):
        return None
    return Unit(*_SPELLINGS[text])


def decode(variable: Variable, raw: np.ndarray, no_data: tuple[int, ...] = ()) -> np.ndarray:
    """Unpack values; NaN where they are missing.

    Missing is what equals ``_FillValue``, a ``missing_value``, in netCDF the default fill value of the type
    (of floats even where ``_FillValue`` says another, because software that copies a file adds one and
    keeps the old values), what lies outside ``valid_min``, ``valid_max`` or ``valid_range``, and NaN.

    Args:
        variable: With its attributes.
        raw: Values as stored.
        no_data: Further stored values that mean no data.

    Returns:
        float32 where floats of that width are stored unpacked, float64 elsewhere.

    Raises:
        ValueError: If an attribute that has to be a number is none.
    """
    attributes = variable.attributes
    if str(attributes.get("_Unsigned", "")).lower() == "true" and raw.dtype.kind == "i":
        raw = raw.view(raw.dtype.str.replace("i", "u"))
    missing: np.ndarray = np.isnan(raw) if raw.dtype.kind == "f" else np.zeros(raw.shape, bool)
    for value in (*_fills(variable, raw.dtype), *no_data):
        missing |= _equals(raw, value)
    scale, offset = _numbers(attributes, "scale_factor", 1), _numbers(attributes, "add_offset", 1)
    exact = raw.dtype == np.float32 and not scale and not offset
    values: np.ndarray = raw.astype(np.float32 if exact else np.float64)
    limits = _limits(attributes)
    # By CF the limits are in packed units; those of another type than the packed data are not.
    packed = all(isinstance(limit, int) == (raw.dtype.kind in "iu") for limit in limits if limit is not None)
    if packed:
        missing |= _outside(values, limits)
    if scale or offset:
        values = values * (scale or (1.0,))[0] + (offset or (0.0,))[0]
    if not packed:
        missing |= _outside(values, limits)
    values[missing] = np.nan
    return values


def _fills(variable: Variable, dtype: np.dtype) -> list[float]:
    stated = [
        *_numbers(variable.attributes, "_FillValue", 1),
        *_numbers(variable.attributes, "missing_value"),
    ]
    default = DEFAULT_FILLS.get(dtype.str[1:]) if variable.default_fill else None
    if default is not None and (dtype.kind == "f" or "_FillValue" not in variable.attributes):
        stated.append(default)
    return stated


def _equals(raw: np.ndarray, value: float) -> np.ndarray:
    if raw.dtype.kind == "f":
        # A fill value stated in double precision, such as -9999.9, is rounded in the data.
        with np.errstate(over="ignore"):
            return raw == np.asarray(value).astype(raw.dtype)
    if not float(value).is_integer():
        return np.zeros(raw.shape, bool)
    whole, limits = int(value), np.iinfo(raw.dtype)
    if raw.dtype.kind == "u" and whole < 0:
        # Stated in the signed type in which unsigned numbers are stored.
        whole += int(limits.max) + 1
    return raw == whole if limits.min <= whole <= limits.max else np.zeros(raw.shape, bool)


def _limits(attributes: dict[str, Any]) -> tuple[float | None, float | None]:
    both = _numbers(attributes, "valid_range", 2)
    lowest, highest = _numbers(attributes, "valid_min", 1), _numbers(attributes, "valid_max", 1)
    if both:
        return both[0], both[1]
    return (lowest[0] if lowest else None), (highest[0] if highest else None)


def _outside(values: np.ndarray, limits: tuple[float | None, float | None]) -> np.ndarray:
    lowest, highest = limits
    below = values < lowest if lowest is not None else np.zeros(values.shape, bool)
    return below | (values > highest) if highest is not None else below


def _numbers(attributes: dict[str, Any], name: str, count: int | None = None) -> tuple[float, ...]:
    """An attribute as numbers, none where it is absent.

    Raises:
        ValueError: If it is something else.
    """
    if name not in attributes:
        return ()
    value = attributes[name]
    numbers = value if isinstance(value, tuple) else (value,)
    finite = name not in ("scale_factor", "add_offset") or np.isfinite(numbers).all()
    if (
        any(not isinstance(n, (int, float)) for n in numbers)
        or count not in (None, len(numbers))
        or not finite
    ):
        raise ValueError(f"{name} is {value!r}")
    return numbers
