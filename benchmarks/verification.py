"""Speed and memory of the scores, and of ensembles of a network beside STEPS, side by side in one run.

    python benchmarks/verification.py [--part crps] [--part sums] [--part members]

Needs the extra ``benchmarks``. Every part ends with the load of the machine: other work on it makes wall time
longer, CPU time less so. All rain is made up; the weights of the networks are random, for time alone.
"""

import argparse
import os
import resource
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from data_prep.synthetic import SyntheticRain, generate
from nowcast.forecaster import Forecaster
from nowcast.verification import ScoreSettings, ensemble_crps, label_sums, score
from nowcast.verification.sums import sums_of_leads

MEMBERS, LEADS = 20, 18
REPEATS = 3
NETWORKS = ("tiny", "dgmr-small")


class Cost(NamedTuple):
    """Of the fastest of some runs."""

    wall: float
    cpu: float


def cost(work: Callable[[], Any], repeats: int = REPEATS) -> Cost:
    runs = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        runs.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return Cost(min(run.wall for run in runs), min(run.cpu for run in runs))


def peak_megabytes(work: Callable[[], Any]) -> float:
    """Most memory that Python and numpy held at a time, over what was there before; the result counts."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def ensemble(size: int, leads: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up rain, no cell missing: members (lead, M, H, W), displaced and rescaled truth (lead, H, W)."""
    weather = SyntheticRain(shape=(size, size), wet_fraction=0.35, range_rings=False)
    truth = generate(weather, frames=leads, seed=0)["rainfall_rate"].values
    rng = np.random.default_rng(0)
    members = np.empty((leads, MEMBERS, size, size), np.float32)
    for lead, field in enumerate(truth):
        for member in members[lead]:
            member[:] = np.roll(field, rng.integers(-4, 5, 2), axis=(0, 1)) * rng.uniform(0.5, 1.5)
    return members, truth


def crps_part() -> None:
    """Fair CRPS in every cell: the package scores and ours."""
    import scores
    from scores.probability import crps_for_ensemble

    members, truth = ensemble(256, 6)
    members = np.ascontiguousarray(members.swapaxes(0, 1))
    dims = ("realization", "lead_time", "y", "x")
    labelled = xr.DataArray(members, dims=dims), xr.DataArray(truth, dims=dims[1:])

    def theirs() -> np.ndarray:
        return crps_for_ensemble(*labelled, "realization", method="fair", preserve_dims="all").values

    def ours() -> np.ndarray:
        return ensemble_crps(members, truth, fair=True)

    print(f"\nFair CRPS of {MEMBERS} members x 6 lead times x 256 x 256, asked: 8 x faster, 40 MB at most")
    print(f"  largest difference {abs(theirs() - ours()).max():.1e} mm/h")
    costs = {f"scores {scores.__version__}": (cost(theirs, 10), peak_megabytes(theirs))}
    costs["ours"] = (cost(ours, 10), peak_megabytes(ours))
    for name, (spent, peak) in costs.items():
        ratio = [one / other for one, other in zip(spent, costs["ours"][0], strict=True)]
        print(
            f"  {name:<12} {spent.wall:6.2f} s wall ({ratio[0]:4.1f} x ours), "
            f"{spent.cpu:6.2f} s CPU ({ratio[1]:4.1f} x), {peak:6.1f} MB over the input"
        )


def sums_part() -> None:
    """All sums and scores of one forecast."""
    members, truth = ensemble(512, LEADS)
    mask, settings = np.isfinite(truth), ScoreSettings()
    shape = {"shape": truth.shape[1:], "spacing": 1.0}
    leads = np.arange(1, LEADS + 1) * np.timedelta64(5, "m")

    def work(threads: int) -> xr.Dataset:
        how = {"spacing": 1.0, "seeds": range(LEADS), "threads": threads}
        sums = sums_of_leads(members, truth, mask, settings, **how)
        return score(label_sums({"ours": sums}, lead_times=leads, settings=settings, **shape))

    print(f"\nAll scores of {MEMBERS} members x {LEADS} lead times x 512 x 512, asked: 6 s on 2 cores")
    for threads in (1, 2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spent = cost(lambda threads=threads: work(threads))
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
        print(
            f"  {threads} thread{'s' * (threads > 1):<1} {spent.wall:6.2f} s wall, {spent.cpu:6.2f} s CPU "
            f"({spent.cpu / LEADS:.2f} s a lead time), {more:.0f} MB more than before"
        )


def members_part() -> None:
    """Ensembles of STEPS and of networks, on one core each: threads that wait would count as CPU time."""
    import torch

    torch.set_num_threads(1)
    context = generate(SyntheticRain(shape=(384, 384), wet_fraction=0.35), frames=4, seed=0)["rainfall_rate"]
    print(f"\nEnsembles of {MEMBERS} members x {LEADS} lead times x 384 x 384, once each")
    costs = {}
    for model in (steps(), *(network(name, context) for name in NETWORKS)):
        model.forecast(context, lead_steps=1, members=1)  # what is loaded at first use is not counted
        costs[model.name] = cost(lambda model=model: take_all(model, context), repeats=1)
        spent, ratio = costs[model.name], costs["steps"].cpu / costs[model.name].cpu
        print(f"  {model.name:<12} {spent.wall:6.1f} s wall, {spent.cpu:6.1f} s CPU (STEPS: {ratio:.2f} x)")


def take_all(model: Forecaster, context: xr.DataArray) -> None:
    for _ in model.stream(model.recent(context), lead_steps=LEADS, members=MEMBERS, seed=0):
        pass


def steps() -> Forecaster:
    from nowcast.forecasters.pysteps_baselines import Steps

    return Steps()


def network(name: str, context: xr.DataArray) -> Forecaster:
    """A network of random weights, folded for forecasting as trained ones are."""
    from nowcast.forecasters.gan_forecaster import GANForecaster, describe_data
    from nowcast.model import PRESETS, Generator
    from nowcast.representation import Representation
    from nowcast.weights import save_weights

    generator = Generator(**PRESETS[name]["generator"])
    card = {"generator": generator.config, **Representation().card(), **describe_data(context)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        save_weights(path, generator, card)
        return GANForecaster.from_file(path)


PARTS = {"crps": crps_part, "sums": sums_part, "members": members_part}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="all parts if not given")
    warnings.filterwarnings("ignore")
    for name in parser.parse_args().part or PARTS:
        PARTS[name]()
        print(f"  (load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores)", flush=True)


if __name__ == "__main__":
    main()
