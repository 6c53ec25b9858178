"""Preparation beside its limits: the same files merely decoded, the same arrays merely compressed.

    python benchmarks/prep.py            all of it, in some minutes
    python benchmarks/prep.py --archive knmi

The archive is that of NOWCAST_RADAR_DATA (default ../shared/data), KNMI's ten times over on consecutive days,
so that what a store costs once does not count. Both limits run in one pool of as many processes as there are
cores; `prep` runs with as many threads. Peak memory is that of the command `nowcast prep`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import zarr

from data_prep import readers
from data_prep.frames import load
from data_prep.pipeline import Recipe, prepare
from data_prep.schema import VARIABLE
from data_prep.sources import find_files, read_headers
from nowcast.options import read_recipe

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("NOWCAST_RADAR_DATA", ROOT.parent / "shared/data"))
CORES = len(os.sched_getaffinity(0))
PART = 48
"""Frames that one process decodes or compresses at a time: a shard."""
ARCHIVES = {"knmi": "knmi", "opera": "opera"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", choices=ARCHIVES, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.archive or ARCHIVES:
            measure(name, Path(folder), chosen.rounds)


def measure(name: str, folder: Path, rounds: int) -> None:
    """Print rates and peak memory for one archive."""
    config = ROOT / f"configs/prep/{name}.yaml"
    recipe = replace(read_recipe(str(config)), pattern="**/*", sampling=None)
    source = days_of_knmi(DATA / "knmi", folder / "days", 10) if name == "knmi" else DATA / name
    files = find_files(source, "**/*")
    parts = [files[first : first + PART] for first in range(0, len(files), PART)]
    parts = parts if len(parts) > CORES else [files[n::CORES] for n in range(CORES)]
    store = folder / f"{name}.zarr"
    for number in range(rounds):
        with ProcessPoolExecutor(CORES) as pool:
            # Imports and coordinates are not what is measured.
            list(pool.map(decode, [[files[n]] for n in range(CORES)], [recipe] * CORES))
            decoding = rate(len(files), lambda p=pool: list(p.map(decode, parts, [recipe] * len(parts))))
            stores = [folder / f"part{n}.zarr" for n in range(len(parts))]
            arrays = list(pool.map(keep_packed, parts, stores, [recipe] * len(parts)))
            blosc = rate(len(files), lambda p=pool, a=arrays: list(p.map(compress, a)))
            writing = rate(len(files), lambda p=pool, a=arrays: list(p.map(write, a)))
        shutil.rmtree(store, ignore_errors=True)
        whole = rate(len(files), lambda: prepare(source, store, recipe))
        for label, compressing in (("Blosc alone", blosc), ("Zarr arrays", writing)):
            limit = 1 / (1 / decoding + 1 / compressing)
            print(
                f"{name} round {number + 1}: decoding {decoding:.0f}, {label} {compressing:.0f}, both "
                f"{limit:.0f}; prep {whole:.0f} frames/s = {whole / limit:.0%}"
            )
    peak = peak_memory(config, DATA / name, folder / f"{name}-peak.zarr")
    print(f"{name}: peak memory of nowcast prep {peak:.0f} MB")


def rate(frames: int, work) -> float:  # noqa: ANN001
    """Frames a second."""
    began = time.perf_counter()
    work()
    return frames / (time.perf_counter() - began)


def decode(files: list[str], recipe: Recipe) -> int:
    """Read files into frames."""
    reader = readers.get_reader(recipe.reader)
    return sum(frame.size for file in files for frame in reader.read_frames(Path(file), [0]))


def keep_packed(files: list[str], place: Path, recipe: Recipe) -> Path:
    """Put packed arrays where a process can read them: what is measured is compressing them."""
    entries, _ = read_headers(files, recipe.reader)
    np.save(place.with_suffix(".npy"), np.stack(load(entries, recipe.conversion).packed))
    return place


def compress(place: Path) -> int:
    """Compress arrays chunk by chunk as the layout `training` does."""
    numcodecs.blosc.use_threads = False
    codec = numcodecs.Blosc("zstd", 3, numcodecs.Blosc.SHUFFLE)
    packed = np.load(place.with_suffix(".npy"))
    return sum(
        len(codec.encode(np.ascontiguousarray(packed[t : t + 12, y : y + 128, x : x + 128])))
        for t in range(0, packed.shape[0], 12)
        for y in range(0, packed.shape[1], 128)
        for x in range(0, packed.shape[2], 128)
    )


def write(place: Path) -> None:
    """Write arrays as a store holds them."""
    packed = np.load(place.with_suffix(".npy"))
    tiles = [-(-size // 128) * 128 for size in packed.shape[1:]]
    array = zarr.create_array(
        place, name=VARIABLE, shape=packed.shape, dtype="uint16", chunks=(12, 128, 128),
        shards=(-(-len(packed) // 12) * 12, *tiles), fill_value=0, overwrite=True,
        compressors=(zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),),
    )  # fmt: skip
    array[:] = packed


def days_of_knmi(source: Path, place: Path, days: int) -> Path:
    """The event of KNMI on several consecutive days."""
    place.mkdir()
    for path in sorted(source.rglob("*.h5")):
        for day in range(days):
            copy = place / f"{day}-{path.name}"
            shutil.copyfile(path, copy)
            with h5py.File(copy, "r+") as file:
                attributes = file["overview"].attrs
                for name in ("product_datetime_start", "product_datetime_end"):
                    stamp = datetime.strptime(
                        np.ravel(attributes[name])[0].decode()[:20], "%d-%b-%Y;%H:%M:%S"
                    ) + timedelta(days=day)
                    attributes[name] = np.array([f"{stamp:%d-%b-%Y;%H:%M:%S}.000".upper().encode()])
    return place


def peak_memory(config: Path, source: Path, store: Path) -> float:
    """Peak resident memory of the command, MB."""
    words = ["prep", "--config", config, "--source", source, "--store", store]
    process = subprocess.Popen([sys.executable, "-m", "nowcast", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"nowcast prep ended with {status}")
    return usage.ru_maxrss / 1000


if __name__ == "__main__":
    main()
