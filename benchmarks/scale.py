"""What a national archive costs: 1536 x 1280 cells every 5 minutes, real rain.

    python benchmarks/scale.py

The frames are a part of the real OPERA composite (NOWCAST_RADAR_DATA, default ../shared/data), whose 2-km
cells are taken for 1-km cells, so that they are rougher and compress less than a national archive's. They are
written as ODIM HDF5 (uint16, gzip), several times over on the clock, and prepared with the default recipe.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pyproj

from data_prep import readers
from data_prep.pipeline import Recipe, prepare
from data_prep.sampling import Sampling

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("NOWCAST_RADAR_DATA", ROOT.parent / "shared/data"))
ROWS, COLUMNS = 1536, 1280
REPEATS = 8
TEN_YEARS = 10 * 365.25 * 288
PROJECTION = "+proj=laea +lat_0=55 +lon_0=-3 +ellps=WGS84 +units=m"


def main() -> None:
    """Measure and print."""
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as place:
        source, store = Path(place, "files"), Path(place, "national.zarr")
        source.mkdir()
        write_files(source)
        recipe = Recipe(reader="odim_hdf5", sampling=None)
        report = prepare(source, store, recipe)
        began = time.perf_counter()
        windows = prepare(source, store, Recipe(reader="odim_hdf5", sampling=Sampling())).windows
        drawing = time.perf_counter() - began
        files = [path for path in store.rglob("*") if path.is_file() and "lat" not in str(path)]
        size = sum(path.stat().st_size for path in files)
        read = sum(path.stat().st_size for path in source.iterdir())
    fps, tally = report.written / report.seconds, report.tally
    print(f"{report.written} frames, {tally.wet / tally.observed:.1%} of the observed cells wet")
    print(f"{fps:.1f} frames/s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB")
    print(
        f"{read / report.written / 1000:.0f} kB a file, {size / report.written / 1000:.0f} kB stored a frame"
    )
    print(f"{report.written / drawing:.0f} frames/s drawing {windows} windows")
    hours = TEN_YEARS * (1 / fps + drawing / report.written) / 3600
    objects = len([p for p in files if "/c/" in str(p)]) / report.written
    print(
        f"ten years ({TEN_YEARS / 1e6:.2f} million frames): {hours:.0f} h on {cores} cores, "
        f"{size / report.written * TEN_YEARS / 1e9:.0f} GB, {objects * TEN_YEARS / 1000:.0f} thousand objects"
    )


def write_files(folder: Path) -> None:
    """ODIM HDF5 files of a grid of the wanted size."""
    start = np.datetime64("2020-01-01T00:00")
    frames = [
        readers.read(path).values[300 : 300 + ROWS, 400 : 400 + COLUMNS]
        for path in sorted((DATA / "opera").rglob("*.hdf"))
    ]
    for number in range(len(frames) * REPEATS):
        write_odim(folder / f"{number:05d}.h5", frames[number % len(frames)], start + 5 * number)


def write_odim(path: Path, rate: np.ndarray, time: np.datetime64) -> None:
    """One composite; rates in mm/h, NaN where there is no data."""
    day, clock = (f"{time:}".replace("-", "").replace(":", "") + "00").split("T")
    steps = np.where(np.isnan(rate), 65535, np.minimum(np.nan_to_num(rate), 600) * 100).astype(np.uint16)
    project = pyproj.Proj(PROJECTION)
    where = {"projdef": PROJECTION, "xsize": COLUMNS, "ysize": ROWS, "xscale": 1000.0, "yscale": 1000.0}
    for name, (x, y) in {"LL": (0, -ROWS), "UL": (0, 0), "UR": (COLUMNS, 0), "LR": (COLUMNS, -ROWS)}.items():
        where[f"{name}_lon"], where[f"{name}_lat"] = project(x * 1000.0, y * 1000.0, inverse=True)
    what = {"product": "COMP", "quantity": "RATE", "gain": 0.01, "offset": 0.0}
    what |= {"nodata": 65535.0, "undetect": 65534.0}
    what |= {"startdate": day, "starttime": clock, "enddate": day, "endtime": clock}
    with h5py.File(path, "w") as file:
        file.attrs["Conventions"] = "ODIM_H5/V2_3"
        file.create_group("what").attrs.update(
            {"object": "COMP", "version": "H5rad 2.3", "date": day, "time": clock, "source": "ORG:247"}
        )
        file.create_group("where").attrs.update(where)
        file.create_group("dataset1/what").attrs.update(what)
        data = file.create_dataset("dataset1/data1/data", data=steps, compression="gzip", chunks=(256, 256))
        data.attrs["CLASS"] = "IMAGE"


if __name__ == "__main__":
    main()
