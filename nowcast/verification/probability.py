"""Scores of the forecast probability and of the ranks, from counts of cells.

The forecast probability of an event is k / M, k of M members with the event. `EventCounts` holds how many
cells had each k, with and without the event observed; all these scores follow from it, exactly. Models may
have fewer members than the counts have room for; what is beyond theirs counts for nothing, and is NaN in
curves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nowcast.verification.contingency import Contingency, ratio

COUNT = "forecast_count"
ROUNDING = 1e-9
"""Of a product of a probability and a number of members: 0.3 * 10 members is 3, and 0.7 * 10 is 7."""


class EventCounts:
    """Cells by number of members with the event, with and without the event observed.

    Args:
        sums: With ``event_table`` (..., event, forecast_count) and the coordinate ``member_count``.
    """

    def __init__(self, sums: xr.Dataset) -> None:
        table = sums["event_table"]
        self.members = sums["member_count"]
        self.number = xr.DataArray(np.arange(table.sizes[COUNT]), dims=COUNT)
        self.exists = self.number <= self.members
        self.probability = self.number / self.members
        table = table.where(self.exists, 0).drop_vars(COUNT, errors="ignore")
        self.others, self.events = (table.isel(event=event, drop=True) for event in (0, 1))
        # Sums that are NaN stay NaN instead of no cells.
        self.event_total, self.other_total = (
            counts.sum(COUNT, skipna=False) for counts in (self.events, self.others)
        )
        self.cells = self.event_total + self.other_total

    def of_members(self) -> Contingency:
        """Every member's cells counted by themselves."""
        without = self.members - self.number
        return Contingency(
            hits=xr.dot(self.events, self.number, dim=COUNT),
            false_alarms=xr.dot(self.others, self.number, dim=COUNT),
            misses=xr.dot(self.events, without, dim=COUNT),
            correct_negatives=xr.dot(self.others, without, dim=COUNT),
        )

    def of_probabilities(self, cuts: Sequence[float]) -> Contingency:
        """The event counts as forecast where its probability is the cut or more, by ``probability``."""
        axis = ("probability", list(cuts), {"long_name": "probability from which on it counts", "units": "1"})
        levels = xr.DataArray(list(cuts), {"probability": axis}, dims="probability")
        yes = (self.number >= levels * self.members - ROUNDING).astype(float)
        return Contingency(
            hits=xr.dot(self.events, yes, dim=COUNT),
            false_alarms=xr.dot(self.others, yes, dim=COUNT),
            misses=xr.dot(self.events, 1 - yes, dim=COUNT),
            correct_negatives=xr.dot(self.others, 1 - yes, dim=COUNT),
        )

    def at_least(self) -> tuple[xr.DataArray, xr.DataArray]:
        """Cells with this number of members or more, with and without the event observed."""
        backwards = {COUNT: slice(None, None, -1)}
        events, others = (
            counts.isel(backwards).cumsum(COUNT).isel(backwards) for counts in (self.events, self.others)
        )
        return events, others


def member_scores(counts: EventCounts) -> dict[str, xr.DataArray]:
    """Contingency scores of the members, pooled, and the number of events."""
    return counts.of_members().scores("member_") | {"events": counts.event_total}


def probability_scores(counts: EventCounts, cuts: Sequence[float]) -> dict[str, xr.DataArray]:
    """CSI, POD and FAR of the event where its probability is a cut or more."""
    values = counts.of_probabilities(cuts).scores("probability_")
    return {f"probability_{name}": values[f"probability_{name}"] for name in ("csi", "pod", "far")}


def brier_scores(counts: EventCounts) -> dict[str, xr.DataArray]:
    """Brier score, standard and fair, and its decomposition over the M + 1 probabilities.

    brier = reliability - resolution + uncertainty holds exactly, because cells are grouped by the
    probabilities themselves and not by intervals of them (Murphy 1973).
    """
    events, members, probability = counts.events, counts.members, counts.probability
    both = events + counts.others
    missed = xr.dot(events, (1 - probability) ** 2, dim=COUNT)
    brier = ratio(missed + xr.dot(counts.others, probability**2, dim=COUNT), counts.cells)
    sampling = xr.dot(both, probability * (1 - probability), dim=COUNT) / (members - 1).where(members > 1)
    frequency, base = ratio(events, both), ratio(counts.event_total, counts.cells)
    uncertainty = base * (1 - base)
    return {
        "brier": brier,
        "fair_brier": brier - ratio(sampling, counts.cells),
        "brier_reliability": ratio((both * (frequency - probability) ** 2).sum(COUNT), counts.cells),
        "brier_resolution": ratio((both * (frequency - base) ** 2).sum(COUNT), counts.cells),
        "brier_uncertainty": uncertainty,
        "brier_skill_score": 1 - ratio(brier, uncertainty),
    }


def reliability_diagram(counts: EventCounts) -> dict[str, xr.DataArray]:
    """How often the event was observed, and how often it was forecast, by number of members."""
    both = counts.events + counts.others
    curves = {"observed_frequency": ratio(counts.events, both), "forecast_share": ratio(both, counts.cells)}
    return {name: _labelled(values, counts) for name, values in curves.items()}


def roc(counts: EventCounts) -> dict[str, xr.DataArray]:
    """Relative operating characteristic, and the area under it with its ends (0, 0) and (1, 1)."""
    events, others = counts.at_least()
    hit_rate, false_alarm_rate = ratio(events, counts.event_total), ratio(others, counts.other_total)
    # Of the trapezium between k and k + 1 members: its width, and its height in the middle.
    width, middle = (
        ratio(counts.others, counts.other_total),
        hit_rate - ratio(counts.events, 2 * counts.event_total),
    )
    return {
        "hit_rate": _labelled(hit_rate, counts),
        "false_alarm_rate": _labelled(false_alarm_rate, counts),
        "roc_area": (width * middle).sum(COUNT, skipna=False),
    }


def economic_value(counts: EventCounts, cost_loss: Sequence[float]) -> dict[str, xr.DataArray]:
    """Value of the forecast to users of each cost/loss ratio who act at the number of members best for them.

    1 is the value of knowing the future and 0 that of the observed frequency alone. Users act if 1 to M
    members have the event; acting always or never needs no forecast and is not among their choices, so that a
    forecast that is worse than none shows a negative value.

    Args:
        counts: Cells by number of members with the event.
        cost_loss: Cost of acting / loss avoided by it, in between 0 and 1.
    """
    events, others = (ratio(acted, counts.cells) for acted in counts.at_least())
    decides = counts.exists & (counts.number > 0)
    base = ratio(counts.event_total, counts.cells)
    values = []
    # One ratio at a time: all at once would take as many times the memory.
    for quotient in cost_loss:
        gain = (events * (1 - quotient) - others * quotient).where(decides, -np.inf).max(COUNT, skipna=False)
        climatology = base.clip(max=quotient)
        values.append(ratio(climatology - base + gain, climatology - base * quotient))
    if not values:
        return {}
    axis = xr.DataArray(list(cost_loss), dims="cost_loss", name="cost_loss")
    axis.attrs = {"long_name": "cost / loss", "units": "1"}
    return {"economic_value": xr.concat(values, dim=axis)}


def rank_scores(sums: xr.Dataset) -> dict[str, xr.DataArray]:
    """Rank histogram as shares of the cells, and its reliability index (Delle Monache et al. 2006)."""
    counts, members = sums["rank_count"], sums["member_count"]
    exists = xr.DataArray(np.arange(counts.sizes["rank"]), dims="rank") <= members
    counts = counts.where(exists, 0)
    frequency = ratio(counts, counts.sum("rank", skipna=False)).where(exists)
    flatness = abs(frequency - 1 / (members + 1)).sum("rank", min_count=1)
    return {"rank_frequency": frequency, "rank_flatness": flatness}


def _labelled(curve: xr.DataArray, counts: EventCounts) -> xr.DataArray:
    """NaN beyond the members that there are, with the number of members and the probability beside it."""
    probability = counts.probability.where(counts.exists).reset_coords(drop=True)
    probability.attrs = {"long_name": "forecast probability", "units": "1"}
    return curve.where(counts.exists).assign_coords(
        {COUNT: counts.number, "forecast_probability": probability}
    )
