"""Seconds and memory of the steps of the chain that have a budget: python benchmarks/chain.py [DATA]."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from data_prep.pipeline import prepare
from data_prep.schema import open_radar
from data_prep.synthetic import generate
from nowcast.evaluation.cases import context_at
from nowcast.forecasters.baselines import Extrapolation
from nowcast.model import PRESETS, Generator
from nowcast.options import read_recipe


def timed(what: str, work: Callable[[], object]) -> None:
    """Print the seconds of a piece of work and the peak memory of the process so far."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:<52} {seconds:7.2f} s   peak so far {peak:.2f} GiB")


def main(data: Path) -> None:
    """Run every step once, on the machine's own threads."""
    folder = Path(tempfile.mkdtemp())
    timed("nowcast --help", lambda: subprocess.run(["nowcast", "--help"], check=True, capture_output=True))
    timed("500 synthetic frames of 256 x 256", lambda: generate(frames=500, seed=1))
    for name, source in (("knmi", "knmi"), ("fmi", "fmi/pgm")):
        recipe = read_recipe(f"configs/prep/{name}.yaml")
        store = folder / f"{name}.zarr"
        timed(f"prepare {name} with its samples", lambda s=data / source, t=store, r=recipe: prepare(s, t, r))
        radar = open_radar(store)
        context = context_at(radar, radar["time"].values[9], 4)
        size = f"{radar.sizes['y']} x {radar.sizes['x']}"
        timed(f"extrapolation, 18 steps of {size}", lambda c=context: Extrapolation().forecast(c))
    generator = Generator(**PRESETS["tiny"]["generator"]).eval()
    field = torch.rand(1, 4, 1, 512, 512)
    z = torch.randn(1, *generator.latent_shape(512, 512))
    with torch.inference_mode():
        timed("one member of the tiny network, 18 x 512 x 512", lambda: generator(field, z))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
