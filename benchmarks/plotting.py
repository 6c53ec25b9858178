"""How long a map and a loop take: the time from a labelled array to a file, imports and reading excluded.

    python -m benchmarks.plotting STORE [--frames 18]

Measured are a map of the store's grid as PNG, the first of its domain (coasts are projected) and one more,
and a loop as GIF and as WebP.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import xarray as xr

from data_prep.schema import open_radar
from nowcast.plotting import animate, plot_map, save_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--frames", type=int, default=18)
    options = parser.parse_args()
    fields = open_radar(options.store)[: options.frames].load()
    with tempfile.TemporaryDirectory() as folder:
        save_figure(plot_map(fields[0, :8, :8]).figure, Path(folder) / "warm.png")
        print(f"{fields.sizes['y']} x {fields.sizes['x']} cells")
        for name in ("first map", "second map"):
            timed(name, lambda path: save_figure(plot_map(fields[0]).figure, path), Path(folder) / "map.png")
        for suffix in (".gif", ".webp"):
            loop(fields, Path(folder) / f"loop{suffix}")


def loop(fields: xr.DataArray, path: Path) -> None:
    timed(f"{fields.sizes['time']} frames as {path.suffix}", lambda path: animate(fields, path), path)


def timed(name, make, path: Path) -> None:
    start = perf_counter()
    make(path)
    print(f"{name:20s} {perf_counter() - start:6.2f} s {path.stat().st_size / 1e3:8.0f} kB")


if __name__ == "__main__":
    main()
