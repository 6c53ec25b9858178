"""Scores of a reference, a perfect forecast and an ensemble on random rain."""

import numpy as np
import xarray as xr

from nowcast.verification import ScoreSettings, label_sums, lead_sums, score, skill

STEP = np.timedelta64(15, "m").astype("timedelta64[ns]")
MODELS = {"persistence": 1, "perfect": 1, "ensemble": 4}


def made_scores(*, leads=3, observed_rain=1.0, masked=False) -> xr.Dataset:
    """Scores of a reference, a perfect forecast and an ensemble on random rain."""
    rng = np.random.default_rng(3)
    settings = ScoreSettings(thresholds=(1.0, 4.0), scales=(1.0, 4.0), windows=(2.0, 4.0))
    observed = observed_rain * rng.gamma(0.5, 3.0, (leads, 16, 16)).astype(np.float32)
    mask = np.full((16, 16), not masked)
    by_model = {}
    for name, members in MODELS.items():
        spread = rng.gamma(4.0, 0.25, (members, leads, 16, 16)).astype(np.float32)
        values = observed[None] if name == "perfect" else observed * spread
        by_model[name] = [
            lead_sums(np.ascontiguousarray(values[:, lead]), observed[lead], mask, settings, spacing=1.0)
            for lead in range(leads)
        ]
    sums = label_sums(
        by_model, lead_times=STEP * np.arange(1, leads + 1), settings=settings, shape=(16, 16), spacing=1.0
    )
    scores = score(sums, settings)
    spectra = sums[["power", "observed_power"]]
    return xr.merge([scores, skill(scores, "persistence"), spectra]).assign_attrs(reference="persistence")


def lines_of(figure, colour) -> list:
    """Lines of a colour in the first panel."""
    return [line for line in figure.axes[0].lines if line.get_color() == colour]
