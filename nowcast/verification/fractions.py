"""Fractions skill score: how well events agree within square windows (Roberts and Lean 2008).

With f and o the fractions of a window's cells that hold an event, forecast and observed,

    FSS = 1 - sum (f - o)^2 / sum (f^2 + o^2)            (doi:10.1175/2007MWR2123.1)

summed over the windows round all cells that count. A window takes in the cells of it that count: at the edge
of the field or of the data it is smaller, and no-data is not "no event". With ``whole_windows`` only windows
all of whose cells count are taken, which is the score of the package scores for fields without missing cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nowcast.verification.arrays import Array, device_of, namespace


class Windows:
    """Square windows round the cells of a mask, for events of any kind on it.

    Args:
        mask: True where the cell counts, (H, W).
        sides: Cells along a side, one number per kind of window; an even one reaches one cell further up and
            left.
        whole_windows: Take only windows all of whose cells count.
    """

    def __init__(self, mask: Array, sides: Sequence[int], *, whole_windows: bool = False) -> None:
        xp = namespace(mask)
        self.mask = mask
        self._sides = tuple(sides)
        self._weights = []
        for cells, side in zip(self._added(mask, of=1), self._sides, strict=True):
            counts = cells == side * side if whole_windows else mask
            size = xp.asarray(xp.where(cells > 0, cells, 1), dtype=xp.float32)
            self._weights.append(xp.asarray(counts, dtype=xp.float32) / size)

    def fractions(self, events: Array, *, of: int = 1) -> list[Array]:
        """Share of events among the cells of each window, (H, W) per kind; 0 where the window does not count.

        Args:
            events: Events in every cell, whole numbers, (H, W); 0 where the mask is not.
            of: How many there may be in one cell.
        """
        xp = namespace(events)
        sums = [xp.asarray(total, dtype=xp.float32) for total in self._added(events, of=of)]
        for total, weight in zip(sums, self._weights, strict=True):
            total *= weight
            total /= of
        return sums

    def _added(self, events: Array, *, of: int) -> list[Array]:
        """Sums over the windows round all cells, (H, W) per kind."""
        xp = namespace(events)
        height, width = events.shape
        # Twice the field takes in all of it from any of its cells.
        sides = [min(side, 2 * max(height, width)) for side in self._sides]
        reach = max(sides)
        # Half the memory is up to five times as fast.
        dtype = xp.int16 if of * reach**2 < 1 << 15 else xp.int32
        padded = xp.zeros((height + 2 * reach, width + 2 * reach), dtype=dtype, **device_of(events))
        padded[reach : reach + height, reach : reach + width] = events
        rows = {1: padded}
        sums = []
        for side in sides:
            first = reach - side // 2
            bands = _runs(padded, side, known=rows)[first : first + height]
            columns = bands[:, first : first + width + side - 1].T
            sums.append(_runs(columns, side, known={1: columns}).T)
        return sums


def fraction_sums(forecast: Sequence[Array], observed: Sequence[Array]) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of the score, by kind of window.

    Args:
        forecast: As `Windows.fractions` gives them.
        observed: The same.
    """
    difference, reference = [], []
    for ours, theirs in zip(forecast, observed, strict=True):
        gap = ours - theirs
        difference.append(float((gap * gap).sum()))
        reference.append(float((ours * ours).sum()) + float((theirs * theirs).sum()))
    return np.array(difference), np.array(reference)


def _runs(values: Array, length: int, *, known: dict[int, Array]) -> Array:
    """Sums of so many neighbouring rows, the first of them in its row: those of halves, added.

    Args:
        values: (N, ...).
        length: Rows to add.
        known: Sums of these rows by length, to begin with those of one row; what is worked out is put in.
    """
    if length not in known:
        half = _runs(values, length // 2, known=known)
        even = length // 2 * 2
        both = half[: half.shape[0] - length // 2] + half[length // 2 :]
        known[length] = both if length == even else both[:-1] + values[even:]
    return known[length]
