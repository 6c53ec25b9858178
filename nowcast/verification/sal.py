"""Structure, amplitude and location (SAL): are rain objects of the right kind, amount and place?

Wernli et al. 2008 (doi:10.1175/2008MWR2415.1), with objects as pysteps finds them: connected cells above 1/15
of the 95th percentile of the rain (Wernli et al. 2009, doi:10.1175/2009WAF2222271.1), of 50 cells or more.

    S = (V_f - V_o) / (0.5 (V_f + V_o)), V the mean over objects, weighted by rain, of rain / largest rain
    A = (D_f - D_o) / (0.5 (D_f + D_o)), D the mean rain of the field
    L = |x_f - x_o| / d + 2 |r_f - r_o| / d, x the centre of mass, r the mean distance of objects from it,
        weighted by rain, d the diagonal of the field

S < 0 is too small or too peaked, S > 0 too large or too flat; A < 0 too little rain; both lie between -2 and
2, L between 0 and 2, and 0 is perfect. SAL is of one field, so of one member: an ensemble mean has objects
that no member has.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable

import numpy as np

from data_prep.schema import RefusedInput
from nowcast.verification.arrays import Array, as_numpy

SAL_SUMS = ("sal_cases", "sal_structure", "sal_amplitude", "sal_location")


def sal_of(forecast: Array, observed: Array, mask: Array) -> tuple[float, float, float]:
    """Structure, amplitude and location of a forecast field.

    Missing cells are made dry in both fields: objects must end somewhere, and so they end at the same place.

    Args:
        forecast: mm/h, (H, W).
        observed: mm/h, (H, W).
        mask: True where the cell counts, (H, W).

    Returns:
        S, A and L; NaN, all three, if either field has no rain or no object.

    Raises:
        RefusedInput: If pysteps or scikit-image is not installed.
    """
    sal = _pysteps_sal()
    counts = as_numpy(mask)
    fields = [np.where(counts, as_numpy(field), 0).astype(np.float64) for field in (forecast, observed)]
    if any(field.max(initial=0) <= 0 for field in fields):
        return (np.nan,) * 3
    with np.errstate(invalid="ignore"):
        structure, amplitude, location = (float(part) for part in sal(*fields))
    # Without an object pysteps gives a location of NaN, but a structure.
    return (structure, amplitude, location) if np.isfinite(location) else (np.nan,) * 3


def sal_sums(forecast: Array, observed: Array, mask: Array) -> dict[str, np.ndarray]:
    """Sums of `SAL_SUMS` for one field: divided by ``sal_cases`` they are means of |S|, |A| and L over cases.

    Args:
        forecast: A member, mm/h, (H, W).
        observed: mm/h, (H, W).
        mask: True where the cell counts, (H, W).

    Returns:
        0-D each, and all 0 if SAL is undefined.

    Raises:
        RefusedInput: If pysteps or scikit-image is not installed.
    """
    parts = np.abs(sal_of(forecast, observed, mask))
    values = (1.0, *parts) if np.isfinite(parts).all() else (0.0,) * 4
    return {name: np.array(value) for name, value in zip(SAL_SUMS, values, strict=True)}


def _pysteps_sal() -> Callable[[np.ndarray, np.ndarray], tuple[float, float, float]]:
    try:
        # At its first import pysteps prints where its configuration is.
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("skimage.measure")  # without it pysteps is imported, and fails later
            return importlib.import_module("pysteps.verification.salscores").sal
    except ImportError as error:
        raise RefusedInput(
            "SAL needs pysteps and scikit-image",
            came=error,
            do="pip install -e '.[baselines]' in the checkout",
        ) from error
