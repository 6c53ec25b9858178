"""Reflectivity, accumulation and rate into rain rate, mm/h."""

from __future__ import annotations

import numpy as np
import xarray as xr

from data_prep.schema import RATE_ATTRIBUTES, RATE_UNITS, VARIABLE, RefusedInput


def to_rain_rate(frame: xr.DataArray, *, z_r_a: float = 200.0, z_r_b: float = 1.6) -> xr.DataArray:
    """Convert a frame into rain rate.

    Reflectivity by ``Z = a R^b``, Z = 10^(dBZ/10) in mm^6 m^-3, R in mm/h. The defaults are those of
    Marshall and Palmer (1948, doi:10.1175/1520-0469(1948)005<0165:TDORWS>2.0.CO;2) in the form of Marshall
    et al. (1955); for Finland 223 and 1.53 (Leinonen et al. 2012, doi:10.1175/JAMC-D-11-056.1). An
    accumulation is divided by its interval.

    Args:
        frame: Dims (y, x) or more; units ``dBZ``, ``mm`` with ``accumulation_minutes``, or a rate in
            ``mm h-1``, ``mm/h`` or ``kg m-2 h-1``.
        z_r_a: Coefficient a, for R in mm/h.
        z_r_b: Exponent b.

    Returns:
        mm/h, float32, the same coordinates; NaN stays NaN, -inf dBZ becomes 0.

    Raises:
        RefusedInput: If the unit is another one, an accumulation has no interval, or a coefficient is not
            positive.
    """
    units = frame.attrs.get("units")
    attributes = dict(RATE_ATTRIBUTES)
    if units == "dBZ":
        rate = _from_reflectivity(frame.values, z_r_a, z_r_b)
        attributes["comment"] = f"from reflectivity by Z = {z_r_a:g} R^{z_r_b:g}"
    elif units == "mm":
        rate = frame.values * np.float32(60 / _accumulation_minutes(frame))
    elif units in RATE_UNITS:
        rate = frame.values
    else:
        raise RefusedInput(
            f"a frame is in dBZ, mm or {', '.join(RATE_UNITS)}",
            came=f"units {units!r}",
            do="set the attribute units in the reader",
        )
    # A shallow copy: frames of one grid go on sharing their latitude and longitude.
    result = frame.copy(deep=False, data=rate.astype(np.float32)).rename(VARIABLE)
    result.attrs = attributes
    return result


def _from_reflectivity(reflectivity: np.ndarray, a: float, b: float) -> np.ndarray:
    if not (a > 0 and b > 0):
        raise RefusedInput("Z = a R^b with a > 0 and b > 0", came=f"a = {a}, b = {b}", do="use 200 and 1.6")
    # In one exponential: log10 R = (dBZ / 10 - log10 a) / b.
    return np.power(np.float32(10), reflectivity * np.float32(0.1 / b) - np.float32(np.log10(a) / b))


def _accumulation_minutes(frame: xr.DataArray) -> float:
    interval = frame.attrs.get("accumulation_minutes")
    if not isinstance(interval, (int, float)) or not interval > 0:
        raise RefusedInput(
            "an accumulation in mm has accumulation_minutes above 0",
            came=f"accumulation_minutes {interval!r}",
            do="set that attribute in the reader",
        )
    return float(interval)
