"""The recipe: radar files in, a store out. It reads top to bottom."""

from __future__ import annotations

import json
import logging
import time as timer
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_prep.assembly import Assembly, Plan
from data_prep.frames import (
    Batch,
    Conversion,
    Head,
    Row,
    Tally,
    head_of,
    load,
    most_common_grid,
    rain_on,
    sparse,
)
from data_prep.grid import Regrid
from data_prep.parallel import Tasks, open_tasks
from data_prep.quality import Quality, mark_cells, summarise
from data_prep.report import Report, gaps_of
from data_prep.sampling import Sampling, refuse_small_grid, write_samples
from data_prep.schema import (
    LARGEST_RATE,
    RefusedInput,
    clock_step,
    iso,
    minutes,
    open_frames,
    open_store,
    time_step,
)
from data_prep.sources import Clock, Entry, Refusal, choose, find_files, read_headers, readable_name
from data_prep.splits import Splits, split_codes
from data_prep.store import About, Grid, Layout, create, lock, pack, unpack

logger = logging.getLogger(__name__)

LOAD_FRAMES = 4
"""Frames that one task reads, out of files with one frame each; divides the frames of a shard."""
LOAD_FRAMES_OF_ONE_FILE = 48
"""Frames that one task reads out of a file with many, which may have to be read from its start each time."""
SCAN_FILES = 64
"""Files whose headers one task reads."""
VOTES = 5
"""Frames that are read to learn the grid of an archive."""
LASTING = ("z_r_a", "z_r_b", "regrid", "quality", "splits", "layout")
"""Settings that all frames of a store share."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a preparation.

    Attributes:
        pattern: Which files below the source folder are radar frames (glob).
        reader: Name of the reader; the content of each file decides where none is named.
        time_step_minutes: Step of the archive's clock; the most frequent one where none is given.
        longest_gap_days: Frames that a longer gap separates from most others are refused: their clock jumped.
        z_r_a: Coefficient a of Z = a R^b, for reflectivity.
        z_r_b: Exponent b of Z = a R^b.
        regrid: How frames come onto the grid of the store.
        quality: What is capped, marked and masked.
        layout: Chunks for random crops (``training``) or frame by frame (``archive``, for a store that grows
            while it is read).
        about: What the store says of its data.
        splits: How time is dealt out to train, validation and test.
        sampling: How training windows are drawn; none are where this is null.
    """

    pattern: str = "**/*"
    reader: str | None = None
    time_step_minutes: float | None = None
    longest_gap_days: float = 1000.0
    z_r_a: float = 200.0
    z_r_b: float = 1.6
    regrid: Regrid = field(default_factory=Regrid)
    quality: Quality = field(default_factory=Quality)
    layout: Layout = "training"
    about: About = field(default_factory=About)
    splits: Splits = field(default_factory=Splits)
    sampling: Sampling | None = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for name, value, largest in (
            ("quality.largest_rate", self.quality.largest_rate, LARGEST_RATE),
            ("time_step_minutes", self.time_step_minutes, 1440.0),
            ("longest_gap_days", self.longest_gap_days, 36525.0),
            ("z_r_a", self.z_r_a, 1e6),
            ("z_r_b", self.z_r_b, 10.0),
        ):
            if value is not None and not 1 / 60 <= value <= largest:
                raise RefusedInput(
                    f"{name} lies in [1/60, {largest:g}]", came=value, do="correct the prep configuration"
                )

    @property
    def step(self) -> np.timedelta64 | None:
        """Step of the clock, where it is given."""
        if self.time_step_minutes is None:
            return None
        return np.timedelta64(round(self.time_step_minutes * 60), "s")

    @property
    def conversion(self) -> Conversion:
        """The settings that a single frame needs."""
        return Conversion(self.z_r_a, self.z_r_b, self.regrid, self.quality)


def prepare(
    source: str | Path,
    store: str | Path,
    recipe: Recipe,
    *,
    scheduler: str | None = None,
    threads: int | None = None,
    now: np.datetime64 | None = None,
) -> Report:
    """Turn a folder of radar files into a store, or append what is new to one.

    Args:
        source: Folder of radar files, or a Zarr archive.
        store: Zarr store to make or to append to.
        recipe: Settings.
        scheduler: Address of a dask.distributed scheduler; threads of this process where none is given.
        threads: How many; one for each core where none is given.
        now: Frames later than this are refused; the time of this machine where none is given.

    Returns:
        What was written, marked and refused. A frame that cannot be used is refused and the others kept.

    Raises:
        RefusedInput: If the source is missing, no frame can be used, the store holds another grid or another
            time step, or another process writes to it. What was committed before stays in the store.
    """
    began, store = timer.monotonic(), Path(store)
    report = Report(str(source), str(store))
    with lock(store), open_tasks(scheduler, threads=threads) as tasks:
        _refuse_other_recipe(store, recipe)
        files = find_files(source, recipe.pattern, store=store)
        found = _scan(files, recipe, tasks, report)
        entries, clock = _choose(found, store, recipe, now or np.datetime64("now"), report)
        entries = _after_store(entries, store, partial(_name, Path(source)), report)
        report.files = len(files)
        grid = None if store.exists() else _grid_of_most(entries, recipe.conversion, tasks)
        plan = _plan(recipe, clock, grid, len(entries), partial(_name, Path(source)))
        assembly = Assembly(store, plan, tasks, report)
        for batch in _loading(entries, recipe.conversion, tasks):
            assembly.add(batch)
        assembly.finish()
        _finish(store, recipe, report)
    report.seconds = timer.monotonic() - began
    return report


def prepare_arrays(arrays: Iterator[xr.DataArray], store: str | Path, recipe: Recipe) -> Report:
    """As `prepare`, from rain arrays that come in order of time (synthetic rain, another archive).

    Raises:
        RefusedInput: As `prepare`, and if rates are negative or beyond what a store can hold.
    """
    began, store = timer.monotonic(), Path(store)
    report = Report("arrays", str(store))
    with lock(store), open_tasks(threads=1) as tasks:
        _refuse_other_recipe(store, recipe)
        assembly = None
        for array in arrays:
            if recipe.sampling is not None:
                refuse_small_grid(array, recipe.sampling)
            batch = batch_of(array, recipe.quality)
            if assembly is None:
                clock = _clock_of(array, store, recipe)
                assembly = Assembly(store, _plan(recipe, clock, None, 0, _path), tasks, report)
            assembly.add(tasks.submit(lambda: batch))  # noqa: B023 (called before the next one comes)
            if report.refused:
                raise RefusedInput(
                    "a store holds one grid", came=report.refused[0].reason, do="prepare into a new store"
                )
        if assembly is not None:
            assembly.finish()
        _finish(store, recipe, report)
    report.seconds = timer.monotonic() - began
    return report


def _clock_of(array: xr.DataArray, store: Path, recipe: Recipe) -> Clock:
    if store.exists():
        dataset = open_store(store)
        return Clock(clock_step(dataset), dataset["time"].values[0])
    times = array["time"].values
    return Clock(recipe.step or time_step(times), times[0])


def batch_of(array: xr.DataArray, quality: Quality) -> Batch:
    """A rain array as frames ready to be stored."""
    if bool((array < 0).any()) or bool((array > LARGEST_RATE).any()):
        raise RefusedInput(
            f"rain rates in a store lie between 0 and {LARGEST_RATE:g} mm/h",
            came=f"{float(array.min()):g} to {float(array.max()):g}",
            do="cap or repair them before",
        )
    rows, cells, grid = [], [], Grid.of(array)
    for values, time in zip(array.values, array["time"].values, strict=True):
        marks = mark_cells(values, quality)
        entry = Entry(int(time.astype("datetime64[ns]").astype(np.int64)), str(array.name), 0, "array")
        rows.append(Row(entry, summarise(values, marks), grid, Tally()))
        cells.append(sparse(marks))
    return Batch(Head(rows, []), list(pack(array.values)), cells)


def read_latest(
    source: str | Path, recipe: Recipe, *, frames: int, time: np.datetime64 | None = None
) -> xr.DataArray:
    """The last frames of a folder of radar files, as a rain array with the very values a store would hold.

    Args:
        source: Folder of radar files.
        recipe: Settings.
        frames: How many frames.
        time: Time of the last of them; the newest file's where none is given.

    Raises:
        RefusedInput: If the source holds no usable frame, no file has the time, or one of the frames is
            lacking or cannot be read.
    """
    report = Report(str(source), "")
    with open_tasks() as tasks:
        found = _scan(find_files(source, recipe.pattern), recipe, tasks, report)
    entries, clock = _choose(found, None, recipe, np.datetime64("now"), report)
    for refusal in report.refused:
        logger.warning("left out: %s (%s)", refusal.file, refusal.reason)
    times = np.array([entry.stamp for entry in entries])
    last = times[-1] if time is None else time
    if last not in times:
        raise RefusedInput(
            f"--time is the time of a file between {iso(times[0])} and {iso(times[-1])}",
            came=iso(last),
            do="choose the time of a file",
        )
    wanted = last - clock.step * np.arange(frames)
    lacking = np.setdiff1d(wanted, times)
    if lacking.size:
        raise RefusedInput(
            f"a context is {frames} frames every {minutes(clock.step):g} min without a gap up to {iso(last)}",
            came=f"no file of {', '.join(iso(gap) for gap in lacking)}",
            do="choose a time after the gap",
        )
    batch = load([entry for entry in entries if entry.stamp in wanted], recipe.conversion)
    if batch.head.refused:
        raise RefusedInput(
            "every frame of a context can be read", came=batch.head.refused[0].reason, do="fetch it again"
        )
    return _as_rain_array(batch, recipe.about)


def _as_rain_array(batch: Batch, about: About) -> xr.DataArray:
    grid = batch.head.rows[-1].grid
    for row in batch.head.rows:
        if not row.grid.same(grid):
            raise RefusedInput(
                "all frames of a context lie on one grid",
                came=f"{Path(row.entry.path).name} on {row.grid}, the last on {grid}",
                do="narrow the pattern in the prep configuration",
            )
    times = np.array([row.entry.stamp for row in batch.head.rows])
    return rain_on(grid, unpack(np.stack(batch.packed)), times, about)


def _relative(file: str, source: Path) -> str:
    path = Path(file)
    inside = path != source and path.is_relative_to(source)
    return readable_name(str(path.relative_to(source)) if inside else path.name)


def _name(source: Path, entry: Entry) -> str:
    """What a store calls the file of a frame; in a file with many, with the frame's number."""
    return _relative(entry.path, source) + (f"#{entry.number}" if entry.number else "")


def _path(entry: Entry) -> str:
    return entry.path


def _grid_of_most(entries: list[Entry], conversion: Conversion, tasks: Tasks) -> Grid | None:
    """The grid of most of a few frames throughout an archive: the first may be the odd ones."""
    chosen = {round(place) for place in np.linspace(0, len(entries) - 1, min(VOTES, len(entries)))}
    futures = [tasks.submit(load, [entries[n]], conversion) for n in sorted(chosen)]
    grids = [row.grid for future in futures for row in tasks.fetch(future, head_of).rows]
    return most_common_grid(grids) if grids else None


def _scan(files: list[str], recipe: Recipe, tasks: Tasks, report: Report) -> list[Entry]:
    """The frames in some files."""
    parts = [files[first : first + SCAN_FILES] for first in range(0, len(files), SCAN_FILES)]
    futures = [tasks.submit(read_headers, part, recipe.reader) for part in parts]
    entries: list[Entry] = []
    for future in futures:
        some, refused = tasks.fetch(future, tuple)
        entries += some
        report.refuse(refused)
    return entries


def _choose(
    entries: list[Entry], store: Path | None, recipe: Recipe, now: np.datetime64, report: Report
) -> tuple[list[Entry], Clock]:
    """One frame for each time of one clock."""
    stored = np.array([], dtype="datetime64[ns]")
    step = recipe.step
    if store is not None and store.exists():
        dataset = open_store(store)
        stored = dataset["time"].values
        held = clock_step(dataset)
        if step is not None and step != held:
            raise RefusedInput(
                f"a store keeps its time step, here {minutes(held):g} min",
                came=f"time_step_minutes = {minutes(step):g}",
                do="prepare into a new store",
            )
        step = held
    elif not entries:
        reason = f"{report.refused[0].file}: {report.refused[0].reason}" if report.refused else "nothing"
        raise RefusedInput(
            "one or more files can be read", came=f"none of {len(report.refused)}, first {reason}",
            do="look at the report, or correct the pattern and the reader in the prep configuration",
        )  # fmt: skip
    gap = np.timedelta64(round(recipe.longest_gap_days * 86400), "s")
    kept, refused, clock = choose(entries, step=step, stored=stored, now=now, longest_gap=gap)
    report.refuse(refused)
    return kept, clock


def _after_store(
    entries: list[Entry], store: Path, name: Callable[[Entry], str], report: Report
) -> list[Entry]:
    """Frames later than the store's last; earlier ones that it lacks or has from elsewhere are refused."""
    if not store.exists():
        return entries
    stored, frames = open_store(store), open_frames(store)
    times = stored["time"].values.astype("datetime64[ns]").astype(np.int64).tolist()
    held = dict(zip(times, frames["source"].values.tolist(), strict=True)) if frames is not None else {}
    late = "it comes late, before the end of the store: prepare into a new store to include it"
    for entry in entries:
        if entry.time > times[-1]:
            continue
        if entry.time not in held:
            report.refuse([Refusal(entry.path, iso(entry.stamp), late)])
        elif Path(held[entry.time]).name != Path(name(entry)).name:
            other = f"the store holds its time already, from {held[entry.time]}"
            report.refuse([Refusal(entry.path, iso(entry.stamp), other)])
    return [entry for entry in entries if entry.time > times[-1]]


def _refuse_other_recipe(store: Path, recipe: Recipe) -> None:
    """Refuse settings that would make the frames to come different from those in the store."""
    if not store.exists():
        return
    held = json.loads(open_store(store).attrs.get("recipe") or "{}")
    given = json.loads(json.dumps(asdict(recipe)))
    other = [name for name in LASTING if name in held and held[name] != given[name]]
    if other:
        raise RefusedInput(
            f"a store keeps the settings {', '.join(LASTING)} that it was prepared with",
            came=f"another {', another '.join(other)}",
            do="prepare into a new store",
        )


def _plan(recipe: Recipe, clock: Clock, grid: Grid | None, frames: int, name: Callable[[Entry], str]) -> Plan:
    settings = json.dumps(asdict(recipe))

    def make(path: Path, grid: Grid, first: np.datetime64) -> None:
        if recipe.sampling is not None:
            shape = xr.DataArray(np.broadcast_to(np.uint8(0), (grid.y.size, grid.x.size)), dims=("y", "x"))
            refuse_small_grid(shape, recipe.sampling)
        create_as = partial(create, about=recipe.about, layout=recipe.layout, recipe=settings)
        create_as(path, grid, clock=clock, first=first)

    split = partial(split_codes, splits=recipe.splits)
    return Plan(make, split, recipe.quality, name, clock, grid, frames)


def _loading(entries: list[Entry], conversion: Conversion, tasks: Tasks) -> Iterator[Any]:
    """Batches in order, enough of them under way that no worker waits while a shard is committed."""
    ahead: deque[Any] = deque()
    for part in _parts(entries):
        ahead.append(tasks.submit(load, part, conversion))
        if len(ahead) > tasks.workers + 1:
            yield ahead.popleft()
    yield from ahead


def _parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Entries in the portions that one task reads."""
    part: list[Entry] = []
    for _, group in groupby(entries, key=lambda entry: entry.path):
        of_file = list(group)
        if len(of_file) > 1:
            if part:
                yield part
                part = []
            yield from (
                of_file[first : first + LOAD_FRAMES_OF_ONE_FILE]
                for first in range(0, len(of_file), LOAD_FRAMES_OF_ONE_FILE)
            )
            continue
        part += of_file
        if len(part) == LOAD_FRAMES:
            yield part
            part = []
    if part:
        yield part


def _finish(store: Path, recipe: Recipe, report: Report) -> None:
    """Bring the sample index up to date, and say what the store holds."""
    if not store.exists():
        reason = f"{report.refused[0].file}: {report.refused[0].reason}" if report.refused else "no frame"
        raise RefusedInput(
            "one or more frames can be used", came=f"none of {len(report.refused)}, first {reason}",
            do="look at the files, or correct the prep configuration",
        )  # fmt: skip
    if recipe.sampling is not None:
        report.windows = write_samples(store, recipe.sampling)
    dataset = open_store(store)
    times = dataset["time"].values
    report.frames, report.first, report.last = times.size, iso(times[0]), iso(times[-1])
    step = clock_step(dataset)
    report.time_step_minutes = minutes(step)
    report.grid = str(Grid.of(dataset["rainfall_rate"]))
    report.gaps = gaps_of(dataset["missing_times"].values, step)
