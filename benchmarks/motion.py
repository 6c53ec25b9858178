"""Extrapolation beside that of pysteps, and what every baseline costs, on the same frames in one run.

    python benchmarks/motion.py [--costs] STORE.zarr...

Needs the extra ``benchmarks`` and stores of real radar data (nowcast prep). pysteps estimates the motion by
Lucas-Kanade and extrapolates semi-Lagrangian, as its examples do. Seconds are medians; ``--costs`` adds those
of the methods of pysteps on our motion (minutes). The load of the machine is printed: other work makes wall
time longer.
"""

import os
import resource
import sys
import time

import numpy as np
import xarray as xr
from pysteps.extrapolation.semilagrangian import extrapolate
from pysteps.motion.lucaskanade import dense_lucaskanade

from data_prep.schema import open_radar
from nowcast.evaluation.cases import valid_starts
from nowcast.evaluation.evaluate import evaluate
from nowcast.forecaster import Forecaster
from nowcast.forecasters.baselines import Extrapolation, Persistence
from nowcast.forecasters.load import load_forecaster
from nowcast.verification import ScoreSettings

STRIDE = 9
"""Of the starts, time steps."""
DECIBEL_OF_DRY = -15.0
CSI_THRESHOLD = 1.0
"""mm/h."""


class Pysteps(Forecaster):
    """Extrapolation as the examples of pysteps do it."""

    name = "pysteps"
    deterministic = True

    def stream(self, context, *, lead_steps, members, seed):  # noqa: ANN001, ANN201, ARG002, D102
        rain = context.values.astype(float)
        decibel = np.where(rain >= 0.1, 10 * np.log10(np.maximum(rain, 0.1)), DECIBEL_OF_DRY)
        velocity = dense_lucaskanade(decibel)
        yield extrapolate(rain[-1], velocity, lead_steps, allow_nonfinite_values=True).astype(np.float32)


def main(stores: list[str], *, costs: bool) -> None:
    """Print scores at some lead times and the time of one forecast of 18 steps."""
    settings = ScoreSettings(thresholds=(CSI_THRESHOLD,))
    for store in stores:
        radar = open_radar(store)
        models = {model.name: model for model in (Extrapolation(), Pysteps(), Persistence())}
        starts = valid_starts(radar, context_frames=4, lead_steps=18, stride=STRIDE, part="all")
        scores = evaluate(models, radar, starts, scores=settings).scores("persistence")
        scores = scores.sel(threshold=CSI_THRESHOLD)
        context = radar.sel(time=slice(None, starts[0])).load()
        print(f"\n{store}: {len(starts)} cases, {radar.sizes['y']} x {radar.sizes['x']} cells")
        for model, forecaster in models.items():
            rows = scores.sel(model=model).isel(lead_time=[0, 1, 2, 5, 11, 17])
            csi, mae = (" ".join(f"{value:.3f}" for value in rows[kind].values) for kind in ("csi", "mae"))
            print(f"  {model:<14} CSI(1 mm/h) {csi}   MAE {mae}   {cost_of(forecaster, context, repeats=5)}")
        for model in ("extrapolation-ensemble", "sprog", "anvil", "steps") if costs else ():
            print(f"  {model:<22} one member {cost_of(load_forecaster(model), context, repeats=1)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; peak memory {peak:.0f} MB")


def cost_of(model: Forecaster, context: xr.DataArray, *, repeats: int) -> str:
    """Median wall and CPU seconds of one forecast of 18 steps; the first run, which warms up, is left out."""
    runs = []
    for _ in range(repeats + (repeats > 1)):
        wall, cpu = time.perf_counter(), time.process_time()
        model.forecast(context)
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(runs[-repeats:], axis=0)
    return f"{wall:.2f} s, {cpu:.2f} CPU s"


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if argument != "--costs"], costs="--costs" in sys.argv)
