"""Fields made of an ensemble: pure functions of all its members at one lead time, or of all lead times.

Missing is never zero: a cell has a mean, percentiles and probabilities of the members that have a value
there, and none where no member has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyproj
import xarray as xr

from data_prep.schema import RefusedInput, crs_of
from nowcast.verification import matched_mean


class Members:
    """All members of an ensemble at one time: rates, or amounts since the reference time.

    Most cells of a radar grid hold no data or no rain. What is made of the members is worked out in the
    others alone, and the members are sorted once.

    Args:
        values: mm/h or mm, (M, H, W), float32, NaN where a member has no value.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.shape = values.shape[1:]
        flat = values.reshape(len(values), -1)
        highest = np.fmax.reduce(flat, axis=0)
        self._dry = np.where(np.isnan(highest), np.float32(np.nan), np.float32(0))
        self._complete = np.isfinite(np.add.reduce(flat, axis=0))
        self._wet = np.flatnonzero(highest > 0)
        self._rates = flat[:, self._wet]

    @cached_property
    def _count(self) -> np.ndarray:
        """Members with a value in each wet cell."""
        return np.isfinite(self._rates).sum(axis=0)

    @cached_property
    def _ordered(self) -> np.ndarray:
        """Ascending values of each wet cell, (cell, M), the missing ones last."""
        return np.sort(self._rates.T, axis=1)

    def mean(self) -> np.ndarray:
        """Mean of the members that have a value, (H, W)."""
        return self._field(np.nansum(self._rates, axis=0) / self._count)

    def probability_matched_mean(self) -> np.ndarray:
        """As `nowcast.verification.matched_mean`, (H, W); NaN where any member has no value."""
        field = np.where(self._complete, self._dry, np.float32(np.nan))
        if self._wet.size:
            field[self._wet] = matched_mean.probability_matched_mean(self._rates[:, None])[0]
        return field.reshape(self.shape)

    def percentile(self, percentile: float) -> np.ndarray:
        """Percentile of the members that have a value, between two of them linear, (H, W)."""
        place = percentile / 100 * (self._count - 1)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, self._count - 1)
        cells = np.arange(self._wet.size)
        low, high = self._ordered[cells, below], self._ordered[cells, above]
        return self._field(low + (high - low) * (place - below).astype(np.float32))

    def probability(self, threshold: float) -> np.ndarray:
        """Share of the members with a value that reach a threshold above 0, (H, W)."""
        return self._field((self._rates >= threshold).sum(axis=0) / self._count)

    def _field(self, of_wet_cells: np.ndarray) -> np.ndarray:
        field = self._dry.copy()
        field[self._wet] = of_wet_cells
        return field.reshape(self.shape)


@dataclass(frozen=True)
class Single:
    """A single forecast made of all members.

    Attributes:
        title: What a map calls it.
        of_members: From the members at one time to the forecast (H, W), mm/h.
        attributes: Of its variable, beside those of the members.
    """

    title: str
    of_members: Callable[[Members], np.ndarray]
    attributes: Mapping[str, str]


SINGLES = {
    "mean": Single(
        "mean",
        Members.mean,
        {
            "long_name": "ensemble mean of the rain rate",
            "cell_methods": "time: point",
            "comment": "Mean of the members that have a value in the cell. A smooth field: compared with the "
            "members it rains in more cells, and less hard.",
        },
    ),
    "probability_matched_mean": Single(
        "probability-matched mean",
        Members.probability_matched_mean,
        {
            "long_name": "probability-matched ensemble mean of the rain rate",
            "cell_methods": "time: point",
            "comment": "At each time, the ranks of the ensemble mean with the rain rates of all M members in "
            "all cells: of the sorted rates the middle one of each M. Missing where any member is. "
            "Ebert 2001, doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2",
        },
    ),
}
"""By name: as `nowcast.read_forecast` takes it, and the variables of a file end in it."""


def single(ensemble: xr.DataArray, name: str) -> xr.DataArray:
    """A single forecast of an ensemble, worked out one lead time after another.

    Args:
        ensemble: mm/h, (realization, lead_time, y, x).
        name: Of `SINGLES`.

    Returns:
        mm/h, (lead_time, y, x).
    """
    fields = []
    for lead in range(ensemble.sizes["lead_time"]):
        members = ensemble.isel(lead_time=lead).transpose("realization", "y", "x")
        fields.append(SINGLES[name].of_members(Members(members.values)))
    first = ensemble.isel(realization=0, drop=True).transpose("lead_time", "y", "x")
    told = {key: text for key, text in SINGLES[name].attributes.items() if key != "cell_methods"}
    return first.copy(data=np.stack(fields)).rename(f"{ensemble.name}_{name}").assign_attrs(told)


def probability_matched_mean(ensemble: xr.DataArray) -> xr.DataArray:
    """One forecast of an ensemble: rain where its mean has it, as hard as in the members (Ebert 2001).

    See `nowcast.verification.matched_mean`.

    Args:
        ensemble: mm/h, (realization, lead_time, y, x); read one lead time after another.

    Returns:
        mm/h, (lead_time, y, x), NaN where any member has no value. Of one member, that member.
    """
    return single(ensemble, "probability_matched_mean")


def exceedance_probability(ensemble: xr.DataArray, threshold: float) -> xr.DataArray:
    """Fraction of the members with a value that reach a threshold; NaN where no member has one.

    Args:
        ensemble: mm/h, (realization, lead_time, y, x).
        threshold: mm/h.

    Returns:
        0 to 1, (lead_time, y, x).
    """
    probability = (ensemble >= threshold).where(ensemble.notnull()).mean("realization")
    return probability.rename("probability_of_rainfall_rate_above_threshold").assign_attrs(
        long_name=f"probability of rain of {threshold:g} mm/h or more", units="1", threshold=threshold
    )


def at_lead_time(forecast: xr.DataArray, lead_minutes: int) -> xr.DataArray:
    """The part of a forecast at one lead time.

    Raises:
        RefusedInput: If the forecast does not have it.
    """
    leads = forecast["lead_time"].values / np.timedelta64(1, "m")
    if lead_minutes not in leads:
        raise RefusedInput(
            f"--lead_minutes is one of {', '.join(f'{lead:g}' for lead in leads)}",
            came=lead_minutes,
            do="choose one of them",
        )
    return forecast.isel(lead_time=int(np.flatnonzero(leads == lead_minutes)[0]))


def box_of_data(fields: xr.DataArray, *, margin: int = 0) -> dict[str, slice]:
    """The smallest box of a grid that holds all cells with data, and some rows and columns around it.

    Args:
        fields: (..., y, x), NaN where there is no data.
        margin: Rows and columns around the box.

    Returns:
        Slices of ``y`` and ``x`` for `isel`; all of a grid without data.
    """
    seen = np.isfinite(fields.transpose(..., "y", "x").values).reshape(-1, *fields.shape[-2:]).any(axis=0)
    box = {}
    for axis, cells in (("y", np.flatnonzero(seen.any(axis=1))), ("x", np.flatnonzero(seen.any(axis=0)))):
        ends = (max(cells[0] - margin, 0), cells[-1] + 1 + margin) if cells.size else (0, None)
        box[axis] = slice(*ends)
    return box


def cells_at(
    grid: xr.DataArray | xr.Dataset, longitudes: Sequence[float], latitudes: Sequence[float]
) -> np.ndarray:
    """Row and column of the cells that places lie in, (place, 2); -1 outside the grid.

    Args:
        grid: With even axes ``x`` and ``y`` and the coordinate ``crs``.
        longitudes: Degrees east, WGS 84.
        latitudes: Degrees north.
    """
    crs = crs_of(grid)
    to_map = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    found = dict(zip(("x", "y"), map(np.asarray, to_map.transform(longitudes, latitudes)), strict=True))
    if crs.is_geographic:  # on the same side of the antimeridian as the grid
        middle = float(grid["x"].values[[0, -1]].mean())
        found["x"] = middle + (found["x"] - middle + 180) % 360 - 180
    cells = []
    for name in ("y", "x"):
        axis = grid[name].values
        steps = (found[name] - axis[0]) / ((axis[-1] - axis[0]) / (axis.size - 1))
        inside = (steps >= -0.5) & (steps < axis.size - 0.5)  # infinite where the map has no such place
        cells.append(np.where(inside, np.floor(np.where(inside, steps, 0) + 0.5), -1).astype(int))
    pairs = np.column_stack(cells)
    return np.where((pairs < 0).any(axis=1, keepdims=True), -1, pairs)


class RainStart:
    """When rain begins in each cell: the first lead time at which enough of the members have it.

    Args:
        shape: Of the grid, rows and columns.
        threshold: Of rain, mm/h, above 0.
        probability: Share of the members with a value that has to reach it.
    """

    MEANINGS = ("no_data", "no_rain_expected", "raining_now", "rain_later", "no_rain_as_far_as_known")
    """What the status says, by its code; of a cell that has data at some lead times alone, the last."""

    def __init__(self, shape: tuple[int, int], *, threshold: float, probability: float) -> None:
        self.threshold, self.probability = threshold, probability
        self._first, self._leads = np.full(shape, -1), 0
        self._seen, self._whole = np.zeros(shape, bool), np.ones(shape, bool)

    def add(self, members: Members) -> None:
        """Take the members at the next lead time."""
        probability = members.probability(self.threshold)
        known = np.isfinite(probability)
        self._first[(self._first < 0) & (probability >= self.probability)] = self._leads
        self._seen |= known
        self._whole &= known
        self._leads += 1

    def result(self, lead_minutes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """When rain starts, in minutes, NaN where it does not, and the status.

        Args:
            lead_minutes: Of the lead times that were taken.
        """
        begins = self._first >= 0
        start = np.where(begins, lead_minutes.astype(np.float32)[self._first], np.float32(np.nan))
        dry = np.where(self._whole, 1, np.where(self._seen, 4, 0))
        return start, np.where(begins, np.where(self._first == 0, 2, 3), dry).astype(np.int8)
