"""CRPS of rain averaged over, and of the largest rain in, square neighbourhoods (DGMR's pooled CRPS).

Ravuri et al. 2021 (doi:10.1038/s41586-021-03854-z) score average- and max-pooled rain, because a forecast
that is right a few kilometres off is of use. Here neighbourhoods do not overlap and a partial one at the
right or lower edge is left out; one counts if at least half of its cells do, and is pooled over those.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from nowcast.verification.arrays import Array, namespace, places_of, sort_members
from nowcast.verification.crps import crps_parts


def pooled_sums(members: Array, observed: Array, mask: Array, side: int) -> dict[str, np.ndarray]:
    """Sums over the neighbourhoods of one size.

    Args:
        members: mm/h, (M, H, W), floating; 0 where the mask is not.
        observed: mm/h, (H, W), of the same type; 0 where the mask is not.
        mask: True where the cell counts, (H, W).
        side: Cells along a side of a neighbourhood.

    Returns:
        ``pooled_cells``, ``pooled_mean_crps_error``, ``pooled_mean_crps_spread``, ``pooled_max_crps_error``
        and ``pooled_max_crps_spread``; all 0 in a field smaller than a neighbourhood.
    """
    xp = namespace(members)
    cells = _added(xp.asarray(mask, dtype=members.dtype), side).reshape(-1)
    places = places_of(2 * cells >= side * side)
    sums = {"pooled_cells": np.array(float(places.shape[0]))}
    fields = [*members, observed]
    for name, pooled in (
        ("mean", [_added(field, side).reshape(-1)[places] / cells[places] for field in fields]),
        ("max", [_largest(field, side).reshape(-1)[places] for field in fields]),
    ):
        error, spread = crps_parts(sort_members(pooled[:-1]), pooled[-1])
        sums[f"pooled_{name}_crps_error"] = np.array(float(error.sum()))
        sums[f"pooled_{name}_crps_spread"] = np.array(float(spread.sum()))
    return sums


def _added(field: Array, side: int) -> Array:
    """Sums over the neighbourhoods, (H // side, W // side)."""
    return reduce(add, _columns(_bands(field, side).sum(1), side))


def _largest(field: Array, side: int) -> Array:
    """Largest values in the neighbourhoods; rain is nowhere below the 0 that stands where the mask is not."""
    xp = namespace(field)
    return reduce(xp.maximum, _columns(xp.amax(_bands(field, side), 1), side))


def _bands(field: Array, side: int) -> Array:
    """Whole bands of so many rows, (H // side, side, W)."""
    height, width = field.shape
    return field[: height // side * side].reshape(height // side, side, width)


def _columns(bands: Array, side: int) -> list[Array]:
    """First columns of all neighbourhoods, second and so on: to add arrays is faster than short rows."""
    width = bands.shape[1] // side * side
    return [bands[:, place:width:side] for place in range(side)]
