"""What scores are made of, summed over the cells of one case and lead time; sums add over cases.

Arrays are numpy or torch; the functions use what both have and stay on the device they are given. Cells
outside the mask count for nothing, whatever value they hold. `DIMS` lists the sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data_prep.schema import RefusedInput, refuse_less
from nowcast.verification.arrays import Array, floating, namespace
from nowcast.verification.cells import CellSums, cell_sums
from nowcast.verification.fractions import Windows, fraction_sums
from nowcast.verification.matched_mean import matched_events
from nowcast.verification.pooling import pooled_sums
from nowcast.verification.sal import sal_sums
from nowcast.verification.spectra import mean_power_spectrum

DIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("cells", "forecast", "observed", "forecast_squared", "observed_squared", "product",
         "absolute_error", "squared_error", "ensemble_variance", "crps_error", "crps_spread"), ()
    ),
    "tw_crps_error": ("threshold",),
    "tw_crps_spread": ("threshold",),
    "hits": ("threshold",),
    "misses": ("threshold",),
    "false_alarms": ("threshold",),
    "matched_hits": ("threshold",),
    "matched_misses": ("threshold",),
    "matched_false_alarms": ("threshold",),
    "event_table": ("threshold", "event", "forecast_count"),
    "rank_count": ("rank",),
    "intensity": ("intensity_bin",),
    "observed_intensity": ("intensity_bin",),
    "pooled_cells": ("scale",),
    "pooled_mean_crps_error": ("scale",),
    "pooled_mean_crps_spread": ("scale",),
    "pooled_max_crps_error": ("scale",),
    "pooled_max_crps_spread": ("scale",),
    "fss_difference": ("threshold", "window"),
    "fss_reference": ("threshold", "window"),
    "fss_probability_difference": ("threshold", "window"),
    "fss_probability_reference": ("threshold", "window"),
    "power": ("ring",),
    "observed_power": ("ring",),
}  # fmt: skip
"""Sums by name, with their own dims. In mm/h and powers of it, or numbers of cells.

``forecast``, its errors, ``hits``, ``misses``, ``false_alarms``, ``fss_difference`` and ``fss_reference`` are
of the ensemble mean, ``matched_*`` of the probability-matched mean of the cells that count
(`nowcast.verification.matched_mean`), ``fss_probability_*`` of the share of members with the event;
``*crps_error`` and ``*crps_spread`` are the parts of a CRPS (`nowcast.verification.crps`); ``event_table``
counts cells by observed event (0, 1) and number of members with the event; ``rank_count`` by the number of
members below what was observed; ``power`` is the spectrum of the members, averaged over them, and
``intensity`` the number of cells in each bin, likewise.
"""

TABLE = ("hits", "misses", "false_alarms")


@dataclass(frozen=True)
class ScoreSettings:
    """What the scores look at.

    Attributes:
        thresholds: Of events, mm/h; a rate of this or more is one.
        scales: Sides of the neighbourhoods of the pooled CRPS, km.
        windows: Sides of the windows of the fractions skill score, km.
        intensities: Lower edges of the bins of the intensity histogram, mm/h.
        probabilities: At which a forecast probability counts as a forecast of the event.
        margin: Cells along the border of the field that are not scored.
        seed: Of the ranks drawn among equal values.

    Raises:
        RefusedInput: If numbers are not above 0 (or 0, of intensities) or not in ascending order.
    """

    thresholds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    scales: tuple[float, ...] = (1.0, 4.0, 16.0)
    windows: tuple[float, ...] = (4.0, 16.0, 64.0)
    intensities: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    probabilities: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    margin: int = 0
    sal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_less({"margin": self.margin, "seed": self.seed}, than=0)
        for name in ("thresholds", "scales", "windows", "intensities", "probabilities"):
            values = getattr(self, name)
            lowest = 0 if name == "intensities" else np.nextafter(0, 1)
            ascending = all(low < high for low, high in zip(values[:-1], values[1:], strict=True))
            if not (values and ascending and values[0] >= lowest and np.isfinite(values[-1])):
                raise RefusedInput(
                    f"the {name} of a score are finite and above 0, from the smallest to the largest",
                    came=", ".join(f"{value:g}" for value in values) or "none",
                    do="correct them",
                )


def lead_sums(
    members: Array, observed: Array, mask: Array, settings: ScoreSettings, *, spacing: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """Sums of one forecast at one lead time against what fell.

    Args:
        members: mm/h, (M, H, W).
        observed: mm/h, (H, W).
        mask: True where the cell counts, (H, W).
        settings: What to look at.
        spacing: Between neighbouring cells, km.
        seed: Of the ranks drawn among equal values, beside that of the settings.

    Returns:
        The sums of `DIMS`, each with the sizes its dims have: thresholds, 2 events, 0 to M members and so on;
        and those of `nowcast.verification.sal.SAL_SUMS` if asked for.

    Raises:
        ValueError: If a side of the field is shorter than 2 cells.
        RefusedInput: If SAL is asked for and pysteps is not installed.
    """
    xp = namespace(members)
    members = floating(members)
    observed = xp.asarray(observed, dtype=members.dtype)
    seed = int(np.random.SeedSequence([settings.seed, seed]).generate_state(1)[0])
    levels = {"thresholds": settings.thresholds, "intensities": settings.intensities}
    found = cell_sums(members, observed, mask, **levels, seed=seed)
    if not bool(mask.all()):
        members, observed = (xp.where(mask, values, 0) for values in (members, observed))
    sums = found.sums | {
        "power": mean_power_spectrum(members, mask),
        "observed_power": mean_power_spectrum(observed[None], mask),
    }
    windows = Windows(mask, cells_along(settings.windows, spacing))
    sums |= _event_sums(found, observed, windows, settings.thresholds)
    sums |= _pooled_sums(members, observed, mask, cells_along(settings.scales, spacing), found.sums)
    objects = sal_sums(members[0], observed, mask) if settings.sal else {}
    return {name: np.asarray(sums[name], dtype=np.float64) for name in DIMS} | objects


def sums_of_leads(
    members: Sequence[Array] | Array,
    observed: Array,
    mask: Array,
    settings: ScoreSettings,
    *,
    spacing: float,
    seeds: Sequence[int],
    threads: int = 1,
) -> list[dict[str, np.ndarray]]:
    """Sums of one forecast at all its lead times; see `lead_sums`.

    Args:
        members: By lead time, mm/h, (M, H, W) each; taken when its turn comes.
        observed: mm/h, (lead_time, H, W).
        mask: True where the cell counts, (lead_time, H, W).
        settings: What to look at.
        spacing: Between neighbouring cells, km.
        seeds: Of the ranks drawn among equal values, one for each lead time.
        threads: Lead times that are worked on at a time, each with a copy or two of its members in memory.
    """

    def one(lead: int) -> dict[str, np.ndarray]:
        values = members[lead], observed[lead], mask[lead]
        return lead_sums(*values, settings, spacing=spacing, seed=seeds[lead])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(len(mask))))


def cells_along(lengths: tuple[float, ...], spacing: float) -> tuple[int, ...]:
    """Whole cells that are nearest to lengths, 1 or more; both in km."""
    return tuple(max(1, round(length / spacing)) for length in lengths)


def _event_sums(
    found: CellSums, seen: Array, windows: Windows, thresholds: Sequence[float]
) -> dict[str, np.ndarray]:
    """Contingency tables of the mean and of the matched mean, and the sums of the fractions skill scores."""
    sums: dict[str, list] = {name: [] for name in DIMS if name.endswith(TABLE) or name.startswith("fss_")}
    matched = matched_events(found.mean, found.counts, found.members)
    for level, counts, of_matched in zip(thresholds, found.counts, matched, strict=True):
        forecast, event = (found.mean >= level) & windows.mask, (seen >= level) & windows.mask
        for prefix, yes in (("", forecast), ("matched_", of_matched)):
            for name, both in zip(TABLE, (yes & event, ~yes & event, yes & ~event), strict=True):
                sums[f"{prefix}{name}"].append(float(both.sum()))
        fractions = windows.fractions(event)
        for kind, shares in (
            ("fss", windows.fractions(forecast)),
            ("fss_probability", windows.fractions(counts, of=found.members)),
        ):
            difference, reference = fraction_sums(shares, fractions)
            sums[f"{kind}_difference"].append(difference)
            sums[f"{kind}_reference"].append(reference)
    return {name: np.stack(values) for name, values in sums.items()}


def _pooled_sums(
    members: Array, seen: Array, mask: Array, sides: Sequence[int], of_cells: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Parts of the pooled CRPS by scale; neighbourhoods of one cell are the cells."""
    single = {"pooled_cells": of_cells["cells"]} | {
        f"pooled_{kind}_crps_{part}": of_cells[f"crps_{part}"]
        for kind in ("mean", "max")
        for part in ("error", "spread")
    }
    by_scale = [single if side == 1 else pooled_sums(members, seen, mask, side) for side in sides]
    return {name: np.stack([sums[name] for sums in by_scale]) for name in single}
