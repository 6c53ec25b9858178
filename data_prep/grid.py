"""The grid of the store: frames of rain rate come onto it by blocks, by nearest cells or by area means.

Averages are of rates in mm/h, over the cells that hold data. What a grid needs is worked out once and kept,
so that a frame costs one pass over its cells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyproj
import scipy.sparse
import xarray as xr
from pyproj.exceptions import CRSError, ProjError

from data_prep.schema import RefusedInput, map_coordinates

Method = Literal["identity", "block_mean", "nearest", "mean"]
LARGEST_TARGET = 2**27
"""Cells: four times the United States at 1 km. Indices of cells are int32."""
EVEN_TOLERANCE = 0.1
"""Share of a cell by which a centre may miss its place: in float32 degrees a hundredth is off by 0.3 %."""
EDGE_TOLERANCE = 1e-6
"""Share of a cell within which a centre lies on an edge, and so in the cell east or south of it."""

# Cells worked on at once: small enough for the cache of the processor, and for memory with PROJ's float64.
_CELLS_OF_A_SUM = 131072
_CELLS_OF_A_PROJECTION = 1_000_000
_making_plan = threading.Lock()


@dataclass(frozen=True)
class Regrid:
    """How frames come onto the grid of the store.

    Attributes:
        method: ``identity`` keeps the grid of the files. ``block_mean`` averages blocks of cells; rows and
            columns at the south and east that do not fill a block are cut. ``nearest`` takes the source cell
            in which the centre of a target cell lies. ``mean`` averages the source cells whose centres lie in
            a target cell, with equal weights; where there is none, it takes the nearest.
        factor: For ``block_mean``: cells of the source along each side of a target cell.
        crs: For ``nearest`` and ``mean``: target CRS as PROJ knows it (EPSG:3035, +proj=...), projected and
            in metres.
        spacing: For ``nearest`` and ``mean``: side of a target cell, m.
        bounds: For ``nearest`` and ``mean``: outer edges of the target, west, south, east, north in m, whole
            cells apart; those of the source, widened to multiples of ``spacing``, where none are given.
        min_observed: For ``block_mean`` and ``mean``: least share of a target cell's source cells that hold
            data, for it to hold data. At 0 one is enough.
    """

    method: Method = "identity"
    factor: int = 1
    crs: str | None = None
    spacing: float | None = None
    bounds: tuple[float, float, float, float] | None = None
    min_observed: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise _refused(f"method is one of {', '.join(get_args(Method))}", self.method)
        if not 0 <= self.min_observed <= 1:
            raise _refused("min_observed lies in [0, 1]", self.min_observed)
        if (self.method == "block_mean") != (self.factor != 1) or self.factor < 1:
            raise _refused("factor is 2 or more for block_mean, and 1 otherwise", self.factor)
        if self.method in ("identity", "block_mean"):
            if (self.crs, self.spacing, self.bounds) != (None, None, None):
                raise _refused("crs, spacing and bounds belong to nearest and mean", f"method {self.method}")
            return
        if self.crs is None or self.spacing is None or not 0 < self.spacing < np.inf:
            came = f"crs {self.crs}, spacing {self.spacing}"
            raise _refused(f"{self.method} needs a crs and a spacing above 0 m", came)
        _refuse_target_crs(self.crs)
        if self.bounds is not None:
            # A list from a file cannot be a key of a cache.
            object.__setattr__(self, "bounds", tuple(float(edge) for edge in self.bounds))
            _refuse_bounds(self.bounds, self.spacing)


def regrid(frame: xr.DataArray, settings: Regrid) -> xr.DataArray:
    """Bring a frame onto the grid of the store.

    Args:
        frame: Rain rate, mm/h, NaN where there is no data, dims (y, x), as readers and `to_rain_rate` make
            it. Its coordinate ``quality_index`` is treated alike, over the cells where it is known.
        settings: How.

    Returns:
        mm/h, float32, dims (y, x), on spatial coordinates that all frames of one grid share; the frame itself
        for ``identity``.

    Raises:
        RefusedInput: If the result would lie on a grid in degrees, the grid of the frame is uneven, or its
            and the target's do not fit together.
    """
    if settings.method in ("identity", "block_mean") and frame["x"].attrs.get("units") != "m":
        raise RefusedInput(
            "a store lies on a projected grid in metres",
            came=f"x in {frame['x'].attrs.get('units')} and regrid.method {settings.method}",
            do="set regrid in the prep configuration: method mean, with a crs and a spacing",
        )
    if settings.method == "identity":
        return frame
    source = _grid_of(frame)
    with _making_plan:  # so that a second thread waits for the first one's instead of making its own
        plan = _plan(source, settings)
    kept: dict = {name: c.variable for name, c in frame.coords.items() if c.ndim == 0}
    kept.update(plan.coordinates)
    if "quality_index" in frame.coords:
        index = frame.coords["quality_index"]
        kept["quality_index"] = xr.DataArray(plan.move(index.values), dims=("y", "x"), attrs=index.attrs)
    bare = xr.DataArray(plan.move(frame.values), dims=("y", "x"), name=frame.name, attrs=frame.attrs)
    return bare.assign_coords(kept)


class _Grid(NamedTuple):
    """An evenly spaced grid; pairs are y before x.

    Attributes:
        first: Centre of the first cell, in the unit of the CRS.
        step: From one centre to the next; negative along y, because rows begin in the north.
        shape: Cells.
        crs_wkt: The CRS.
    """

    first: tuple[float, float]
    step: tuple[float, float]
    shape: tuple[int, int]
    crs_wkt: str

    @property
    def crs(self) -> pyproj.CRS:
        return pyproj.CRS.from_wkt(self.crs_wkt)

    def centres(self, axis: int) -> np.ndarray:
        return self.first[axis] + self.step[axis] * np.arange(self.shape[axis])

    def edges(self, axis: int) -> np.ndarray:
        return self.first[axis] + self.step[axis] * (np.arange(self.shape[axis] + 1) - 0.5)

    def border(self) -> tuple[np.ndarray, np.ndarray]:
        """All outer corners of cells, right round: x and y."""
        y, x = self.edges(0), self.edges(1)
        return (
            np.concatenate([x, np.full(y.size, x[-1]), x, np.full(y.size, x[0])]),
            np.concatenate([np.full(x.size, y[0]), y, np.full(x.size, y[-1]), y]),
        )

    def bands(self) -> Iterator[slice]:
        """Rows, some at a time."""
        height = max(1, _CELLS_OF_A_PROJECTION // self.shape[1])
        return (slice(top, min(top + height, self.shape[0])) for top in range(0, self.shape[0], height))


class _Plan(NamedTuple):
    """The coordinates of a target, and what turns values of the source, (Y, X), into float32 values of it."""

    coordinates: dict[str, xr.DataArray]
    move: Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=4)
def _plan(source: _Grid, settings: Regrid) -> _Plan:
    """Worked out once for an archive. For the United States, 0.01 degrees to 1 km, it takes 1 GB."""
    try:
        target = (
            _coarser(source, settings.factor)
            if settings.method == "block_mean"
            else _target(source, settings)
        )
        coordinates = map_coordinates(target.centres(1), target.centres(0), target.crs)
        for name in ("lat", "lon"):
            # Frames share these arrays.
            coordinates[name].values.flags.writeable = False
        return _Plan(coordinates, _mover(source, target, settings))
    except ProjError as error:
        raise RefusedInput(
            "PROJ can bring the grid of the frames to regrid.crs", came=error, do="choose another crs"
        ) from error


def _mover(source: _Grid, target: _Grid, settings: Regrid) -> Callable[[np.ndarray], np.ndarray]:
    if settings.method == "block_mean":
        least = float(_least_observed(np.array(settings.factor**2), settings.min_observed))
        return partial(_block_mean, factor=settings.factor, least=least)
    if settings.method == "nearest":
        return partial(_take, cells=_nearest_cells(source, target), shape=target.shape)
    matrix = _cells_within(source, target)
    least_observed = _least_observed(np.diff(matrix.indptr), settings.min_observed)
    return partial(_mean, matrix=matrix, least=least_observed, shape=target.shape)


def _least_observed(cells: np.ndarray, share: float) -> np.ndarray:
    """How many of so many source cells must hold data, one or more, float32."""
    least = cells.astype(np.float32)
    least *= np.float32(share)
    least -= np.float32(1e-4)  # 10 cells of which 0.3 are to hold data are 3, however 0.3 is rounded
    return np.maximum(np.ceil(least, out=least), 1, out=least)


def _block_mean(values: np.ndarray, *, factor: int, least: float) -> np.ndarray:
    """Means of factor x factor blocks, NaN where fewer than `least` cells hold data."""
    rows, columns = (size // factor for size in values.shape)
    result = np.empty((rows, columns), dtype=np.float32)
    height = max(1, _CELLS_OF_A_SUM // (factor * values.shape[1]))
    for top in range(0, rows, height):
        band = values[top * factor : min(top + height, rows) * factor, : columns * factor]
        missing = np.isnan(band)
        if missing.any():
            band = np.where(missing, np.float32(0), band)
            count = factor**2 - _block_sum(missing.view(np.uint8), factor, np.min_scalar_type(factor**2))
            mean = _block_sum(band, factor, np.float32) / np.maximum(count, 1)
            mean[count < least] = np.nan
        else:
            mean = _block_sum(band, factor, np.float32) / np.float32(factor**2)
        result[top : top + height] = mean
    return result


def _block_sum(values: np.ndarray, factor: int, dtype: np.typing.DTypeLike) -> np.ndarray:
    by_rows = values.reshape(-1, factor, values.shape[1]).sum(axis=1, dtype=dtype)
    total = by_rows[:, ::factor].copy()
    for offset in range(1, factor):
        total += by_rows[:, offset::factor]
    return total


def _take(values: np.ndarray, *, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The values of the source cells of these flat indices, NaN at -1."""
    result = values.ravel().take(cells, mode="clip").astype(np.float32, copy=False)
    result[cells < 0] = np.nan
    return result.reshape(shape)


def _mean(
    values: np.ndarray, *, matrix: scipy.sparse.csr_array, least: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Means over the source cells in each row of the matrix, NaN where fewer than `least` hold data."""
    flat = values.ravel().astype(np.float32, copy=False)
    missing = np.isnan(flat)
    total = matrix @ np.where(missing, np.float32(0), flat)
    count = matrix @ (~missing).astype(np.float32)  # exact below 2^24 cells
    enough = count >= least
    np.divide(total, count, out=total, where=enough)
    total[~enough] = np.nan
    return total.reshape(shape)


def _cells_within(source: _Grid, target: _Grid) -> scipy.sparse.csr_array:
    """Matrix (target cells, source cells), float32: 1 where a target cell is the mean of a source cell."""
    size = target.shape[0] * target.shape[1]
    to_target = pyproj.Transformer.from_crs(source.crs, target.crs, always_xy=True)
    within = np.concatenate([_locate(source, rows, target, to_target) for rows in source.bands()])
    empty = np.ones(size + 1, dtype=bool)
    empty[within] = False  # -1, outside, is the one too many
    found = within >= 0
    rows, columns = [within[found]], [np.flatnonzero(found).astype(np.int32)]
    del within, found
    to_source = pyproj.Transformer.from_crs(target.crs, source.crs, always_xy=True)
    for band in target.bands():
        start, stop = band.start * target.shape[1], band.stop * target.shape[1]
        unfilled = np.flatnonzero(empty[start:stop])
        if unfilled.size:
            nearest = _locate(target, band, source, to_source)[unfilled]
            rows.append((start + unfilled[nearest >= 0]).astype(np.int32))
            columns.append(nearest[nearest >= 0])
    row, column = np.concatenate(rows), np.concatenate(columns)
    del rows, columns, empty
    _refuse_apart(row.size)
    ones = np.ones(row.size, dtype=np.float32)
    pairs = scipy.sparse.coo_array((ones, (row, column)), shape=(size, source.shape[0] * source.shape[1]))
    pairs.has_canonical_format = True  # no pair comes twice, which would else be looked for
    return pairs.tocsr()


def _nearest_cells(source: _Grid, target: _Grid) -> np.ndarray:
    """Flat index of the source cell nearest to each target cell, int32; -1 outside the source."""
    to_source = pyproj.Transformer.from_crs(target.crs, source.crs, always_xy=True)
    cells = np.concatenate([_locate(target, rows, source, to_source) for rows in target.bands()])
    _refuse_apart(int(np.count_nonzero(cells >= 0)))
    return cells


def _locate(grid: _Grid, rows: slice, onto: _Grid, transformer: pyproj.Transformer) -> np.ndarray:
    """In which cell of another grid the centres of some rows lie: flat indices, int32, -1 outside."""
    x, y = transformer.transform(*np.meshgrid(grid.centres(1), grid.centres(0)[rows]))
    with np.errstate(invalid="ignore"):  # beyond the horizon of a projection x and y are inf
        if onto.crs.is_geographic:
            # Longitudes may run from 0 to 360 in the one and from -180 to 180 in the other.
            middle = onto.first[1] + onto.step[1] * (onto.shape[1] - 1) / 2
            x = (x - middle + 180) % 360 - 180 + middle
        row, column = (
            np.floor((values - onto.first[axis]) / onto.step[axis] + 0.5 + EDGE_TOLERANCE)
            for axis, values in enumerate((y, x))
        )
        inside = (row >= 0) & (row < onto.shape[0]) & (column >= 0) & (column < onto.shape[1])
        return np.where(inside, row * onto.shape[1] + column, -1).astype(np.int32).ravel()


def _grid_of(frame: xr.DataArray) -> _Grid:
    if frame.dims != ("y", "x"):
        raise RefusedInput("a frame has dims (y, x)", came=frame.dims, do="correct the reader")
    first, step = [], []
    for name in ("y", "x"):
        values = frame[name].values.astype(np.float64)
        spacing = (values[-1] - values[0]) / max(values.size - 1, 1)
        miss = np.abs(values - values[0] - spacing * np.arange(values.size)).max()
        if not miss <= EVEN_TOLERANCE * abs(spacing) or spacing == 0:
            raise RefusedInput(
                "the cells of a frame are evenly spaced, two or more each way",
                came=f"{values.size} along {name}, up to {miss:g} out of place at a spacing of {spacing:g}",
                do="correct the reader",
            )
        first.append(float(values[0]))
        step.append(float(spacing))
    shape = (frame.sizes["y"], frame.sizes["x"])
    return _Grid((first[0], first[1]), (step[0], step[1]), shape, frame.coords["crs"].attrs["crs_wkt"])


def _coarser(source: _Grid, factor: int) -> _Grid:
    rows, columns = (size // factor for size in source.shape)
    if not rows or not columns:
        raise _refused("factor is not larger than the frame", f"{factor} for {source.shape} cells")
    y, x = (first + step * (factor - 1) / 2 for first, step in zip(source.first, source.step, strict=True))
    return _Grid((y, x), (source.step[0] * factor, source.step[1] * factor), (rows, columns), source.crs_wkt)


def _target(source: _Grid, settings: Regrid) -> _Grid:
    assert settings.crs is not None
    assert settings.spacing is not None
    _refuse_antimeridian(source)
    crs, spacing = pyproj.CRS.from_user_input(settings.crs), settings.spacing
    west, south, east, north = settings.bounds or _extent(source, crs, spacing)
    rows, columns = round((north - south) / spacing), round((east - west) / spacing)
    if rows * columns > LARGEST_TARGET:
        raise _refused(
            f"the target has at most {LARGEST_TARGET} cells", f"{rows} x {columns} of {spacing:g} m"
        )
    return _Grid(
        (north - spacing / 2, west + spacing / 2), (-spacing, spacing), (rows, columns), crs.to_wkt()
    )


def _extent(source: _Grid, crs: pyproj.CRS, spacing: float) -> tuple[float, float, float, float]:
    """West, south, east, north of the source in another CRS, widened to multiples of the spacing."""
    x, y = pyproj.Transformer.from_crs(source.crs, crs, always_xy=True).transform(*source.border())
    if not np.isfinite([x, y]).all():
        raise _refused("bounds are given where the CRS does not reach all round the frame", "none")
    low, high = np.array([x.min(), y.min()]) / spacing, np.array([x.max(), y.max()]) / spacing
    west, south = np.floor(low + EDGE_TOLERANCE) * spacing
    east, north = np.ceil(high - EDGE_TOLERANCE) * spacing
    return west, south, east, north


def _refuse_antimeridian(source: _Grid) -> None:
    crs = source.crs
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    longitude = (to_degrees.transform(*source.border())[0] + 180) % 360 - 180
    if not np.ptp(longitude) <= 180:
        raise RefusedInput(
            "a grid to be reprojected spans less than half the globe and does not cross the 180th meridian",
            came=f"longitudes {longitude.min():.2f} to {longitude.max():.2f}",
            do="set regrid.method to block_mean or identity, or cut the frames",
        )


def _refuse_apart(common: int) -> None:
    if not common:
        raise _refused("the target lies where the frames are", "no common cell")


def _refuse_target_crs(text: str) -> None:
    try:
        crs = pyproj.CRS.from_user_input(text)
    except CRSError as error:
        raise _refused("crs is one that PROJ knows", error) from error
    units = {axis.unit_name for axis in crs.axis_info}
    if not crs.is_projected or units != {"metre"}:
        raise _refused("crs is projected and in metres", f"{text} in {', '.join(sorted(units))}")


def _refuse_bounds(bounds: tuple[float, ...], spacing: float) -> None:
    if len(bounds) == 4 and np.isfinite(bounds).all():
        cells = np.array([bounds[2] - bounds[0], bounds[3] - bounds[1]]) / spacing
        if (cells > 0.5).all() and (np.abs(cells - cells.round()) <= EDGE_TOLERANCE * cells).all():
            return
    raise _refused(f"bounds are west, south, east, north in m, whole cells of {spacing:g} m apart", bounds)


def _refused(rule: str, came: object) -> RefusedInput:
    return RefusedInput(f"regrid: {rule}", came=came, do="correct regrid in the prep configuration")
