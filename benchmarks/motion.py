"""Our extrapolation beside that of pysteps (Lucas-Kanade, semi-Lagrangian), on the same cells in one run.

Needs the extra ``baselines`` and the real radar files: python benchmarks/motion.py ../shared/data
"""

import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr
from pysteps.extrapolation.semilagrangian import extrapolate
from pysteps.motion.lucaskanade import dense_lucaskanade

from data_prep.pipeline import load, scan
from nowcast.baselines import Extrapolation, Persistence
from nowcast.cli import read_recipe
from nowcast.evaluation import evaluate, score
from nowcast.forecaster import Forecaster

ARCHIVES = {"knmi": ("knmi", (3, 23, 43, 60, 72)), "fmi": ("fmi/pgm", (3, 12, 21))}
"""Folder, and index of the last context frame of each case."""
DECIBEL_OF_DRY = -15.0


class Pysteps(Forecaster):
    """Extrapolation as the examples of pysteps do it."""

    name = "pysteps"
    deterministic = True

    def stream(self, context, *, lead_steps, members, seed):  # noqa: ANN001, ANN201, ARG002, D102
        rain = context.values.astype(float)
        decibel = np.where(rain >= 0.1, 10 * np.log10(np.maximum(rain, 0.1)), DECIBEL_OF_DRY)
        velocity = dense_lucaskanade(decibel)
        yield extrapolate(rain[-1], velocity, lead_steps, allow_nonfinite_values=True).astype(np.float32)


def main(data: Path) -> None:
    """Print scores at some lead times and the time of one forecast."""
    for name, (folder, starts) in ARCHIVES.items():
        recipe = read_recipe(f"configs/prep/{name}.yaml")
        radar = load(scan(data / folder, recipe), recipe)
        models = {model.name: model for model in (Persistence(), Extrapolation(), Pysteps())}
        sums = evaluate(models, radar, radar["time"].values[list(starts)])
        scores = score(sums.sum("case")).sel(threshold=1.0)
        seconds = {name: time_of(model, radar[: starts[0] + 1]) for name, model in models.items()}
        print(f"\n{name}: {len(starts)} cases, {radar.sizes['y']} x {radar.sizes['x']} cells")
        for model in models:
            rows = scores.sel(model=model).isel(lead_time=[0, 1, 2, 5, 11, 17])
            csi, mae = (" ".join(f"{value:.3f}" for value in rows[kind].values) for kind in ("csi", "mae"))
            ratio = seconds[model] / seconds["extrapolation"]
            print(f"  {model:<14} CSI(1 mm/h) {csi}   MAE {mae}   {seconds[model]:.2f} s, {ratio:.1f} x ours")


def time_of(model: Forecaster, context: xr.DataArray) -> float:
    """Median seconds of one forecast of 18 steps."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model.forecast(context)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
