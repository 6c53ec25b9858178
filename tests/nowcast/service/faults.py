"""Faults of a radar's frames, drawn at random from a seed: what arrives when, and how it is broken."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEP_SECONDS = 300.0
USUAL_DELAY = 60.0
"""Seconds between the time of a frame and its arrival."""
KINDS = (
    "late", "too_late", "missing", "duplicated", "truncated", "zero_byte", "out_of_order", "from_the_future",
    "other_grid", "growing", "repeated",
)  # fmt: skip


class Arrival(NamedTuple):
    """Something that happens in the folder of the frames.

    Attributes:
        seconds: When, since the time of the first frame.
        number: Of the frame.
        form: How the frame arrives: `whole`, `copy`, `ahead` (its time is an hour later), `other_grid`,
            `repeated` (it has the rain of the frame before), or a share of its bytes as a number.
    """

    seconds: float
    number: int
    form: str | float


def arrivals(number: int, kind: str | None, random: np.random.Generator) -> list[Arrival]:
    """How a frame arrives if it is disturbed in some way; undisturbed without a kind."""
    time = number * STEP_SECONDS + USUAL_DELAY
    whole = Arrival(time, number, "whole")
    forms = {
        None: [whole],
        "late": [whole._replace(seconds=time + random.uniform(60, 400))],
        "too_late": [whole._replace(seconds=time + random.uniform(600, 1500))],
        "missing": [],
        "duplicated": [whole, whole._replace(seconds=time + 20, form="copy")],
        "truncated": [Arrival(time, number, random.uniform(0.1, 0.9)), whole._replace(seconds=time + 150)],
        "zero_byte": [Arrival(time, number, 0.0)],
        "out_of_order": [whole._replace(seconds=time + STEP_SECONDS + 20)],
        "from_the_future": [whole, whole._replace(seconds=time + 10, form="ahead")],
        "other_grid": [whole._replace(form="other_grid")],
        "growing": [Arrival(time + 4 * n, number, share) for n, share in enumerate((0.2, 0.5, 0.8))]
        + [whole._replace(seconds=time + 12)],
        "repeated": [whole._replace(form="repeated")],
    }
    return forms[kind]


def drawn(count: int, share: float, seed: int, kinds: tuple[str, ...] = KINDS) -> dict[int, str]:
    """Which of some frames are disturbed, and how. The first four are not: a context has to begin."""
    random = np.random.default_rng(seed)
    return {number: str(random.choice(kinds)) for number in range(4, count) if random.uniform() < share}
