"""Which frames train, validate and test: by calendar, with guard gaps between splits and whole events.

The split of a frame depends on its time alone, so it never changes when an archive grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_prep.schema import SPLITS, RefusedInput

TRAIN, VALIDATION, TEST, GUARD = (np.int8(code) for code in range(len(SPLITS)))
DAY_MINUTES = 1440
CENTURY_MINUTES = 100 * 366 * DAY_MINUTES
DAY = np.timedelta64(1, "D").astype("timedelta64[s]")


@dataclass(frozen=True)
class Splits:
    """How time is dealt out.

    Attributes:
        scheme: ``blocks`` deals calendar blocks in turn. ``dgmr`` is the division of Ravuri et al. 2021
            (doi:10.1038/s41586-021-03854-z): the first day of every month validates, ``test_years`` test, and
            the rest trains.
        block_minutes: Length of one calendar block.
        cycle: Splits that consecutive blocks belong to, repeated without end.
        origin: UTC time at which the first block of a cycle begins.
        test_years: Calendar years that test in scheme ``dgmr``, 2019 in the paper.
        guard_minutes: Frames this close before a time of another split belong to no split, so that no two
            splits hold nearly the same weather.
        events: First and last time, UTC, of each stretch that is to be kept together, such as a storm that
            several radars saw. All of it goes where its first time belongs. The last time counts to the end
            of the unit in which it is given: ``2010-08-26`` is the whole day.
    """

    scheme: Literal["blocks", "dgmr"] = "blocks"
    block_minutes: float = 1440.0
    cycle: tuple[str, ...] = ("train", "train", "train", "train", "train", "validation", "test")
    origin: str = "1970-01-01T00:00"
    test_years: tuple[int, ...] = ()
    guard_minutes: float = 120.0
    events: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.scheme not in ("blocks", "dgmr"):
            raise _refused("splits.scheme is blocks or dgmr", self.scheme)
        if self.test_years and self.scheme != "dgmr":
            raise _refused("splits.test_years belong to the scheme dgmr", f"scheme {self.scheme}")
        unknown = sorted(set(self.cycle) - set(SPLITS[:3]))
        if unknown or not self.cycle:
            raise _refused(f"splits.cycle holds one or more of {SPLITS[:3]}", unknown or "nothing")
        if not 1 / 60 <= self.block_minutes <= CENTURY_MINUTES:
            raise _refused("a block of splits lasts a second to a century", f"{self.block_minutes:g} min")
        shortest = self.block_minutes if self.scheme == "blocks" else DAY_MINUTES
        if not 0 <= self.guard_minutes < shortest:
            raise _refused(
                "a guard gap is shorter than the block it ends and not negative",
                f"guard {self.guard_minutes:g} min, block {shortest:g} min",
            )
        _instant(self.origin, "splits.origin")
        _event_bounds(self.events)


def split_codes(times: np.ndarray, splits: Splits) -> np.ndarray:
    """Split of each frame as an index into `schema.SPLITS`.

    Args:
        times: datetime64, shape (time,).
        splits: How time is dealt out.

    Returns:
        int8, shape (time,).
    """
    if times.size == 0:
        return np.zeros(0, np.int8)
    times = times.astype("datetime64[s]")
    guard = _seconds(splits.guard_minutes)
    starts, codes = _segments(times.min(), times.max() + guard, splits)
    changes = np.flatnonzero(np.diff(codes, prepend=np.int8(-1)))
    starts, codes = starts[changes], codes[changes]
    segment = np.searchsorted(starts, times, side="right") - 1
    # Neighbouring segments now differ: guarded is who is close to the next one.
    following = np.append(starts[1:], starts[-1])[segment]
    guarded = (segment + 1 < starts.size) & (following - times <= guard)
    return np.where(guarded, GUARD, codes[segment])


def _segments(first: np.datetime64, last: np.datetime64, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """First times and codes of stretches of one split that cover first to last, events in their place."""
    begin, end = _event_bounds(splits.events)
    concerned = (end > first) & (begin <= last)
    begin, end = begin[concerned], end[concerned]
    deal = _months if splits.scheme == "dgmr" else _blocks
    # An event may begin before the first frame and end after the last.
    starts, codes = deal(min([first, *begin]), max([last, *end]), splits)

    def at(times: np.ndarray) -> np.ndarray:
        return codes[np.searchsorted(starts, times, side="right") - 1]

    event = np.searchsorted(begin, starts, side="right") - 1
    outside = (event < 0) | (starts >= np.append(end, first)[event])
    every = np.concatenate([starts[outside], begin, end])
    dealt = np.concatenate([codes[outside], at(begin), at(end)])
    # Of equal times the last counts: an event that begins goes before a block, and before an event that ends.
    rank = np.concatenate([np.zeros(outside.sum()), np.full(begin.size, 2), np.full(end.size, 1)])
    order = np.lexsort((rank, every))
    every, dealt = every[order], dealt[order]
    last_of_equal = np.append(every[1:] != every[:-1], True)
    return every[last_of_equal], dealt[last_of_equal]


def _blocks(first: np.datetime64, last: np.datetime64, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of equal length, dealt in turn."""
    origin, length = _instant(splits.origin, "splits.origin"), _seconds(splits.block_minutes)
    numbers = np.arange((first - origin) // length, (last - origin) // length + 1)
    order = np.array([SPLITS.index(name) for name in splits.cycle], dtype=np.int8)
    return origin + numbers * length, order[numbers % order.size]


def _months(first: np.datetime64, last: np.datetime64, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """The first day and the rest of every month."""
    months = np.arange(first.astype("datetime64[M]"), last.astype("datetime64[M]") + 1)
    begin = months.astype("datetime64[s]")
    test = np.isin(months.astype("datetime64[Y]").astype(np.int64) + 1970, splits.test_years)
    starts = np.stack([begin, begin + DAY], axis=1)
    codes = np.stack([np.where(test, TEST, VALIDATION), np.where(test, TEST, TRAIN)], axis=1)
    return starts.ravel(), codes.ravel()


def _event_bounds(events: tuple[tuple[str, str], ...]) -> tuple[np.ndarray, np.ndarray]:
    """First time of each event and the first time after it, in order, datetime64[s]."""
    pairs = []
    for event in events:
        if len(event) != 2:
            raise _refused("an event of splits has a first and a last time", list(event))
        begin, end = _instant(event[0], "a time of splits.events"), _end_of_unit(event[1])
        if end <= begin:
            raise _refused("an event of splits ends after it begins", " to ".join(event))
        pairs.append((begin, end))
    pairs.sort()
    for (_, end), (begin, _) in zip(pairs, pairs[1:], strict=False):
        if begin < end:
            raise _refused("events of splits do not overlap", f"one to {end}, another from {begin}")
    bounds = np.array(pairs, dtype="datetime64[s]").reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1]


def _end_of_unit(text: str) -> np.datetime64:
    """The first second after the day, hour or minute that a text names."""
    _instant(text, "a time of splits.events")
    return (np.datetime64(text.removesuffix("Z")) + 1).astype("datetime64[s]")


def _instant(text: str, name: str) -> np.datetime64:
    rule = f"{name} is a UTC time in ISO 8601, as 2010-08-26T00:00"
    try:
        instant = np.datetime64(text.removesuffix("Z"), "s")
    except ValueError as error:
        raise _refused(rule, text) from error
    # Beyond these years nanoseconds do not fit into 64 bits.
    if np.isnat(instant) or not 1700 <= instant.astype("datetime64[Y]").astype(int) + 1970 < 2200:
        raise _refused(rule, text)
    return instant


def _seconds(minutes: float) -> np.timedelta64:
    return np.timedelta64(round(minutes * 60), "s")


def _refused(rule: str, came: object) -> RefusedInput:
    return RefusedInput(rule, came=came, do="correct the prep configuration")
