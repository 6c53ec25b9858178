"""Pure steps that mark what is doubtful in a frame of rain rate, and never erase it.

Cells and whole frames carry marks, the bits of `CELL_MARKS` and `FRAME_MARKS`. What to do about a mark is for
the user to say: `Quality.mask` names the marks whose cells a store holds as no data. `refuse_senseless` alone
turns a frame away, and only where it cannot be rain rate in mm/h.

Rates are mm/h, shape (y, x), NaN where there is no data. A cell is wet from `WET_RATE` on.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_prep.schema import PACKED_SCALE, RefusedInput

CELL_MARKS = {"above_range": 1, "speckle": 2, "spike": 4, "poor": 8}
"""Bits of the uint8 of a cell."""
FRAME_MARKS = {"repeated": 1, "mask_changed": 2, "coverage_drop": 4, "level_jump": 8, "saturated": 16,
               "gone_dry": 32}  # fmt: skip
"""Bits of the uint8 of a frame."""
WET_RATE = 0.1
"""mm/h from which a cell is wet: what 0.01 mm in 5 minutes, the finest step of common archives, can tell."""
ECHO_RATE = PACKED_SCALE
"""mm/h from which a store can tell a cell from a dry one."""
SENSELESS_RATE = 128.0
"""mm/h; see `refuse_senseless`."""
SENSELESS_WET_SHARE = 0.01
SENSELESS_WET_CELLS = 100

_BAND_CELLS = 131072
_NEIGHBOURS = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
_RANGES = {
    "largest_rate": (WET_RATE, np.inf),
    "speckle_neighbours": (0, 8),
    "spike_rate": (WET_RATE, np.inf),
    "spike_ratio": (1, np.inf),
    "poor_below": (0, 1),
    "coverage_drop": (0, 1),
    "level_jump": (1, np.inf),
    "level_wet_share": (0, 1),
    "saturated_rate": (0, np.inf),
    "saturated_cells": (1, np.inf),
}


@dataclass(frozen=True)
class Quality:
    """When something is doubtful. The marks of cells come first, those of frames after them.

    Attributes:
        largest_rate: Cells above are ``above_range``, mm/h. Rain beyond 128 mm/h over a square kilometre is
            rare enough for hail, clutter and a bright band to be likelier.
        speckle_neighbours: A wet cell with fewer cells than this among its eight neighbours that hold rain,
            be it only `ECHO_RATE`, is ``speckle``, 0 to 8: noise, an aircraft, a ship. Of neighbours below
            `WET_RATE` the weak core of a shower has many (in Finland 0.7 % of the wet cells have no other
            wet one beside them, nearly all of them an echo). At 2 the ends of narrow showers are marked.
            Missing neighbours hold no rain.
        spike_rate: Cells above, mm/h, may be a ``spike``; below, a steep edge is common in showers.
        spike_ratio: A spike is above this many times the second largest of its eight neighbours, so that a
            pair of spikes is found. At least half of the neighbours hold data.
        poor_below: Cells with data and a quality index (0 to 1) below this are ``poor``; 0 marks none, since
            an index means something else at every provider.
        mask: Cell marks whose cells the store holds as no data.
        coverage_drop: A frame whose observed area shrinks by more than this share of that of the frame
            before is a ``coverage_drop``: a radar has failed.
        level_jump: A frame whose mean rain is more than this factor above or below that of the frame before
            is a ``level_jump``: the unit or the scale changed. Within 15 minutes a domain does not change so.
        level_wet_share: Share of the observed cells that must be wet in both frames for a level jump, and in
            the frame before for one that is ``gone_dry``; the mean of a few cells may jump by itself. A scale
            so small that hardly a cell stays wet is not found, since a shower that leaves a small domain
            looks alike.
        saturated_rate: A frame may be ``saturated`` if its largest rate is this or more, mm/h. In weak rain
            the steps of 8-bit data are so coarse that several cells share the largest value by chance.
        saturated_cells: A frame with more cells than this at exactly its largest rate is ``saturated``: the
            code of the file ends there and the rain was stronger (at MeteoSwiss 115 mm/h).
    """

    largest_rate: float = 128.0
    speckle_neighbours: int = 1
    spike_rate: float = 30.0
    spike_ratio: float = 10.0
    poor_below: float = 0.0
    mask: tuple[str, ...] = ()
    coverage_drop: float = 0.1
    level_jump: float = 5.0
    level_wet_share: float = 0.01
    saturated_rate: float = 50.0
    saturated_cells: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", tuple(self.mask))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RefusedInput(
                    f"quality.{name} lies in [{low:g}, {high:g}]",
                    came=value,
                    do="correct the prep configuration",
                )
        unknown = sorted(set(self.mask) - CELL_MARKS.keys())
        if unknown:
            raise RefusedInput(
                f"quality.mask names marks of cells ({', '.join(CELL_MARKS)})",
                came=", ".join(unknown),
                do="correct the prep configuration",
            )

    @property
    def mask_bits(self) -> int:
        """The bits of `mask`: ``cells & mask_bits`` is not 0 where the store holds no data."""
        return sum(CELL_MARKS[name] for name in set(self.mask))


class FrameSummary(NamedTuple):
    """What is kept of a frame, and compared with the next.

    Attributes:
        observed: Share of all cells that hold data.
        wet: Share of the observed cells that are wet.
        largest: Largest rate before capping, mm/h.
        mean: Mean rate of the observed cells before capping, mm/h.
        at_largest: Cells at exactly the largest rate.
        marked: Cells with a mark.
        fingerprint: CRC-32 of the rates in steps of a store (0.01 mm/h), missing as 0.
        mask_fingerprint: CRC-32 of which cells hold data.
    """

    observed: float
    wet: float
    largest: float
    mean: float
    at_largest: int
    marked: int
    fingerprint: int
    mask_fingerprint: int


def mark_cells(rate: np.ndarray, settings: Quality, quality_index: np.ndarray | None = None) -> np.ndarray:
    """Mark doubtful cells.

    Args:
        rate: mm/h before capping, shape (y, x), NaN where there is no data.
        settings: When a cell is doubtful.
        quality_index: 0 worst to 1 best, NaN unknown, shape (y, x), where the provider gives one.

    Returns:
        Bits of `CELL_MARKS`, uint8, shape (y, x). Cells without data have none.
    """
    marks = _speckle(rate, settings.speckle_neighbours)
    _mark_spikes(marks, rate, settings)
    above = rate > settings.largest_rate
    if above.any():
        marks |= above.view(np.uint8) * np.uint8(CELL_MARKS["above_range"])
    if quality_index is not None and settings.poor_below > 0:
        poor = (quality_index < settings.poor_below) & (rate >= 0)
        marks |= poor.view(np.uint8) * np.uint8(CELL_MARKS["poor"])
    return marks


def summarise(rate: np.ndarray, cells: np.ndarray) -> FrameSummary:
    """Reduce a frame to what is compared with the next.

    Args:
        rate: mm/h before capping, shape (y, x), accepted by `refuse_senseless`.
        cells: Marks of `mark_cells`, shape (y, x).
    """
    observed, wet, total, largest, at_largest, fingerprint, mask_fingerprint = 0, 0, 0.0, 0.0, 0, 0, 0
    # In bands of rows that stay in the cache of the processor, twice as fast as the whole at once.
    height = max(1, _BAND_CELLS // rate.shape[1])
    for top in range(0, rate.shape[0], height):
        band = rate[top : top + height]
        missing = np.isnan(band)
        observed += band.size - int(np.count_nonzero(missing))
        mask_fingerprint = zlib.crc32(np.packbits(missing).data, mask_fingerprint)
        # fmax ignores NaN: missing becomes 0 in a third of the time of np.where.
        filled = np.fmax(band, np.float32(0))
        wet += int(np.count_nonzero(filled >= np.float32(WET_RATE)))
        total += float(filled.sum())
        highest = filled.max()
        if highest >= largest:
            at_largest = at_largest if highest == largest else 0
            largest, at_largest = highest, at_largest + int(np.count_nonzero(filled == highest))
        filled *= np.float32(1 / PACKED_SCALE)
        filled += np.float32(0.5)
        # Above 655.35 mm/h the steps wrap around in 16 bits, which serves a fingerprint as well.
        fingerprint = zlib.crc32(filled.astype(np.int32).astype(np.uint16).data, fingerprint)
    return FrameSummary(
        observed=observed / rate.size,
        wet=wet / max(observed, 1),
        largest=float(largest),
        mean=total / max(observed, 1),
        at_largest=at_largest,
        marked=int(np.count_nonzero(cells)),
        fingerprint=fingerprint,
        mask_fingerprint=mask_fingerprint,
    )


def mark_frame(summary: FrameSummary, before: FrameSummary | None, settings: Quality) -> int:
    """Mark a doubtful frame.

    ``repeated`` has the rates and the mask of the frame before although it rains: a product has frozen.
    ``mask_changed`` observes other cells than the frame before. ``gone_dry`` holds no wet cell after a frame
    with more of them than `Quality.level_wet_share`: rain does not end everywhere at once. The other marks:
    see `Quality`.

    Args:
        summary: Of the frame.
        before: Of the frame one time step earlier; none where that is absent.
        settings: When a frame is doubtful.

    Returns:
        Bits of `FRAME_MARKS`, 0 to 255.
    """
    found = {"saturated": summary.largest >= settings.saturated_rate
             and summary.at_largest > settings.saturated_cells}  # fmt: skip
    if before is not None:
        same_mask = summary.mask_fingerprint == before.mask_fingerprint
        found["mask_changed"] = not same_mask
        found["repeated"] = same_mask and summary.fingerprint == before.fingerprint and summary.wet > 0
        found["coverage_drop"] = summary.observed < before.observed * (1 - settings.coverage_drop)
        low, high = sorted((summary.mean, before.mean))
        rains = min(summary.wet, before.wet) > settings.level_wet_share
        found["gone_dry"] = summary.wet == 0 and before.wet > settings.level_wet_share
        found["level_jump"] = rains and high > low * settings.level_jump
    return sum(FRAME_MARKS[name] for name, is_so in found.items() if is_so)


def refuse_senseless(rate: np.ndarray, name: object) -> None:
    """Refuse a frame that cannot be rain rate in mm/h.

    The scale is certainly wrong where more than half of the wet cells are above 128 mm/h, if 1 % of the
    observed cells and at least 100 are wet: even in a flash flood such rates fill a few per cent of the rain.

    Args:
        rate: mm/h before capping, shape (y, x).
        name: What to call the frame, its file.

    Raises:
        RefusedInput: If no cell holds data, a rate is negative or infinite, or the scale is certainly wrong.
    """
    observed = int(np.count_nonzero(rate >= 0))
    negative = int(np.count_nonzero(rate < 0))
    if negative:
        raise _senseless(
            "is not negative", f"{name} with {negative} cells below 0, down to {np.nanmin(rate):g}"
        )
    if observed == 0:
        raise _senseless("holds data in one cell or more", f"{name} without any observed cell")
    above = int(np.count_nonzero(rate > SENSELESS_RATE))
    if above == 0:
        return
    infinite = int(np.count_nonzero(np.isinf(rate)))
    if infinite:
        raise _senseless("is finite", f"{name} with {infinite} infinite cells")
    wet = int(np.count_nonzero(rate >= np.float32(WET_RATE)))
    if 2 * above > wet >= max(SENSELESS_WET_CELLS, SENSELESS_WET_SHARE * observed):
        raise _senseless(
            f"does not exceed {SENSELESS_RATE:g} mm/h in most wet cells", f"{name} in {above} of {wet}"
        )


def _senseless(rule: str, came: str) -> RefusedInput:
    return RefusedInput(
        f"a frame of rain rate {rule}",
        came=came,
        do="compare unit, scale and no-data code with the file, or leave it out",
    )


def _speckle(rate: np.ndarray, least: int) -> np.ndarray:
    """Marks of wet cells with fewer than `least` cells with rain among their eight neighbours, uint8."""
    rows, columns = rate.shape
    rain = np.zeros((rows + 2, columns + 2), dtype=np.uint8)
    np.greater_equal(rate, np.float32(ECHO_RATE), out=rain[1:-1, 1:-1].view(bool))
    # Sums of three in a row, then of three such rows: the cell and its neighbours, 0 to 9.
    three = rain[:, :-2] + rain[:, 1:-1]
    three += rain[:, 2:]
    nine = three[:-2] + three[1:-1]
    nine += three[2:]
    lonely = nine <= least
    lonely &= rate >= np.float32(WET_RATE)
    return lonely.view(np.uint8) * np.uint8(CELL_MARKS["speckle"])


def _mark_spikes(marks: np.ndarray, rate: np.ndarray, settings: Quality) -> None:
    """Set the mark of spikes in `marks`; looks at the few strong cells alone."""
    strong = np.flatnonzero(rate > settings.spike_rate)
    if strong.size == 0:
        return
    rows, columns = np.divmod(strong, rate.shape[1])
    around_rows, around_columns = rows[:, None] + _NEIGHBOURS[:, 0], columns[:, None] + _NEIGHBOURS[:, 1]
    beyond = (around_rows < 0) | (around_rows >= rate.shape[0])
    beyond |= (around_columns < 0) | (around_columns >= rate.shape[1])
    around = rate[around_rows.clip(0, rate.shape[0] - 1), around_columns.clip(0, rate.shape[1] - 1)]
    missing = beyond | np.isnan(around)
    around[missing] = 0
    second = np.partition(around, -2, axis=1)[:, -2]
    is_spike = (rate[rows, columns] > settings.spike_ratio * second) & (2 * missing.sum(axis=1) <= 8)
    marks[rows[is_spike], columns[is_spike]] |= np.uint8(CELL_MARKS["spike"])
