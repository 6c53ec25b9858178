"""The Zarr store: created whole, appended to by batches, always open to readers that know only xarray.

Rates are packed to uint16 in steps of 0.01 mm/h; 0 is dry and 65535 is missing. Zarr's own fill value is 0,
so that chunks without rain take no space; the CF ``_FillValue`` is 65535.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from data_prep.schema import (
    LARGEST_RATE,
    PACKED_MISSING,
    PACKED_SCALE,
    SPLITS,
    VARIABLE,
    RefusedInput,
    crs_of,
    iso,
    minutes,
    missing_from_clock,
    open_store,
    time_step,
)

Layout = Literal["training", "archive"]
SHARD_FRAMES = 48
"""Frames in one shard, hence in one file."""
TIME_ENCODING = {"dtype": "int64", "units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}


@dataclass(frozen=True)
class About:
    """What a store says of its data.

    Attributes:
        title: One line on what the data are.
        institution: Who made the measurements.
        license: SPDX expression of the data's licence.
        source: Instruments and processing behind the data.
        references: Where to read about the data, and how to cite them.
    """

    title: str = "Radar rain rate"
    institution: str = "unknown"
    license: str = "LicenseRef-unknown"
    source: str = "weather radar"
    references: str = ""


def write_frames(
    path: str | Path, frames: xr.Dataset, *, about: About, layout: Layout = "training", recipe: str = ""
) -> None:
    """Write a batch of frames: a new store appears whole, an existing one grows at its end.

    Args:
        path: The store.
        frames: `rain array` with the coordinate ``split(time)``, later than every frame in the store.
        about: Attributes of a new store.
        layout: Chunks of a new store: for random crops, or frame by frame.
        recipe: The settings the frames were prepared with, as text.

    Raises:
        RefusedInput: If the store holds another grid, time step or later frames.
    """
    path = Path(path)
    rate = frames[VARIABLE].values
    if bool((rate < 0).any()) or bool((rate > LARGEST_RATE).any()):
        raise RefusedInput(
            f"rain rates in a store lie between 0 and {LARGEST_RATE:g} mm/h",
            came=f"{np.nanmin(rate):g} to {np.nanmax(rate):g}",
            do="cap or repair them before",
        )
    if path.exists():
        refuse_other_grid(path, frames[VARIABLE])
        stored = open_store(path)
        times = np.concatenate([stored["time"].values, frames["time"].values])
        missing = missing_from_clock(times, time_step(times))
        _append(path, frames, committed=stored.sizes["time"])
    else:
        missing = missing_from_clock(frames["time"].values, time_step(frames["time"].values))
        _create(path, frames, about=about, layout=layout, recipe=recipe)
    _name_missing(path, missing)
    consolidate(path)


def refuse_other_grid(path: str | Path, frames: xr.DataArray) -> None:
    """Refuse frames that do not lie on the grid of a store.

    Raises:
        RefusedInput: If cell centres or CRS differ.
    """
    stored = open_store(path)[VARIABLE]
    same = all(
        stored.sizes[name] == frames.sizes[name] and np.allclose(stored[name], frames[name], rtol=0, atol=1.0)
        for name in ("x", "y")
    )
    if not same or crs_of(stored) != crs_of(frames):
        raise RefusedInput(
            f"a store holds one grid, and {path} holds {describe_grid(stored)}",
            came=describe_grid(frames),
            do="choose another --store, or remove this one",
        )


def describe_grid(array: xr.DataArray) -> str:
    """A grid in a few words: size, spacing, corner and CRS."""
    x, y = array["x"].values, array["y"].values
    return (
        f"{y.size} x {x.size} cells of {abs(x[1] - x[0]) / 1000:.3g} km from "
        f"x={x[0] / 1000:.1f} km, y={y[0] / 1000:.1f} km in {array['crs'].attrs['grid_mapping_name']}"
    )


def _create(path: Path, frames: xr.Dataset, *, about: About, layout: Layout, recipe: str) -> None:
    """Write a new store beside its place and move it there when it is complete."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    software = f"nowcast {version('nowcast')}"
    step = time_step(frames["time"].values)
    first = next(
        time for time, gap in zip(frames["time"].values, np.diff(frames["time"].values), strict=False)
        if gap == step
    )  # fmt: skip
    attributes = {
        "Conventions": "CF-1.11",
        **{name: text for name, text in asdict(about).items() if text},
        "history": f"{now} prepared by {software}",
        "time_step_minutes": minutes(step),
        "consistent_timestep_start": iso(first),
        "recipe": recipe,
    }
    flags = {"flag_values": list(range(len(SPLITS))), "flag_meanings": " ".join(SPLITS)}
    frames = frames.assign_coords(missing_times=("missing_times", np.array([], dtype="datetime64[ns]")))
    frames["split"].attrs.update(long_name="data split", **flags)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        frames.assign_attrs(attributes).to_zarr(
            partial, zarr_format=3, consolidated=False, encoding=_encoding(frames, layout)
        )
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _append(path: Path, frames: xr.Dataset, *, committed: int) -> None:
    """Write frames behind those that are committed; what an interrupted run left there is overwritten.

    Nothing of it is visible before `consolidate`, because readers go by the consolidated metadata.
    """
    rate = frames[VARIABLE].values
    packed = np.where(np.isfinite(rate), np.rint(rate.astype(np.float64) / PACKED_SCALE), PACKED_MISSING)
    values = {
        VARIABLE: packed.astype(np.uint16),
        "split": frames["split"].values,
        "time": frames["time"].values.astype("datetime64[s]").astype(np.int64),
    }
    for name, value in values.items():
        array = zarr.open_array(path, path=name, mode="r+")
        array.resize((committed + len(value), *array.shape[1:]))
        array[committed:] = value


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Keep other writers of the machine away from a store.

    Raises:
        RefusedInput: If another process is writing to it.
    """
    digest = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"nowcast-{digest}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RefusedInput(
                "one process writes to a store", came=f"another that is writing to {path}", do="wait for it"
            ) from error
        yield


def _encoding(frames: xr.Dataset, layout: Layout) -> dict[str, dict]:
    height, width = frames.sizes["y"], frames.sizes["x"]
    if layout == "training":
        chunks = (12, 128, 128)
        shards = (SHARD_FRAMES, -(-height // 128) * 128, -(-width // 128) * 128)
    else:
        chunks, shards = (1, height, width), (SHARD_FRAMES, height, width)
    rate = {
        "dtype": "uint16",
        "scale_factor": PACKED_SCALE,
        "_FillValue": PACKED_MISSING,
        "fill_value": 0,
        "chunks": chunks,
        "shards": shards,
        "compressors": (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2),),
    }
    times = {name: {**TIME_ENCODING, "chunks": (4096,)} for name in ("time", "missing_times")}
    return {VARIABLE: rate, "split": {"chunks": (4096,)}, **times}


def _name_missing(path: Path, missing: np.ndarray) -> None:
    array = zarr.open_array(path, path="missing_times", mode="r+")
    array.resize((missing.size,))
    array[:] = missing.astype("datetime64[s]").astype(np.int64)


def consolidate(path: str | Path) -> None:
    """Make what was written visible: readers see a store as its consolidated metadata describe it."""
    with warnings.catch_warnings():
        # They are not yet in the specification of Zarr v3, but xarray expects them.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(path)
