"""Sums over single cells: errors, CRPS, events, ranks, intensities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nowcast.verification.arrays import (
    Array,
    as_numpy,
    cells_of,
    copied,
    device_of,
    like,
    namespace,
    places_of,
    sort_members,
)
from nowcast.verification.crps import crps_parts


@dataclass(frozen=True)
class CellSums:
    """What one pass over the cells gives.

    Attributes:
        members: M.
        sums: By name, as `nowcast.verification.sums` lists them.
        mean: Ensemble mean, (H, W), mm/h; 0 where the mask is not.
        counts: Members at or above each threshold, (threshold, H, W), whole numbers; 0 where the mask is not.
    """

    members: int
    sums: dict[str, np.ndarray]
    mean: Array
    counts: Array


def cell_sums(
    members: Array,
    observed: Array,
    mask: Array,
    *,
    thresholds: Sequence[float],
    intensities: Sequence[float],
    seed: int,
) -> CellSums:
    """One pass over the cells of one forecast, some thousands at a time.

    Args:
        members: mm/h, (M, H, W), floating; any value outside the mask.
        observed: mm/h, (H, W), of the same type.
        mask: True where the cell counts, (H, W).
        thresholds: mm/h; an event is a rate of this or more.
        intensities: Lower edges of the bins of the intensity histogram, mm/h, ascending.
        seed: Of the draw that ranks the observation among members of the same value.
    """
    rows, truth = [member.reshape(-1) for member in members], observed.reshape(-1)
    mean = namespace(members).zeros_like(truth)
    counts = _zeros(members, (len(thresholds), truth.shape[0]), members.shape[0])
    draws = np.random.default_rng(seed)
    totals: dict[str, np.ndarray] = {}
    for cells in cells_of(mask):
        block = _Block(sort_members([copied(row[cells]) for row in rows]), truth[cells])
        above = {level: block.members_above(level) for level in {*thresholds, *intensities}}
        events, bins = ({level: above[level] for level in levels} for levels in (thresholds, intensities))
        found = block.errors() | block.crps(thresholds) | block.ranks(draws)
        found |= block.events(events) | block.histograms(bins)
        for name, value in found.items():
            totals[name] = totals[name] + value if name in totals else value
        mean[cells] = block.mean
        for number, level in enumerate(thresholds):
            counts[number, cells] = above[level]
    shape = observed.shape
    return CellSums(len(rows), totals, mean.reshape(shape), counts.reshape(-1, *shape))


class _Block:
    """Some cells: members in ascending order, M arrays (N,), and what was observed, (N,)."""

    def __init__(self, ordered: list[Array], observed: Array) -> None:
        self.ordered, self.observed = ordered, observed
        self.mean = sum(ordered[1:], start=copied(ordered[0])) / len(ordered)

    def errors(self) -> dict[str, np.ndarray]:
        """Sums that make bias, MAE, RMSE, correlation and spread."""
        mean, observed, count = self.mean, self.observed, len(self.ordered)
        error = mean - observed
        squares = sum(((row - mean) ** 2 for row in self.ordered), start=0 * mean)
        return {
            "cells": _float(observed.shape[0]),
            "forecast": _total(mean),
            "observed": _total(observed),
            "forecast_squared": _total(mean * mean),
            "observed_squared": _total(observed * observed),
            "product": _total(mean * observed),
            "absolute_error": _total(abs(error)),
            "squared_error": _total(error * error),
            "ensemble_variance": _total(squares) / max(count - 1, 1),
        }

    def crps(self, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
        """Parts of the CRPS, and of what is above each threshold."""
        error, spread = crps_parts(self.ordered, self.observed)
        weighted = np.zeros((2, len(thresholds)))
        ordered, observed = self.ordered, self.observed
        for number in np.argsort(thresholds):
            level = thresholds[number]
            # Cells where all stays below the threshold add nothing, here and at every higher one.
            active = places_of((ordered[-1] > level) | (observed > level))
            ordered, observed = [row[active] for row in ordered], observed[active]
            parts = crps_parts(ordered, observed, threshold=level)
            weighted[:, number] = [_total(part) for part in parts]
        return {
            "crps_error": _total(error),
            "crps_spread": _total(spread),
            "tw_crps_error": weighted[0],
            "tw_crps_spread": weighted[1],
        }

    def members_above(self, level: float) -> Array:
        """How many members are at or above a level, (N,)."""
        return self._count_members(row >= level for row in self.ordered)

    def events(self, above: Mapping[float, Array]) -> dict[str, np.ndarray]:
        """Cells by threshold, observed event and number of members that forecast it."""
        size = len(self.ordered) + 1
        tables = [
            _numbers_of(_whole(members) + size * _whole(self.observed >= level), 2 * size)
            for level, members in above.items()
        ]
        return {"event_table": np.stack(tables).reshape(-1, 2, size)}

    def histograms(self, above: Mapping[float, Array]) -> dict[str, np.ndarray]:
        """Cells with rain of each intensity: forecast, as the mean over members, and observed."""
        forecast = np.array([float(members.sum()) for members in above.values()]) / len(self.ordered)
        observed = np.array([float((self.observed >= level).sum()) for level in above])
        beyond = np.zeros(1)
        return {
            "intensity": -np.diff(forecast, append=beyond),
            "observed_intensity": -np.diff(observed, append=beyond),
        }

    def ranks(self, draws: np.random.Generator) -> dict[str, np.ndarray]:
        """How many members are below what was observed; the rank among equals is drawn."""
        below = self._count_members(row < self.observed for row in self.ordered)
        equal = self._count_members(row == self.observed for row in self.ordered)
        chance = like(draws.random(self.observed.shape[0], dtype=np.float32), self.observed)
        # A chance is 1 - 2**-24 at most: rounded, too, its product with a whole number stays below that.
        drawn = chance * namespace(chance).asarray(_whole(equal) + 1, dtype=chance.dtype)
        return {"rank_count": _numbers_of(_whole(below) + _whole(drawn), len(self.ordered) + 1)}

    def _count_members(self, flags: Iterable[Array]) -> Array:
        count = _zeros(self.observed, self.observed.shape, len(self.ordered))
        for flag in flags:
            count += flag
        return count


def _zeros(array: Array, shape: tuple[int, ...], largest: int) -> Array:
    """For counts up to some number, in bytes if they hold it, on the device of an array."""
    xp = namespace(array)
    return xp.zeros(shape, dtype=xp.uint8 if largest < 256 else xp.int32, **device_of(array))


def _numbers_of(values: Array, bins: int) -> np.ndarray:
    """How often each whole number below ``bins`` is there."""
    return as_numpy(namespace(values).bincount(values, minlength=bins)).astype(np.float64)


def _whole(values: Array) -> Array:
    xp = namespace(values)
    return xp.asarray(values, dtype=xp.int64)


def _total(values: Array) -> np.ndarray:
    return _float(values.sum())


def _float(value: Array) -> np.ndarray:
    return np.array(float(value))
