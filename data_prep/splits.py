"""Which frames train, validate and test: calendar blocks dealt in turn, with guard gaps between splits.

The split of a frame depends on its time alone, so it never changes when an archive grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.schema import SPLITS, RefusedInput


@dataclass(frozen=True)
class Splits:
    """How time is dealt out.

    Attributes:
        block_minutes: Length of one calendar block.
        cycle: Splits that consecutive blocks belong to, repeated without end.
        origin: UTC time at which the first block of a cycle begins.
        guard_minutes: Frames this close before a block of another split belong to no split, so that no two
            splits hold nearly the same weather.
    """

    block_minutes: float = 1440.0
    cycle: tuple[str, ...] = ("train", "train", "train", "train", "train", "validation", "test")
    origin: str = "1970-01-01T00:00"
    guard_minutes: float = 120.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.cycle) - set(SPLITS[:3]))
        if unknown or not self.cycle:
            raise RefusedInput(
                f"splits.cycle holds one or more of {SPLITS[:3]}",
                came=unknown or "nothing",
                do="correct the prep configuration",
            )
        if not 0 <= self.guard_minutes < self.block_minutes < np.inf:
            raise RefusedInput(
                "a guard gap is shorter than the block it ends and not negative",
                came=f"guard {self.guard_minutes:g} min, block {self.block_minutes:g} min",
                do="correct the prep configuration",
            )
        try:
            known = not np.isnat(np.datetime64(self.origin, "ns"))
        except ValueError:
            known = False
        if not known:
            raise RefusedInput(
                "splits.origin is a UTC time in ISO 8601", came=self.origin, do="as 2010-08-26T00:00"
            )


def split_codes(times: np.ndarray, splits: Splits) -> np.ndarray:
    """Split of each frame as an index into `schema.SPLITS`.

    Args:
        times: datetime64, shape (time,).
        splits: How time is dealt out.

    Returns:
        int8, shape (time,).
    """
    elapsed = (times - np.datetime64(splits.origin, "ns")) / np.timedelta64(1, "m")
    order = np.array([SPLITS.index(name) for name in splits.cycle], dtype=np.int8)
    block = np.floor(elapsed / splits.block_minutes).astype(np.int64)
    codes, following = order[block % order.size], order[(block + 1) % order.size]
    left = (block + 1) * splits.block_minutes - elapsed
    guarded = (codes != following) & (left <= splits.guard_minutes)
    return np.where(guarded, np.int8(SPLITS.index("guard")), codes)
