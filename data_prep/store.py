"""The Zarr store: it appears whole, grows at its end, and is always open to readers that know only xarray.

Rates are packed to uint16 in steps of 0.01 mm/h; 0 is dry and 65535 is missing. Zarr's own fill value is 0,
so that chunks without rain take no space; the CF ``_FillValue`` is 65535.

How growing is safe: readers see a store as the consolidated metadata in its root describe it. Frames are
written behind those that these count, and `commit` then replaces the metadata in one step. What a killed run
wrote and did not commit is invisible, and the next run overwrites it.

The group ``frames`` tells where each frame came from and what was noticed: ``source``, ``reader``, the
numbers of `data_prep.quality.FrameSummary`, ``marks``, and the cell marks ``quality (time, y, x)``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from os import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import numpy as np
import pyproj
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from data_prep.quality import CELL_MARKS, FRAME_MARKS, WET_RATE, FrameSummary
from data_prep.schema import (
    FRAMES_GROUP,
    LARGEST_RATE,
    PACKED_MISSING,
    PACKED_SCALE,
    RATE_ATTRIBUTES,
    SPLITS,
    VARIABLE,
    RefusedInput,
    crs_of,
    iso,
    map_coordinates,
    minutes,
    open_store,
)
from data_prep.sources import Clock

Layout = Literal["training", "archive"]
SHARD_FRAMES = 24
"""Frames in one shard, hence in one file; fewer on large grids, so that a shard can be held in memory."""
SHARD_CELLS = 100_000_000
"""Cells in one shard at most (0.2 GB unpacked)."""
CHUNK_FRAMES = 12
TIME_ENCODING = {"dtype": "int64", "units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}
TABLE = {
    "source": "string",
    "reader": "string",
    **{name: "float32" if kind is float else "uint32" for name, kind in get_type_hints(FrameSummary).items()},
    "marks": "uint8",
}
"""Types of what the group ``frames`` tells of each frame."""
UNITS = {
    "observed": {"units": "1", "long_name": "share of all cells that hold data"},
    "wet": {"units": "1", "long_name": f"share of the observed cells with {WET_RATE:g} mm/h or more"},
    "largest": {"units": "mm h-1", "long_name": "largest rate before capping"},
    "mean": {"units": "mm h-1", "long_name": "mean rate of the observed cells before capping"},
    "marked": {"units": "1", "long_name": "cells with a mark"},
}


@dataclass(frozen=True)
class About:
    """What a store says of its data.

    Attributes:
        title: One line on what the data are.
        institution: Who made the measurements.
        license: SPDX expression of the data's licence.
        source: Instruments and processing behind the data.
        references: Where to read about the data, and how to cite them.
        mlcast_created_by: Who made the archive, as ``Name <mail>``. The MLCast specification asks for this
            and what follows, and the layout ``archive`` holds it.
        mlcast_created_with: Address of the software with its version, as that specification wants it:
            ``https://github.com/mlcast-community/mlcast-dataset-<organisation>-<name>@<version>``.
        mlcast_dataset_identifier: ``<country code>-<entity>-<physical variable>``.
        mlcast_dataset_version: Of the data.
    """

    title: str = "Radar rain rate"
    institution: str = "unknown"
    license: str = "LicenseRef-unknown"
    source: str = "weather radar"
    references: str = ""
    mlcast_created_by: str = ""
    mlcast_created_with: str = ""
    mlcast_dataset_identifier: str = ""
    mlcast_dataset_version: str = "0.1.0"


class Grid(NamedTuple):
    """Cell centres in metres and the CRS as well-known text."""

    x: np.ndarray
    y: np.ndarray
    crs_wkt: str

    @classmethod
    def of(cls, array: xr.DataArray) -> Grid:
        """The grid of a rain array."""
        return cls(array["x"].values, array["y"].values, array["crs"].attrs["crs_wkt"])

    def same(self, other: Grid) -> bool:
        """Whether two grids have the same cells."""
        return (
            np.array_equal(self.x, other.x)
            and np.array_equal(self.y, other.y)
            and (
                self.crs_wkt == other.crs_wkt
                or pyproj.CRS.from_wkt(self.crs_wkt) == pyproj.CRS.from_wkt(other.crs_wkt)
            )
        )

    def __str__(self) -> str:
        """Cells, spacing, first corner and projection, in one line."""
        projection = pyproj.CRS(self.crs_wkt).to_cf().get("grid_mapping_name", "an unnamed projection")
        return (
            f"{self.y.size} x {self.x.size} cells of {abs(self.x[1] - self.x[0]) / 1000:.3g} km from "
            f"x={self.x[0] / 1000:.1f} km, y={self.y[0] / 1000:.1f} km in {projection}"
        )


def pack(rate: np.ndarray, *, cap: float = LARGEST_RATE) -> np.ndarray:
    """Rates as a store holds them.

    Args:
        rate: mm/h, float32, not negative, NaN where there is no data.
        cap: Rates above become this, mm/h; not more than `schema.LARGEST_RATE`.

    Returns:
        uint16 of the same shape.
    """
    # fmin ignores NaN, which has no meaning as an integer.
    steps = np.fmin(rate, np.float32(cap))
    steps *= np.float32(1 / PACKED_SCALE)
    steps += np.float32(0.5)
    packed = steps.astype(np.uint16)
    packed[np.isnan(rate)] = PACKED_MISSING
    return packed


def unpack(packed: np.ndarray) -> np.ndarray:
    """Packed rates in mm/h, float32, NaN where there is no data: what readers of a store see."""
    rate = (packed * PACKED_SCALE).astype(np.float32)
    rate[packed == PACKED_MISSING] = np.nan
    return rate


def create(
    path: Path, grid: Grid, *, clock: Clock, first: np.datetime64, about: About, layout: Layout, recipe: str
) -> None:
    """Make a store without frames. Whoever makes it moves it to its place when it has some.

    Args:
        path: Folder to make.
        grid: Its cells.
        clock: Its regular clock.
        first: The first time that the clock holds.
        about: What it says of its data.
        layout: Chunks for random crops, or frame by frame.
        recipe: The settings the frames are prepared with, as JSON.
    """
    static = xr.Dataset(coords=map_coordinates(grid.x, grid.y, pyproj.CRS.from_wkt(grid.crs_wkt)))
    whole = {name: {"chunks": static[name].shape} for name in ("lat", "lon")}
    static.assign_attrs(_attributes(about, layout, clock.step, first, recipe)).to_zarr(
        path, zarr_format=3, consolidated=False, encoding=whole
    )
    root = zarr.open_group(path, mode="r+")
    seconds = {
        "units": TIME_ENCODING["units"],
        "calendar": TIME_ENCODING["calendar"],
        "standard_name": "time",
    }
    _series(root, "time", "int64", {**seconds, "axis": "T"})
    _series(root, "missing_times", "int64", {**seconds, "long_name": "times of the clock without a frame"})
    codes = {"flag_values": list(range(len(SPLITS))), "flag_meanings": " ".join(SPLITS)}
    _series(root, "split", "int8", {"long_name": "data split", **codes})
    shape, blosc = (0, grid.y.size, grid.x.size), BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    shard = shard_frames_for(grid)
    if layout == "training":
        tiles = [-(-size // 128) * 128 for size in shape[1:]]
        chunks, shards = (CHUNK_FRAMES, 128, 128), (shard, *tiles)
    else:
        chunks, shards = (1, *shape[1:]), (shard, *shape[1:])
    dimensions = ("time", "y", "x")
    root.create_array(
        VARIABLE, shape=shape, dtype="uint16", chunks=chunks, shards=shards, compressors=(blosc,),
        fill_value=0, dimension_names=dimensions,
        attributes={
            **RATE_ATTRIBUTES, "coordinates": "crs lat lon split", "scale_factor": PACKED_SCALE,
            "_FillValue": PACKED_MISSING,
        },
    )  # fmt: skip
    frames = root.create_group(FRAMES_GROUP)
    for name, dtype in TABLE.items():
        _series(frames, name, dtype, _bits(FRAME_MARKS) if name == "marks" else UNITS.get(name, {}))
    frames.create_array(
        "quality", shape=shape, dtype="uint8", chunks=(CHUNK_FRAMES, *shape[1:]), compressors=(blosc,),
        fill_value=0, dimension_names=dimensions,
        attributes={"long_name": "marks of cells", **_bits(CELL_MARKS)},
    )  # fmt: skip


def _attributes(
    about: About, layout: Layout, step: np.timedelta64, first: np.datetime64, recipe: str
) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    given = {name: text for name, text in asdict(about).items() if text}
    if layout == "archive":
        given |= {"mlcast_created_on": now, "mlcast_dataset_validator_version": "0.4.0"}
    else:
        given = {name: text for name, text in given.items() if not name.startswith("mlcast_")}
    return {
        "Conventions": "CF-1.11",
        **given,
        "history": f"{now} prepared by nowcast {version('nowcast')}",
        "time_step_minutes": minutes(step),
        "consistent_timestep_start": iso(first),
        "recipe": recipe,
    }


def _bits(marks: dict[str, int]) -> dict[str, Any]:
    return {"flag_masks": list(marks.values()), "flag_meanings": " ".join(marks)}


def _series(group: zarr.Group, name: str, dtype: str, attributes: dict) -> None:
    dimension = name if name == "missing_times" else "time"
    group.create_array(
        name, shape=(0,), dtype=dtype, chunks=(4096,), dimension_names=(dimension,), attributes=attributes
    )


def shard_frames_for(grid: Grid) -> int:
    """Frames in one shard: half as many again and again until a shard can be held, at least one chunk."""
    frames = SHARD_FRAMES
    while frames > CHUNK_FRAMES and frames * grid.x.size * grid.y.size > SHARD_CELLS:
        frames //= 2
    return frames


def shard_frames(path: Path) -> int:
    """Frames in one shard of a store."""
    shards = zarr.open_array(path, path=VARIABLE, mode="r").shards
    return shards[0] if shards else SHARD_FRAMES


def committed(path: Path) -> int:
    """How many frames readers of a store see.

    Raises:
        RefusedInput: If it is not a store.
    """
    try:
        root = json.loads((path / "zarr.json").read_text())
        if "consolidated_metadata" in root:
            return int(root["consolidated_metadata"]["metadata"][VARIABLE]["shape"][0])
        # Another program that changes an attribute leaves them out; readers then go by the arrays.
        return int(json.loads((path / VARIABLE / "zarr.json").read_text())["shape"][0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedInput(
            f"a store holds {VARIABLE}", came=f"{path} ({error!r})", do="prepare it anew"
        ) from error


def arrays_along_time(path: Path) -> Iterator[zarr.Array]:
    """All arrays of a store that have one entry a frame."""
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    for group in (root, root[FRAMES_GROUP]):
        for _, array in group.arrays():  # type: ignore[union-attr]
            if (array.metadata.dimension_names or [""])[0] == "time":  # type: ignore[union-attr]
                yield array


def reserve(path: Path, frames: int) -> None:
    """Make room for frames that are being written; readers do not see it."""
    for array in arrays_along_time(path):
        if array.shape[0] < frames:
            array.resize((frames, *array.shape[1:]))


def clear_uncommitted(path: Path) -> None:
    """Take away what a killed run wrote and did not commit."""
    count = committed(path)
    for array in arrays_along_time(path):
        if array.shape[0] > count:
            # The rest of a shard that stays; resizing deletes only whole ones.
            end = min(array.shape[0], -(-count // SHARD_FRAMES) * SHARD_FRAMES)
            array[count:end] = array.metadata.fill_value  # type: ignore[assignment]
            array.resize((count, *array.shape[1:]))


def write_rates(path: str, start: int, packed: np.ndarray) -> None:
    """Write frames where room was reserved for them.

    Args:
        path: The store.
        start: Number of the first frame.
        packed: uint16, shape (frames, y, x).
    """
    zarr.open_array(path, path=VARIABLE, mode="r+")[start : start + len(packed)] = packed


def write_marks(path: str, start: int, cells: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write cell marks where room was reserved for them.

    Args:
        path: The store.
        start: Number of the first frame.
        cells: For each frame the flat indices of marked cells, and their marks.
    """
    quality = zarr.open_array(path, path=f"{FRAMES_GROUP}/quality", mode="r+")
    end = start + len(cells)
    cuts = [start, *range(start - start % CHUNK_FRAMES + CHUNK_FRAMES, end, CHUNK_FRAMES), end]
    for first, last in zip(cuts, cuts[1:], strict=False):
        marks = np.zeros((last - first, *quality.shape[1:]), dtype=np.uint8)
        for frame, (indices, values) in zip(marks, cells[first - start : last - start], strict=True):
            frame.ravel()[indices] = values
        quality[first:last] = marks


def commit(path: Path, start: int, table: dict[str, Any], missing: np.ndarray) -> None:
    """Make written frames visible.

    Args:
        path: The store.
        start: Number of the first of them.
        table: ``time`` (datetime64), ``split`` and what `TABLE` names, each of shape (frames,).
        missing: All times of the clock up to the last frame for which there is none.
    """
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    end = start + len(table["time"])
    for name, values in table.items():
        array = root[name if name in ("time", "split") else f"{FRAMES_GROUP}/{name}"]
        array[start:end] = _seconds(values) if name == "time" else values  # type: ignore[index]
    gaps = root["missing_times"]
    gaps.resize((missing.size,))  # type: ignore[union-attr]
    gaps[:] = _seconds(missing)  # type: ignore[index]
    consolidate(path, frames=end)


def _seconds(times: np.ndarray) -> np.ndarray:
    return np.asarray(times, dtype="datetime64[s]").astype(np.int64)


def consolidate(path: str | Path, *, frames: int | None = None) -> None:
    """Write what readers go by: the metadata of all arrays, in one step.

    Args:
        path: The store.
        frames: How many of its frames readers shall see; as many as now where none is given.
    """
    path = Path(path)
    document = json.loads((path / "zarr.json").read_text())
    metadata, seen = dict(_members(path, "")), document.get("consolidated_metadata", {}).get("metadata", {})
    for name, entry in metadata.items():
        dimension = (entry.get("dimension_names") or [None])[0]
        if dimension == "time":
            entry["shape"][0] = committed(path) if frames is None else frames
        elif dimension == "missing_times" and frames is None and name in seen:
            entry["shape"][0] = seen[name]["shape"][0]
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    beside = path / ".zarr.json.new"
    with beside.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    replace(beside, path / "zarr.json")


def _members(folder: Path, prefix: str) -> Iterator[tuple[str, dict]]:
    for child in sorted(folder.iterdir()):
        if (child / "zarr.json").is_file():
            entry = json.loads((child / "zarr.json").read_text())
            yield prefix + child.name, entry
            if entry["node_type"] == "group":
                yield from _members(child, f"{prefix}{child.name}/")


def grid_of(path: Path) -> Grid:
    """The grid of a store."""
    rain = open_store(path)[VARIABLE]
    return Grid(rain["x"].values, rain["y"].values, crs_of(rain).to_wkt())


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Keep other writers away from a store; the lock is a file beside it and goes when its process goes.

    Raises:
        RefusedInput: If another process is writing to it.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have been taken away, and another one made, between opening and locking.
            if os.fstat(file.fileno()).st_ino != place.stat().st_ino:
                raise FileNotFoundError(place)
        except OSError as error:
            raise RefusedInput(
                "one process writes to a store", came=f"another that is writing to {path}", do="wait for it"
            ) from error
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


def move_into_place(partial: Path, path: Path) -> None:
    """Let a new store appear."""
    replace(partial, path)


def partial_path(path: Path) -> Path:
    """Where a new store is made; what a killed run left there is taken away."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    return partial
