"""Scores of yes-or-no forecasts, from the four fields of a contingency table."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from nowcast.verification.score_table import CONTINGENCY


def ratio(numerator: xr.DataArray, divisor: xr.DataArray) -> xr.DataArray:
    """The quotient, NaN where the divisor is 0."""
    return numerator / divisor.where(divisor != 0)


@dataclass(frozen=True)
class Contingency:
    """Cells, or cells of all members, by what was forecast and what was observed.

    Attributes:
        hits: Forecast and observed.
        false_alarms: Forecast, not observed.
        misses: Observed, not forecast.
        correct_negatives: Neither.
    """

    hits: xr.DataArray
    false_alarms: xr.DataArray
    misses: xr.DataArray
    correct_negatives: xr.DataArray

    def scores(self, prefix: str = "") -> dict[str, xr.DataArray]:
        """The scores of `nowcast.verification.score_table.CONTINGENCY`, by name with a prefix.

        Without any event, or with nothing but events, HSS and ETS are NaN: their formulas would give every
        forecast 0 there, as if it had been tried and had no skill.
        """
        hits, false_alarms, misses = self.hits, self.false_alarms, self.misses
        forecast, observed = hits + false_alarms, hits + misses
        other = false_alarms + self.correct_negatives
        cells = observed + other
        chance = ratio(forecast * observed, cells)
        twice = observed * (cells - forecast) + forecast * other
        values = {
            "csi": ratio(hits, observed + false_alarms),
            "pod": ratio(hits, observed),
            "far": ratio(false_alarms, forecast),
            "frequency_bias": ratio(forecast, observed),
            "hss": ratio(2 * (hits * self.correct_negatives - false_alarms * misses), twice),
            "ets": ratio(hits - chance, observed + false_alarms - chance),
        }
        tried = (observed > 0) & (other > 0)
        values |= {name: values[name].where(tried) for name in ("hss", "ets")}
        return {f"{prefix}{row.name}": values[row.name] for row in CONTINGENCY}
