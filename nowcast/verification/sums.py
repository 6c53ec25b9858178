"""What a score is made of, summed over the cells of one case and lead time.

Arrays are numpy or torch; the functions use what both have and stay on the device they are given. Cells
outside the mask count for nothing, whatever value they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any
"""numpy.ndarray or torch.Tensor."""


def lead_sums(
    members: Array, observed: Array, mask: Array, *, thresholds: Sequence[float]
) -> dict[str, np.ndarray]:
    """Sums of one forecast against what fell.

    Args:
        members: mm/h, (M, H, W).
        observed: mm/h, (H, W).
        mask: True where the cell counts, (H, W).
        thresholds: mm/h; an event is a rate of this or more.

    Returns:
        ``cells, observed, forecast, absolute_error, squared_error, crps`` as scalars (forecast and errors of
        the ensemble mean), and ``hits, misses, false_alarms`` of the ensemble mean and, with prefix
        ``member_``, of all members pooled, each (threshold,).
    """
    members, observed = members[:, mask], observed[mask]
    mean = members.mean(0)
    error = mean - observed
    totals = {
        "cells": float(observed.shape[0]),
        "observed": observed.sum(),
        "forecast": mean.sum(),
        "absolute_error": abs(error).sum(),
        "squared_error": (error**2).sum(),
        "crps": ensemble_crps(members, observed).sum(),
    }
    sums = {name: np.array(float(total)) for name, total in totals.items()}
    for prefix, forecast in (("", mean), ("member_", members)):
        counts = [_contingency(forecast >= level, observed >= level) for level in thresholds]
        for name, column in zip(("hits", "misses", "false_alarms"), zip(*counts, strict=True), strict=True):
            sums[prefix + name] = np.array(column, dtype=np.float64)
    return sums


def ensemble_crps(members: Array, observed: Array) -> Array:
    """Continuous ranked probability score of an ensemble in every cell.

    The score of the empirical distribution of the members (Hersbach 2000,
    doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2),

        CRPS = mean_i |x_i - y| - 1 / (2 M^2) * sum_ij |x_i - x_j|,

    with the double sum taken over sorted members, 2 * sum_i (2 i - M - 1) x_(i). One member gives |x - y|.

    Args:
        members: (M, ...).
        observed: (...), in the same unit.

    Returns:
        (...), in the unit of the members.
    """
    count = members.shape[0]
    error = abs(members - observed).mean(0)
    if count == 1:
        return error
    ordered = np.sort(members, axis=0) if isinstance(members, np.ndarray) else members.sort(dim=0).values
    spread = sum((2 * rank - count - 1) * ordered[rank - 1] for rank in range(1, count + 1))
    return error - spread / count**2


def _contingency(forecast: Array, observed: Array) -> tuple[float, float, float]:
    """Hits, misses and false alarms; forecast may carry a leading member axis."""
    return (
        float((forecast & observed).sum()),
        float((~forecast & observed).sum()),
        float((forecast & ~observed).sum()),
    )
