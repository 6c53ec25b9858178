"""How many training windows a process reads in a second: python benchmarks/feeding.py [FOLDER] [WORKERS].

Windows of 24 frames of 256 x 256 in random order, as tensors with their mask, from a store of 240 synthetic
frames of 1024 x 1024 (made in FOLDER if it is not there) and from the crop cache, beside raw reads of a
mapped file; then whole batches of 16 from a loader with workers. Page cache warm. Each kind is read three
times in turn, and the best is printed, with the CPU time that a window takes.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.sampling import Sampling
from data_prep.schema import open_radar, rain_array_on
from data_prep.splits import Splits
from data_prep.synthetic import SyntheticRain, coordinates, stream
from nowcast.training.datamodule import RadarCrops, RadarDataModule

RAIN = SyntheticRain(shape=(1024, 1024), wet_fraction=0.12, range_rings=False)
RECIPE = Recipe(
    splits=Splits(origin="2020-06-01T00:00", block_minutes=2880, guard_minutes=0, cycle=("train",)),
    sampling=Sampling(frames=24, q_min=2e-4, m=0.02),
)
FRAMES, BATCH = 240, 48
ROUNDS, READS = 3, 100


def make(store: Path) -> None:
    frames, where = stream(RAIN, seed=1), coordinates(RAIN)

    def arrays() -> Iterator[xr.DataArray]:
        for _ in range(FRAMES // BATCH):
            batch = list(islice(frames, BATCH))
            rates = np.stack([frame.rate for frame in batch])
            yield rain_array_on(rates, time=np.array([frame.time for frame in batch]), coordinates=where)

    prepare_arrays(arrays(), store, RECIPE)


def speed(read: Callable[[int], object], numbers: np.ndarray) -> tuple[float, float]:
    """Windows a second, and milliseconds of CPU time for one."""
    start, busy = time.perf_counter(), time.process_time()
    for number in numbers:
        read(int(number))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return len(numbers) / seconds, 1000 * busy / len(numbers)


def loader_speed(store: Path, workers: int, cache: str | None, codecs: str) -> float:
    """Windows a second out of a loader; the first batches are not counted."""
    data = RadarDataModule(
        str(store), batch_size=16, samples_per_epoch=16 * 24, workers=workers, cache=cache, codecs=codecs,
        augment=True,
    )  # fmt: skip
    data.setup()
    batches = iter(data.train_dataloader())
    for _ in range(2 * workers + 2):
        next(batches)
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch["rain"])
    return count / (time.perf_counter() - start)


def main(folder: Path, workers: int) -> None:
    torch.set_num_threads(1)
    store, cache = folder / "radar.zarr", str(folder / "cache")
    if not store.exists():
        make(store)
    wet = float((open_radar(store)[::20].values >= 0.1).mean())
    crops = {name: RadarCrops(store, "train", codecs=name) for name in ("zarr", "zarrs")}
    cached = RadarCrops(store, "train", cache=cache)
    raw, eight = cached.cache.windows, cached.symmetries
    kinds = {
        "raw reads of the mapped cache": lambda n: np.array(raw[n]),
        "store, codecs of zarr": crops["zarr"].__getitem__,
        "store, codecs of zarrs": crops["zarrs"].__getitem__,
        "crop cache": cached.__getitem__,
        "crop cache, turned at random": lambda n: cached[n, eight[n % 8]],
    }
    numbers = np.random.default_rng(0).integers(len(cached), size=(ROUNDS, READS))
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    print(
        f"{len(cached)} windows, {wet:.0%} wet cells, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for read in kinds.values():
        speed(read, np.arange(len(cached))[:: max(1, len(cached) // 10)])
    for row in numbers:
        for name, read in kinds.items():
            results[name].append(speed(read, row))
    for name, measured in results.items():
        rate, busy = max(measured)
        print(f"{name:<34} {rate:7.0f} windows/s {busy:6.1f} ms CPU   (worst {min(measured)[0]:.0f}/s)")
    for codecs, place in (("zarr", None), ("zarrs", None), ("auto", cache)):
        rate = loader_speed(store, workers, place, codecs)
        print(f"loader, {workers} workers, {place and 'crop cache' or codecs:<16} {rate:13.0f} windows/s")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(Path(given[0] if given else tempfile.mkdtemp()), int(given[1]) if given[1:] else 2)
