"""Files become frames as a store holds them: read, converted, regridded, marked and packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyproj
import xarray as xr

from data_prep import readers
from data_prep.grid import Regrid, regrid
from data_prep.quality import WET_RATE, FrameSummary, Quality, mark_cells, refuse_senseless, summarise
from data_prep.rain_rate import to_rain_rate
from data_prep.schema import PACKED_MISSING, RefusedInput, iso, map_coordinates, rain_array_on
from data_prep.sources import Entry, Refusal
from data_prep.store import About, Grid, pack


@dataclass(frozen=True)
class Conversion:
    """How a frame of a file becomes one of the store.

    Attributes:
        z_r_a: Coefficient a of Z = a R^b, for reflectivity.
        z_r_b: Exponent b of Z = a R^b.
        regrid: How frames come onto the grid of the store.
        quality: What is marked, capped and masked.
    """

    z_r_a: float = 200.0
    z_r_b: float = 1.6
    regrid: Regrid = field(default_factory=Regrid)
    quality: Quality = field(default_factory=Quality)


class Tally(NamedTuple):
    """Sums over frames as they were read, before regridding and capping.

    Attributes:
        cells: All cells.
        observed: Cells that hold data.
        wet: Of these, cells with `quality.WET_RATE` or more.
        largest: Largest rate, mm/h.
    """

    cells: int = 0
    observed: int = 0
    wet: int = 0
    largest: float = 0.0

    def __add__(self, other: tuple) -> Tally:
        """The tally of both."""
        cells, observed, wet, largest = other
        return Tally(self.cells + cells, self.observed + observed, self.wet + wet, max(self.largest, largest))


class Row(NamedTuple):
    """What is known of one frame beside its values.

    Attributes:
        entry: Where it came from.
        summary: What is stored of it and compared with the next.
        grid: Its cells; frames of one batch and grid share it.
        tally: Of the frame as it was read.
    """

    entry: Entry
    summary: FrameSummary
    grid: Grid
    tally: Tally


@dataclass
class Head:
    """What is known of some frames without their values.

    Attributes:
        rows: One for each frame.
        refused: What could not be read.
    """

    rows: list[Row]
    refused: list[Refusal]


@dataclass
class Batch:
    """Some frames, ready to be stored.

    Attributes:
        head: All but the values.
        packed: For each frame uint16, shape (y, x), as `store.pack` makes it; nothing once it is written.
        cells: For each frame the flat indices of marked cells, and their marks.
    """

    head: Head
    packed: list[np.ndarray]
    cells: list[tuple[np.ndarray, np.ndarray]]


class _Frame(NamedTuple):
    row: Row
    packed: np.ndarray
    cells: tuple[np.ndarray, np.ndarray]


def head_of(batch: Batch) -> Head:
    """A batch without its values."""
    return batch.head


def load(entries: list[Entry], conversion: Conversion) -> Batch:
    """Read frames and convert them; what cannot be read is refused.

    Args:
        entries: Frames in order of time.
        conversion: How.
    """
    refused: list[Refusal] = []
    frames = list(_frames(entries, conversion, refused))
    head = Head([frame.row for frame in frames], refused)
    return Batch(head, [frame.packed for frame in frames], [frame.cells for frame in frames])


def most_common_grid(grids: list[Grid]) -> Grid:
    """The grid that most of some grids are the same as."""
    return max(grids, key=lambda grid: sum(grid.same(other) for other in grids))


def _frames(entries: list[Entry], conversion: Conversion, refused: list[Refusal]) -> Iterator[_Frame]:
    """The frames of some entries, file by file; what fails is added to ``refused``."""
    last: Grid | None = None
    for path, group in groupby(entries, key=lambda entry: entry.path):
        left = list(group)
        while left:
            for entry, result in _read(path, left, conversion):
                if isinstance(result, str):
                    refused.append(Refusal(path, iso(entry.stamp), result))
                else:
                    # Frames of one grid share it, so that grids are compared once.
                    last = last if last is not None and last.same(result.row.grid) else result.row.grid
                    yield result._replace(row=result.row._replace(grid=last))
                left = left[1:]


def _read(path: str, entries: list[Entry], conversion: Conversion) -> Iterator[tuple[Entry, _Frame | str]]:
    """The frames of one file up to the first that fails, and why it does."""
    entry = entries[0]
    try:
        reader = readers.get_reader(entry.reader)
        frames = iter(reader.read_frames(Path(path), [e.number for e in entries]))
        for entry in entries:
            yield entry, _convert(next(frames), entry, conversion)
    except RefusedInput as error:
        yield entry, str(error)
    except Exception as error:  # noqa: BLE001 (one bad file must not end the preparation of a million)
        yield entry, f"the reader failed: {type(error).__name__}: {error}"


def _convert(frame: xr.DataArray, entry: Entry, conversion: Conversion) -> _Frame:
    name = Path(entry.path).name
    if frame["time"].values.astype("datetime64[ns]") != entry.stamp:
        raise RefusedInput(
            "a file keeps its time while it is prepared",
            came=f"{name} of {iso(entry.stamp)}, now {iso(frame['time'].values)}",
            do="prepare it again",
        )
    read = to_rain_rate(frame, z_r_a=conversion.z_r_a, z_r_b=conversion.z_r_b)
    # Before regridding, in whose means a negative or infinite rate would be lost.
    refuse_senseless(read.values, name)
    rate = regrid(read, conversion.regrid)
    values = rate.values
    if rate is not read:
        refuse_senseless(values, f"{name}, regridded")
    index = rate.coords["quality_index"].values if "quality_index" in rate.coords else None
    cells = mark_cells(values, conversion.quality, index)
    summary = summarise(values, cells)
    tally = _tally(summary, values.size) if rate is read else _tally_of(read.values)
    marked, marks = sparse(cells)
    packed = pack(values, cap=conversion.quality.largest_rate)
    if conversion.quality.mask:
        packed.ravel()[marked[(marks & conversion.quality.mask_bits) != 0]] = PACKED_MISSING
    return _Frame(Row(entry, summary, Grid.of(rate), tally), packed, (marked, marks))


def rain_on(grid: Grid, values: np.ndarray, times: np.ndarray, about: About) -> xr.DataArray:
    """Rates (time, y, x), mm/h, as a rain array on a grid, which says whose data they are."""
    coordinates = map_coordinates(grid.x, grid.y, pyproj.CRS.from_wkt(grid.crs_wkt))
    told = {"institution": about.institution, "license": about.license, "radar": about.title}
    return rain_array_on(values, time=times, coordinates=coordinates).assign_attrs(told)


def sparse(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of marked cells and their marks: few cells are."""
    marked = np.flatnonzero(cells.view(bool)).astype(np.int32)
    return marked, cells.ravel()[marked]


def _tally(summary: FrameSummary, cells: int) -> Tally:
    observed = round(summary.observed * cells)
    return Tally(cells, observed, round(summary.wet * observed), summary.largest)


def _tally_of(rate: np.ndarray) -> Tally:
    observed = rate.size - int(np.count_nonzero(np.isnan(rate)))
    filled = np.fmax(rate, np.float32(0))
    wet = int(np.count_nonzero(filled >= np.float32(WET_RATE)))
    return Tally(rate.size, observed, wet, float(filled.max()))
