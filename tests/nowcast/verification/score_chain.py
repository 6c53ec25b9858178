"""From small arrays to scores through all that is between: sums, their labels, and the division."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nowcast.verification import ScoreSettings, label_sums, lead_sums, score

SETTINGS = ScoreSettings(thresholds=(1.0, 2.0), scales=(1.0, 2.0), windows=(1.0, 3.0))


def field(cells: list) -> np.ndarray:
    """Cells in a row, (..., N), as a field of two equal rows: a spectrum needs two dimensions."""
    values = np.asarray(cells, float)
    return np.stack([values, values], axis=-2)


def sums_of(forecasts, observed, mask=None, settings: ScoreSettings = SETTINGS) -> xr.Dataset:
    """Sums of forecasts (M, H, W), by model or of one called a, at one lead time."""
    forecasts = forecasts if isinstance(forecasts, Mapping) else {"a": forecasts}
    mask = np.ones(observed.shape, bool) if mask is None else mask
    by_model = {
        name: [lead_sums(members, observed, mask, settings, spacing=1.0)]
        for name, members in forecasts.items()
    }
    leads = np.array([np.timedelta64(5, "m")])
    return label_sums(by_model, lead_times=leads, settings=settings, shape=observed.shape, spacing=1.0)


def scored(forecasts, observed, mask=None, settings: ScoreSettings = SETTINGS, **options) -> xr.Dataset:
    """Scores at the one lead time; without the dim model if there is only one."""
    scores = score(sums_of(forecasts, observed, mask, settings), settings, **options)
    return scores.isel(lead_time=0, model=0 if scores.sizes["model"] == 1 else slice(None))


def rain(seed: int, *shape: int) -> np.ndarray:
    """Half of it dry, as rain is."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, 0.0, rng.gamma(0.7, 3.0, shape))
