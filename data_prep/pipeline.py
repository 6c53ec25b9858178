"""The recipe: radar files in, a store out. It reads top to bottom."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr

from data_prep import readers
from data_prep.rain_rate import to_rain_rate
from data_prep.sampling import GROUP, Sampling, refuse_small_grid, write_samples
from data_prep.schema import (
    LARGEST_RATE,
    PACKED_SCALE,
    RefusedInput,
    iso,
    minutes,
    missing_from_clock,
    open_store,
    rain_array_on,
    time_step,
)
from data_prep.splits import Splits, split_codes
from data_prep.store import SHARD_FRAMES, About, Layout, lock, refuse_other_grid, write_frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Settings of a preparation.

    Attributes:
        pattern: Which files below the source folder are radar frames (glob).
        reader: Name of the reader; the content of each file decides where none is named.
        time_step_minutes: Step the archive must have, where it is to be checked.
        z_r_a: Coefficient a of Z = a R^b, for reflectivity.
        z_r_b: Exponent b of Z = a R^b.
        largest_rate: Rates above are capped to this, mm/h.
        unreadable: What to do with a file that cannot be read: stop, or leave a named gap.
        layout: Chunks for random crops (``training``) or frame by frame (``archive``).
        about: What the store says of its data.
        splits: How time is dealt out to train, validation and test.
        sampling: How training windows are drawn; none are where this is null.
    """

    pattern: str = "**/*"
    reader: str | None = None
    time_step_minutes: float | None = None
    z_r_a: float = 200.0
    z_r_b: float = 1.6
    largest_rate: float = 128.0
    unreadable: Literal["refuse", "missing"] = "refuse"
    layout: Layout = "training"
    about: About = field(default_factory=About)
    splits: Splits = field(default_factory=Splits)
    sampling: Sampling | None = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if not 0 < self.largest_rate <= LARGEST_RATE:
            raise RefusedInput(
                f"largest_rate lies in (0, {LARGEST_RATE:g}] mm/h, what a store can hold",
                came=self.largest_rate,
                do="correct the prep configuration",
            )


class Entry(NamedTuple):
    """A radar file and the time its header gives."""

    time: np.datetime64
    path: Path


def prepare(source: str | Path, store: str | Path, recipe: Recipe) -> int:
    """Turn a folder of radar files into a store, or append what is new to one.

    Args:
        source: Folder of radar files.
        store: Zarr store to make or to append to.
        recipe: Settings.

    Returns:
        How many frames were written.

    Raises:
        RefusedInput: If the source is missing or holds no radar file, a file cannot be read, frames lie off
            the clock, or the store holds another grid. Frames of earlier batches stay in the store.
    """
    entries = scan(source, recipe)
    first = load(entries[:1], recipe)
    if recipe.sampling is not None:
        refuse_small_grid(first, recipe.sampling)
    with lock(store):
        if Path(store).exists():
            refuse_other_grid(store, first)
        new = _not_stored(entries, store)
        _refuse_off_clock([entry.time for entry in new], store, recipe)
        written = 0
        for batch in _batches(new, store):
            frames = load(batch, recipe)
            write_split_frames(store, frames, recipe)
            written += frames.sizes["time"]
            logger.info("%d of %d frames, to %s", written, len(new), iso(frames["time"].values[-1]))
        return finish(store, recipe, written=written)


def prepare_arrays(arrays: Iterator[xr.DataArray], store: str | Path, recipe: Recipe) -> int:
    """As `prepare`, from rain arrays that come in order of time (synthetic rain, another archive)."""
    written = 0
    with lock(store):
        for array in arrays:
            if recipe.sampling is not None:
                refuse_small_grid(array, recipe.sampling)
            write_split_frames(store, array, recipe)
            written += array.sizes["time"]
        return finish(store, recipe, written=written)


def scan(source: str | Path, recipe: Recipe) -> list[Entry]:
    """The radar files of a folder in order of the time in their headers.

    Raises:
        RefusedInput: If there is no folder, no file matches, or two files hold the same time.
    """
    source = Path(source)
    if not source.is_dir():
        raise RefusedInput("--source is a folder of radar files", came=source, do="give an existing folder")
    paths = sorted(path for path in source.glob(recipe.pattern) if path.is_file())
    if not paths:
        raise RefusedInput(
            f"one or more files in --source match the pattern {recipe.pattern}",
            came=f"none in {source}",
            do="correct --source or the pattern in the prep configuration",
        )
    entries = sorted(entry for path in paths for entry in _entry(path, recipe))
    for time, group in groupby(entries, key=lambda entry: entry.time):
        same = list(group)
        if len(same) > 1:
            raise RefusedInput(
                "one file holds one time",
                came=f"{iso(time)} in {same[0].path.name} and {same[1].path.name}",
                do="narrow the pattern in the prep configuration",
            )
    return entries


def load(entries: list[Entry], recipe: Recipe) -> xr.DataArray:
    """Read files into one rain array, mm/h, with the very values that a store of them holds.

    Raises:
        RefusedInput: If a file cannot be read (unless the recipe leaves a gap) or lies on another grid.
    """
    frames = [frame for entry in entries for frame in _readable(entry.path, recipe)]
    if not frames:
        raise RefusedInput(
            "one or more files can be read", came=f"none of {len(entries)}", do="look at the warnings above"
        )
    first = frames[0]
    for frame in frames[1:]:
        if frame.shape != first.shape or not (
            np.array_equal(frame["x"], first["x"]) and np.array_equal(frame["y"], first["y"])
        ):
            raise RefusedInput(
                "all frames of an archive lie on one grid",
                came=f"{frame.attrs['source_file']} with {frame.shape}, {first.attrs['source_file']} with "
                f"{first.shape}",
                do="narrow the pattern in the prep configuration",
            )
    coordinates = {name: first[name] for name in ("y", "x", "lat", "lon", "crs")}
    # In the steps of the store, so that a live frame is what the archive would hold.
    steps = (np.rint(frame.values.astype(np.float64) / PACKED_SCALE) for frame in frames)
    values = np.stack([(count * PACKED_SCALE).astype(np.float32) for count in steps])
    return rain_array_on(values, time=np.array([f["time"].values for f in frames]), coordinates=coordinates)


def read_latest(
    source: str | Path, recipe: Recipe, *, frames: int, time: np.datetime64 | None = None
) -> xr.DataArray:
    """The last frames of a folder of radar files, as a rain array.

    Args:
        source: Folder of radar files.
        recipe: Settings.
        frames: How many frames.
        time: Time of the last of them; the newest file's where none is given.

    Raises:
        RefusedInput: As `scan` and `load`, and if no file has the time.
    """
    entries = scan(source, recipe)
    times = np.array([entry.time for entry in entries], dtype="datetime64[ns]")
    last = times[-1] if time is None else time
    if last not in times:
        raise RefusedInput(
            f"--time is the time of a file between {iso(times[0])} and {iso(times[-1])}",
            came=iso(last),
            do="choose the time of a file",
        )
    step = _step(recipe) if recipe.time_step_minutes is not None else time_step(times)
    wanted = last - step * np.arange(frames)
    lacking = np.setdiff1d(wanted, times)
    if lacking.size:
        raise RefusedInput(
            f"a context is {frames} frames every {minutes(step):g} min without a gap up to {iso(last)}",
            came=f"no file of {', '.join(iso(gap) for gap in lacking)}",
            do="choose a time after the gap",
        )
    return load([entry for entry in entries if entry.time in wanted], recipe)


def write_split_frames(store: str | Path, frames: xr.DataArray, recipe: Recipe) -> None:
    """Write one batch with the split of each frame."""
    codes = split_codes(frames["time"].values, recipe.splits)
    dataset = frames.to_dataset().assign_coords(split=("time", codes))
    write_frames(store, dataset, about=recipe.about, layout=recipe.layout, recipe=json.dumps(asdict(recipe)))


def finish(store: str | Path, recipe: Recipe, *, written: int) -> int:
    """Draw the sample index anew where frames came or there is none, and report."""
    if recipe.sampling is not None and (written or not (Path(store) / GROUP).exists()):
        count = write_samples(store, recipe.sampling)
        hint = f" (one needs {recipe.sampling.frames} frames of one split without a gap)" if not count else ""
        logger.info("%d sampled windows%s", count, hint)
    return written


def _entry(path: Path, recipe: Recipe) -> list[Entry]:
    """The file with its time, or nothing where the recipe leaves unreadable files out."""
    try:
        reader = readers.get_reader(recipe.reader) if recipe.reader else readers.find_reader(path)
        return [Entry(time, path) for time in reader.read_times(path)]
    except RefusedInput as error:
        return _leave_gap(error, recipe)


def _readable(path: Path, recipe: Recipe) -> list[xr.DataArray]:
    """The rain rate of a file, or nothing where the recipe leaves unreadable files out."""
    try:
        reader = readers.get_reader(recipe.reader) if recipe.reader else readers.find_reader(path)
        rate = to_rain_rate(next(iter(reader.read_frames(path, [0]))), z_r_a=recipe.z_r_a, z_r_b=recipe.z_r_b)
        _refuse_senseless(rate, path)
    except RefusedInput as error:
        return _leave_gap(error, recipe)
    return [rate.clip(max=recipe.largest_rate, keep_attrs=True).assign_attrs(source_file=path.name)]


def _step(recipe: Recipe) -> np.timedelta64:
    """The time step that a recipe gives."""
    return np.timedelta64(round((recipe.time_step_minutes or 0) * 60), "s")


def _leave_gap(error: RefusedInput, recipe: Recipe) -> list:
    if recipe.unreadable == "refuse":
        raise error
    logger.warning("left out: %s", error)
    return []


def _refuse_senseless(rate: xr.DataArray, path: Path) -> None:
    """Refuse a frame with rates that no rain has, which packing would turn into others."""
    if bool((rate < 0).any()) or bool(np.isinf(rate).any()):
        raise RefusedInput(
            "rain rates are finite and not negative",
            came=f"{path} with {float(rate.min()):g} to {float(rate.max()):g} mm/h",
            do="look at the calibration in its header, or leave it out",
        )


def _not_stored(entries: list[Entry], store: str | Path) -> list[Entry]:
    """Entries later than the store's last frame; says which earlier ones are not in it."""
    if not Path(store).exists():
        return entries
    stored = open_store(store)["time"].values
    late = [entry for entry in entries if entry.time < stored[-1] and entry.time not in stored]
    if late:
        logger.warning(
            "%d frame(s) before the end of %s are not in it and stay out, first %s (%s): "
            "prepare into a new store to include them",
            len(late), store, iso(late[0].time), late[0].path.name,
        )  # fmt: skip
    return [entry for entry in entries if entry.time > stored[-1]]


def _refuse_off_clock(times: list[np.datetime64], store: str | Path, recipe: Recipe) -> None:
    """Refuse, before anything is written, times that one regular clock cannot hold."""
    if not times:
        return
    known: Any = open_store(store)["time"].values if Path(store).exists() else []
    every = np.array([*known, *times], dtype="datetime64[ns]")
    step = time_step(every)
    if recipe.time_step_minutes not in (None, minutes(step)):
        raise RefusedInput(
            f"the smallest step between frames is time_step_minutes = {recipe.time_step_minutes:g} min",
            came=f"{minutes(step):g} min",
            do="correct time_step_minutes or the pattern in the prep configuration",
        )
    missing = missing_from_clock(every, step)
    if missing.size:
        logger.warning("%d time(s) without a frame, first %s", missing.size, iso(missing[0]))


def _batches(entries: list[Entry], store: str | Path) -> Iterator[list[Entry]]:
    """Entries in batches that end where the shards of the store end."""
    stored = open_store(store).sizes["time"] if Path(store).exists() else 0
    first = SHARD_FRAMES - stored % SHARD_FRAMES
    cuts = [0, *range(first, len(entries), SHARD_FRAMES), len(entries)]
    for start, stop in zip(cuts, cuts[1:], strict=False):
        if stop > start:
            yield entries[start:stop]
