"""Probability-matched mean: where the ensemble mean has rain, as much of it as the members have (Ebert 2001).

The mean of an ensemble is the best guess of where it rains, but smooth: it rains in too many cells, and
nowhere hard. The probability-matched mean (doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2) keeps the
ranks of the mean and takes the rates from the members: all of them in all cells, in descending order
x_1 >= x_2 >= ... The cell with the j-th largest mean gets

    x_(h + (j - 1) M),  h = floor((M + 1) / 2),

the middle one of each M. So no rate is made up, equal members give the member itself, and a rate is reached
in as many cells as in the mean over the members, to half a cell. The other cells are dry, first of all those
that are so in the mean. Cells with the same mean are taken in their order in the field, row by row.
"""

from __future__ import annotations

import numpy as np

from nowcast.verification.arrays import Array, copied, floating, namespace, places_of


def probability_matched_mean(members: Array) -> Array:
    """Give the ranks of the ensemble mean the rain rates of the members.

    Args:
        members: mm/h, (M, H, W), 0 or more; not finite where there is no forecast.

    Returns:
        mm/h, (H, W); NaN where any member has no value. Of one member, that member.
    """
    members = floating(members)
    xp, count = namespace(members), members.shape[0]
    rows = [member.reshape(-1) for member in members]
    total = sum(rows[1:], start=copied(rows[0]))
    complete = xp.isfinite(total)
    # Dry cells need no sorting: they are what is left.
    rates = _ascending(xp.concatenate([row[places_of((row > 0) & complete)] for row in rows]))
    matched = xp.flip(rates, (0,))[(count - 1) // 2 :: count]
    wet = places_of((total > 0) & complete)
    cells = wet[xp.argsort(-total[wet], stable=True)]
    field = xp.where(complete, xp.zeros_like(total), float("nan"))
    field[cells[: matched.shape[0]]] = matched
    return field.reshape(members.shape[1:])


def matched_events(mean: Array, counts: Array, members: int) -> list[Array]:
    """Where the probability-matched mean reaches thresholds; to know this, the mean alone is sorted.

    Args:
        mean: Ensemble mean, mm/h, (H, W); 0 where cells do not count.
        counts: Members at or above each threshold, (threshold, H, W); 0 where cells do not count.
        members: M.

    Returns:
        (H, W) for each threshold.
    """
    flat = mean.reshape(-1)
    ordered = _ascending(copied(flat))
    events = []
    for reaching in counts:
        # So many of the rates that are taken, one in M from the middle of the first M on, reach it.
        number = (int(reaching.sum()) + members // 2) // members
        limit = ordered[-number] if number else np.inf
        chosen = flat > limit
        chosen[places_of(flat == limit)[: number - int(chosen.sum())]] = True
        events.append(chosen.reshape(mean.shape))
    return events


def _ascending(values: Array) -> Array:
    """The values in order, (N,), which may overwrite them."""
    if isinstance(values, np.ndarray):
        values.sort()
        return values
    return values.sort().values
