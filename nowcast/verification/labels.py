"""Sums with names on their axes: datasets by model and lead time that can be added over cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nowcast.verification.sal import SAL_SUMS
from nowcast.verification.sums import DIMS, ScoreSettings

PADDED = ("forecast_count", "rank")
"""Dims that are as long as the largest ensemble; a smaller one has zeros at the end."""


def label_sums(
    by_model: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    *,
    lead_times: np.ndarray,
    settings: ScoreSettings,
    shape: tuple[int, int],
    spacing: float,
) -> xr.Dataset:
    """Put the sums of all models and lead times together.

    Args:
        by_model: What `lead_sums` gave, by model, one entry per lead time; those of `sal_sums` may be in it.
        lead_times: timedelta64.
        settings: What the sums were made with.
        shape: Rows and columns of the fields.
        spacing: Between neighbouring cells, km.

    Returns:
        The sums of `DIMS`, and of `SAL_SUMS` where given, with leading dims ``model, lead_time`` and the
        coordinates ``member_count(model)``, ``threshold`` and ``intensity_bin`` (lower edge) in mm/h,
        ``scale``, ``window`` and ``wavelength(ring)`` in km, ``event``, ``forecast_count`` and ``rank``.
    """
    largest = max(leads[0]["rank_count"].size for leads in by_model.values())
    variables = {}
    given = next(iter(by_model.values()))[0]
    for name, dims in {**DIMS, **{name: () for name in SAL_SUMS if name in given}}.items():
        values = [_padded([lead[name] for lead in leads], dims, largest) for leads in by_model.values()]
        variables[name] = (("model", "lead_time", *dims), np.stack(values))
    side = min(shape)
    coordinates = {
        "model": list(by_model),
        "member_count": ("model", [leads[0]["rank_count"].size - 1 for leads in by_model.values()]),
        "lead_time": lead_times.astype("timedelta64[ns]"),
        "threshold": ("threshold", list(settings.thresholds), {"units": "mm h-1"}),
        "scale": ("scale", list(settings.scales), {"units": "km"}),
        "window": ("window", list(settings.windows), {"units": "km"}),
        "wavelength": ("ring", side * spacing / np.arange(1, side // 2 + 1), {"units": "km"}),
        "intensity_bin": ("intensity_bin", list(settings.intensities), {"units": "mm h-1"}),
        "event": [0, 1],
        "forecast_count": np.arange(largest),
        "rank": np.arange(largest),
    }
    return xr.Dataset(variables, coords=coordinates)


def _padded(leads: list[np.ndarray], dims: tuple[str, ...], largest: int) -> np.ndarray:
    values = np.stack(leads)
    if not dims or dims[-1] not in PADDED:
        return values
    room = [(0, 0)] * (values.ndim - 1) + [(0, largest - values.shape[-1])]
    return np.pad(values, room)
