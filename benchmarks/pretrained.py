"""The shipped network: what a forecast takes, and pictures of one case.

    python benchmarks/pretrained.py speed
    python benchmarks/pretrained.py panel STORE.zarr 2015-05-15T16:00 panel.png

The scores are those of ``nowcast verify --model pretrained``; docs/performance.md holds the commands.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from matplotlib.figure import Figure

from data_prep.schema import open_radar
from data_prep.synthetic import SyntheticRain, generate
from nowcast.evaluation.cases import context_at
from nowcast.fields import exceedance_probability
from nowcast.forecasters.load import load_forecaster
from nowcast.plotting.palettes import PROBABILITY, RAIN

LEADS = (15, 30, 60, 90)
"""Minutes."""
THRESHOLD = 1.0
"""mm/h."""


def speed(size: int, members: int) -> None:
    """Time and memory of an ensemble of 18 lead times."""
    rain = generate(SyntheticRain(shape=(size, size), range_rings=False), frames=4, seed=1)["rainfall_rate"]
    forecaster = load_forecaster("pretrained")
    forecaster.forecast(rain, members=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started, cpu = time.perf_counter(), time.process_time()
    for _ in forecaster.stream(forecaster.recent(rain), lead_steps=18, members=members, seed=0):
        pass
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{members} members, 18 lead times, {size} x {size}, {torch.get_num_threads()} threads: "
        f"{seconds:.1f} s ({cpu:.1f} CPU s), peak memory {peak:.2f} GiB ({before:.2f} after one member)"
    )


def panel(store: str, at: str, output: str, *, members: int, size: int) -> None:
    """What fell, the ensemble mean, three members and the probability of rain, in the wettest square."""
    radar = open_radar(store)
    now = np.datetime64(at, "ns")
    context = context_at(radar, now, 4)
    ensemble = load_forecaster("pretrained").forecast(context, members=members, seed=0)
    steps = [int(np.flatnonzero(ensemble["lead_time"].values == np.timedelta64(m, "m"))[0]) for m in LEADS]
    row, column = _wettest(context.values[-1], size)
    here = {"y": slice(row, row + size), "x": slice(column, column + size)}
    forecast = ensemble.isel(lead_time=steps, **here)
    rows = {
        "observed": radar.sel(time=forecast["time"].values).isel(**here).values,
        "mean": forecast.mean("realization").values,
        **{f"member {n + 1}": forecast.values[n] for n in range(3)},
        f"probability of\n{THRESHOLD:g} mm/h or more": exceedance_probability(forecast, THRESHOLD).values,
    }
    figure = Figure(figsize=(3.1 * len(LEADS), 3.1 * len(rows)), layout="constrained")
    for line, (name, fields) in zip(figure.subplots(len(rows), len(LEADS)), rows.items(), strict=True):
        kind = PROBABILITY if name.startswith("probability") else RAIN
        for axis, field, minutes in zip(line, fields, LEADS, strict=True):
            image = axis.imshow(field, cmap=kind.colour_map(), norm=kind.norm(), interpolation="nearest")
            axis.set(xticks=[], yticks=[], title=f"+{minutes} min" if name == "observed" else "")
        line[0].set_ylabel(name)
        figure.colorbar(image, ax=line, shrink=0.8)
    figure.suptitle(f"{at} UTC, {size} x {size} km, pretrained, {members} members")
    figure.savefig(output, dpi=70)


def _wettest(field: np.ndarray, size: int) -> tuple[int, int]:
    """First row and column of the square with the most rain."""
    total = np.pad(np.nan_to_num(field), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    size = min(size, *field.shape)
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return int(row), int(column)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    timed = parts.add_parser("speed")
    timed.add_argument("--size", type=int, default=512)
    timed.add_argument("--members", type=int, default=20)
    drawn = parts.add_parser("panel")
    for name in ("store", "at", "output"):
        drawn.add_argument(name)
    drawn.add_argument("--members", type=int, default=20)
    drawn.add_argument("--size", type=int, default=256)
    options = vars(parser.parse_args())
    {"speed": speed, "panel": panel}[options.pop("part")](**options)


if __name__ == "__main__":
    main()
