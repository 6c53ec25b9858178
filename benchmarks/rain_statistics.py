"""Statistics of synthetic rain beside those of real radar archives, in one figure and as numbers.

    python benchmarks/rain_statistics.py --data DATA --out out/rain-statistics

Prepares the archives below DATA with the shipped configurations into temporary stores, takes the wettest box
of up to `BOX_KM` of each, and measures the same as of windows of `nowcast.training.synthetic_windows`.
Cells finer than 1 km are averaged to that. What is compared is the rain as networks see it, moved with
the motion that `nowcast.motion` estimates from four frames. A few minutes, most of them for preparing.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rain_measures import (
    BANDS,
    CONTEXT,
    DRY,
    RATES,
    TILE_KM,
    Rain,
    Statistics,
    lifetime_law,
    spread,
    statistics,
    wet_share,
    wettest,
)

from data_prep.pipeline import prepare
from data_prep.schema import clock_step, minutes, open_radar, open_store
from nowcast.options import read_recipe
from nowcast.plotting import save_figure
from nowcast.training.synthetic_windows import DOMAIN, STEP, draw_weather, synthetic_windows

BOX_KM = 768
SYNTHETIC, SEED = "synthetic windows", 1
MEDIANS = ("wet_fraction", "mean_wet_rate", "extreme", "exceedance", "power", "slopes", "correlation", "c",
           "c_of_bands")  # fmt: skip
FEW = 3
"""Values of which no quantiles are given if they are fewer."""
QUANTILES = (0.1, 0.5, 0.9)
SHOWN_LAG = 30
"""Minutes, of the figure's panel of correlations."""
LAW_C = (0.3, 0.6, 1.2)
"""min/km, of the curves of the law there."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
"""Of Okabe and Ito, which readers who see colours differently tell apart; dashes and markers do the rest."""
STYLES = tuple(
    {"color": colour, "ls": dash, "marker": marker, "lw": 1.2, "ms": 4}
    for dash, markers in (("-", "ovD^Xp"), ("--", "<>*hPd"))
    for colour, marker in zip(COLOURS, markers, strict=True)
)


class Archive(NamedTuple):
    """A folder of radar files and the configuration that prepares it."""

    name: str
    config: str
    folder: str
    bounds: tuple[float, float, float, float] | None = None
    """Of what is prepared, where all of it would take more than 2 GB; west, south, east, north in m."""


ARCHIVES = (
    Archive("KNMI 2010-08", "knmi", "knmi"),
    Archive("FMI 2017-05", "fmi", "fmi/pgm"),
    Archive("MeteoSwiss 2015-05", "mch", "mch/20150515"),
    Archive("MeteoSwiss 2017-01", "mch", "mch/20170131"),
    Archive("BoM Melbourne 2018-06", "bom-cscn", "bom"),
    Archive("BoM Brisbane 2020-10", "bom-c10", "bom"),
    Archive("DWD YW 2017-08", "radolan-yw", "dwd"),
    Archive("OPERA 2018-08", "opera", "opera"),
    Archive("MRMS 2019-06", "mrms", "mrms", (500_000, 200_000, 2_100_000, 1_800_000)),
    Archive("MeteoNet NW 2016-08", "meteonet-nw", "meteonet"),
    Archive("MeteoNet SE 2016-08", "meteonet-se", "meteonet"),
    Archive("OpenMRG 2015", "openmrg", "openmrg"),
)


def read(store: Path) -> Rain:
    """The wettest box of a store, brought to 1 km where it is finer."""
    radar, step = open_radar(store), minutes(clock_step(open_store(store)))
    spacing = abs(float(radar["x"][1] - radar["x"][0])) / 1000
    total = np.zeros(radar.shape[1:], np.float32)
    for n in spread(range(radar.sizes["time"]), 12):
        total += np.nan_to_num(radar[n].values)
    rows, columns = wettest(total, round(BOX_KM / spacing))
    frames = radar.isel(y=rows, x=columns).values
    factor = max(1, round(1 / spacing))
    if factor > 1:
        frames = xr.DataArray(frames, dims=("t", "y", "x")).coarsen(y=factor, x=factor, boundary="trim")
        frames = frames.mean().values
    times = radar["time"].values
    since = ((times - times[0]) / np.timedelta64(1, "m")).round().astype(int)
    return Rain(frames.astype(np.float32), since, step, spacing * factor)


def windows(count: int) -> Iterator[tuple[Statistics, float]]:
    """Statistics of synthetic windows with rain at the reference time, and the mean speed of each, m/s."""
    each = (DOMAIN // TILE_KM) ** 2
    for number, window in enumerate(synthetic_windows(range(count), size=TILE_KM, seed=SEED)):
        frames = window.numpy()
        if wet_share(frames[CONTEXT - 1 : CONTEXT])[0] >= DRY:
            speed = draw_weather(np.random.default_rng([SEED, number // each]))["speed"]
            clock = np.arange(len(frames)) * int(STEP)
            yield statistics(Rain(frames, clock, STEP, 1.0, comoving=True)), speed


def pooled(found: list[tuple[Statistics, float]]) -> Statistics:
    """Medians over windows; tiles, growth and speeds of all windows together."""
    every, speeds = [one for one, _ in found], [speed for _, speed in found]
    medians = {name: np.nanmedian([getattr(one, name) for one in every], axis=0) for name in MEDIANS}
    growth = {after: [ratio for one in every for ratio in one.growth[after]] for after in every[0].growth}
    return replace(
        every[0],
        **medians,
        speed=np.percentile(speeds, np.arange(101)),
        growth=growth,
        tile_wet=[one.wet_fraction for one in every],
    )


def report(name: str, of: Statistics) -> str:
    """Correlations and the law that fits them, for reading."""
    rows = [
        f"{name}: c {of.c:.2f} min/km",
        "  minutes   " + " ".join(f"{lag:5.0f}" for lag in of.lag_minutes),
    ]
    for band, row, c in zip(of.band_km, of.correlation, of.c_of_bands, strict=True):
        rows.append(
            f"  {band:2d}-{2 * band:3d} km " + " ".join(f"{value:5.2f}" for value in row) + f"  c {c:.2f}"
        )
    return "\n".join(rows)


def table(real: dict[str, Statistics], found: list[tuple[Statistics, float]]) -> str:
    """The numbers of the figure in Markdown: medians and 10 to 90 % where there are several values."""
    each = [one for one, _ in found]
    several = pooled(found)
    slopes = np.array([one.slopes for one in each])
    rows = [
        "| | wet share of a square | mean wet rate, mm/h | 99.9 % / mean | slope 3-20 km | slope 20-128 km "
        "| c, min/km | speed, m/s | rain after 30 min / before | 60 min / before |",
        "|---" * 10 + "|",
        _row(
            SYNTHETIC,
            several,
            quantiles([one.mean_wet_rate for one in each]),
            quantiles([one.extreme for one in each], digits=0),
            *(quantiles(column[np.isfinite(column)], digits=1) for column in slopes.T),
            quantiles([one.c for one in each]),
        ),
    ]
    for name, of in real.items():
        single = (f"{of.extreme:.0f}", *(f"{value:.1f}" for value in of.slopes), f"{of.c:.2f}")
        rows.append(_row(name, of, f"{of.mean_wet_rate:.2f}", *single))
    return "\n".join(rows)


def _row(name: str, of: Statistics, *cells: str) -> str:
    changes = [quantiles(of.growth[after]) for after in (30, 60)]
    every = [f"| {name}", quantiles(of.tile_wet), *cells, quantiles(of.speed, digits=0), *changes]
    return " | ".join(every) + " |"


def quantiles(values: np.ndarray | list[float], *, digits: int = 2) -> str:
    if len(values) < FEW:
        return "-"
    low, middle, high = (f"{value:.{digits}f}" for value in np.quantile(values, QUANTILES))
    return f"{middle} ({low}-{high})"


def plot(real: dict[str, Statistics], found: list[tuple[Statistics, float]], path: Path) -> None:
    """Curves above, one row for each archive below; windows in black with their 10 to 90 % range in grey."""
    figure = Figure(figsize=(14, 11), layout="constrained")
    figure.suptitle(
        f"Black: median of {len(found)} synthetic windows; grey: 10 to 90 % of them. Colours and markers: "
        "real radar archives, named below; bars there: 10 to 90 %.",
        fontsize=11,
    )
    upper, lower = figure.subfigures(2, 1)
    _curves(upper.subplots(1, 3), real, [one for one, _ in found])
    _rows(lower.subplots(1, 4, sharey=True), real, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, dpi=100)


def _curves(axes: np.ndarray, real: dict[str, Statistics], each: list[Statistics]) -> None:
    rates, spectra, memory = axes
    middle_km = np.array(BANDS) * 2**0.5
    at = each[0].lag_minutes.index(SHOWN_LAG)
    _band(rates, RATES, [one.exceedance for one in each])
    _band(spectra, each[0].wavelength, [one.power for one in each])
    _band(memory, middle_km, [one.correlation[:, at] for one in each])
    for of, style in zip(real.values(), STYLES, strict=False):
        rates.plot(RATES, np.where(of.exceedance > 0, of.exceedance, np.nan), **style, markevery=4)
        spectra.plot(of.wavelength, of.power, **style, markevery=0.07)
        if SHOWN_LAG in of.lag_minutes:
            row = of.correlation[:, of.lag_minutes.index(SHOWN_LAG)]
            memory.plot(middle_km[[BANDS.index(band) for band in of.band_km]], row, **style)
    for c in LAW_C:
        law = lifetime_law(c, np.array(SHOWN_LAG), middle_km, STEP)
        memory.plot(middle_km, law, color="black", lw=1, ls=":")
        memory.annotate(f"c = {c:g}", (middle_km[-1] * 1.06, law[-1]), fontsize=8, va="center")
    rates.set(xscale="log", yscale="log", xlim=(0.1, 100), ylim=(1e-5, 1), xlabel="rain rate R, mm/h",
              ylabel="share of wet cells with R or more", title="Intensity")  # fmt: skip
    spectra.set(xscale="log", yscale="log", xlim=(256, 2), ylim=(1e-5, 1e2), xlabel="wavelength, km",
                ylabel="power density of sqrt(rain), relative", title="Spatial scales")  # fmt: skip
    memory.set(xscale="log", xlim=(2, 150), ylim=(-0.1, 1.02), xlabel="wavelength, km",
               ylabel=f"correlation after {SHOWN_LAG} min",
               title="What lasts, moved with the rain (dotted: law)")  # fmt: skip
    _ticks(spectra, (256, 128, 64, 32, 16, 8, 4, 2))
    _ticks(memory, (2, 4, 8, 16, 32, 64, 128))
    for axis in axes:
        axis.grid(alpha=0.3)


def _band(axis: Axes, x: np.ndarray, values: list[np.ndarray]) -> None:
    low, middle, high = np.nanquantile(np.array(values), QUANTILES, axis=0)
    axis.fill_between(x, low, high, color="0.8", lw=0)
    axis.plot(x, middle, color="black", lw=2.5)


def _ticks(axis: Axes, values: tuple[float, ...]) -> None:
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.set_xticks([], minor=True)


def _rows(axes: np.ndarray, real: dict[str, Statistics], found: list[tuple[Statistics, float]]) -> None:
    wet, lifetime, motion, growth = axes
    windows_of, every = pooled(found), [pooled(found), *real.values()]
    styles = [{"color": "black", "marker": "s"}, *STYLES]
    for row, (of, style) in enumerate(zip(every, styles, strict=False)):
        _range(wet, row, of.tile_wet, style)
        _range(
            lifetime,
            row,
            [one.c for one, _ in found] if of is every[0] else of.c_of_bands,
            style,
            middle=of.c,
        )
        _range(motion, row, of.speed, style)
        for shift, after in ((-0.15, 30), (0.15, 60)):
            _range(growth, row + shift, of.growth[after], style, hollow=after == 60)
    for axis, values in ((wet, windows_of.tile_wet), (lifetime, [one.c for one, _ in found]),
                         (motion, windows_of.speed), (growth, windows_of.growth[60])):  # fmt: skip
        axis.axvspan(*np.nanquantile(values, (0.1, 0.9)), color="0.8", lw=0, zorder=0)
        axis.grid(alpha=0.3, axis="x")
    wet.set(xlim=(0, 1), xlabel="share of cells with 0.1 mm/h or more", title="Wet area, 256 km squares")
    lifetime.set(xscale="log", xlim=(0.15, 2), xlabel="c = lifetime / wavelength, min/km",
                 title="Lifetime (bars: by scale)")  # fmt: skip
    motion.set(xlim=(0, 40), xlabel="speed, m/s", title="Motion")
    growth.set(xscale="log", xlim=(0.2, 4), xlabel="mean rain / that at the start",
               title="Change: 30 min, 60 min (white)")  # fmt: skip
    _ticks(lifetime, (0.2, 0.4, 0.8, 1.6))
    _ticks(growth, (0.25, 0.5, 1, 2, 4))
    wet.set_yticks(range(len(every)), [SYNTHETIC, *real])
    wet.invert_yaxis()


def _range(
    axis: Axes,
    row: float,
    values: np.ndarray | list[float],
    style: dict,
    *,
    middle: float | None = None,
    hollow: bool = False,
) -> None:
    if len(values) >= FEW:
        low, median, high = np.nanquantile(values, QUANTILES)
        axis.plot([low, high], [row, row], color=style["color"], lw=2)
        axis.plot(median if middle is None else middle, row, ls="", marker=style["marker"], ms=7,
                  color=style["color"], mfc="white" if hollow else style["color"])  # fmt: skip


def plain(value: object) -> object:
    """As JSON has it: lists for arrays, null where there is no number."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def main(data: Path, out: Path, stores: Path, count: int) -> None:
    """Prepare, measure, write rain-statistics.png, .json and .md."""
    real = {}
    for archive in ARCHIVES:
        began, store = time.perf_counter(), stores / f"{archive.name}.zarr"
        if not store.exists():
            recipe = replace(read_recipe(f"configs/prep/{archive.config}.yaml"), sampling=None)
            if archive.bounds is not None:
                recipe = replace(recipe, regrid=replace(recipe.regrid, bounds=archive.bounds))
            prepare(data / archive.folder, store, recipe, threads=1)
        real[archive.name] = statistics(read(store))
        print(report(archive.name, real[archive.name]), f" ({time.perf_counter() - began:.0f} s)", flush=True)
    found = list(windows(count))
    print(report(SYNTHETIC, pooled(found)), f"\n\n{table(real, found)}")
    plot(real, found, out / "rain-statistics.png")
    numbers = {
        "archives": {name: asdict(of) for name, of in real.items()},
        "windows": [{**asdict(of), "mean_speed": speed} for of, speed in found],
    }
    (out / "rain-statistics.json").write_text(json.dumps(plain(numbers)))
    (out / "rain-statistics.md").write_text(table(real, found) + "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the radar archives")
    parser.add_argument("--out", type=Path, default=Path("out/rain-statistics"))
    parser.add_argument("--stores", type=Path, help="where prepared archives are kept for another run")
    parser.add_argument("--windows", type=int, default=96, help="how many synthetic windows")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(chosen.data, chosen.out, chosen.stores or Path(temporary), chosen.windows)
