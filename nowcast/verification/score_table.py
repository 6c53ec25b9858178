"""The scores by name: what each is, what a perfect forecast gets, and who defined it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

RAIN = "mm h-1"


@dataclass(frozen=True)
class Score:
    """One score, as `nowcast.verification.score` gives it.

    Attributes:
        name: Of the variable.
        long_name: What it is, for axes and tables.
        formula: In the symbols of `nowcast.verification.score_table.SYMBOLS`.
        reference: Who defined it, or where it is explained.
        dims: Beside those that the sums lead with.
        units: Of the value.
        perfect: Value of a perfect forecast; None where there is no such value.
        range: Lowest and highest value that there can be.
        orientation: Which values are better: ``higher``, ``lower``, ``nearer`` to the perfect one from both
            sides, or ``none`` where the value alone says nothing good or bad.
    """

    name: str
    long_name: str
    formula: str
    reference: str
    dims: tuple[str, ...] = ()
    units: str = "1"
    perfect: float | None = None
    range: tuple[float, float] = (0.0, 1.0)
    orientation: Literal["higher", "lower", "nearer", "none"] = "none"


SYMBOLS = {
    "a, b, c, d": "hits, false alarms, misses and correct negatives",
    "n": "a + b + c + d, all cells that count",
    "f, o": "rain forecast by the ensemble mean, rain observed",
    "g": "rain forecast by the probability-matched mean, of which the scores matched_ are: in the cell with "
    "the j-th largest f, the rate that is number floor((M + 1) / 2) + (j - 1) M of those of all members in "
    "all cells that count, the largest first; the other cells are dry",
    "<.>": "mean over all cells that count",
    "M": "number of members",
    "k": "number of members with the event in a cell",
    "n_k, o_k": "cells with that number, and the share of them in which the event was observed",
    "p_k": "k / M, the forecast probability",
    "s": "share of cells in which the event was observed",
    "error, spread": "<1/M sum_i |x_i - o|> and <1/(2 M (M - 1)) sum_ij |x_i - x_j|> of the members x_i",
    "H_k, F_k": "hit rate and false alarm rate of the forecast 'k members or more'",
}

_SCHAEFER = "Schaefer 1990, doi:10.1175/1520-0434(1990)005<0570:TCSIAA>2.0.CO;2"
_ROEBBER = "Roebber 2009, doi:10.1175/2008WAF2222159.1"
_HERSBACH = "Hersbach 2000, doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2"
_FERRO = "Ferro 2014, doi:10.1002/qj.2270"
_GNEITING = "Gneiting and Ranjan 2011, doi:10.1198/jbes.2010.08110"
_RAVURI = "Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z"
_MURPHY = "Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2"
_BRIER = "Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2"
_MASON = "Mason and Graham 2002, doi:10.1256/003590002320603584"
_CHAI = "Chai and Draxler 2014, doi:10.5194/gmd-7-1247-2014"
_FORTIN = "Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1"
_BROECKER = "Broecker and Smith 2007, doi:10.1175/WAF993.1"
_HAMILL = "Hamill 2001, doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2"
_WERNLI = "Wernli et al. 2008, doi:10.1175/2008MWR2415.1"
_ROBERTS = "Roberts and Lean 2008, doi:10.1175/2007MWR2123.1"
_EBERT = "Ebert 2001, doi:10.1175/1520-0493(2001)129<2461:AOAPMS>2.0.CO;2"
_JWGFVR = "WMO JWGFVR, https://www.cawcr.gov.au/projects/verification/"

CONTINGENCY = (
    Score("csi", "critical success index", "a / (a + b + c)", _SCHAEFER,
          perfect=1.0, orientation="higher"),
    Score("pod", "probability of detection", "a / (a + c)", _ROEBBER,
          perfect=1.0, orientation="higher"),
    Score("far", "false alarm ratio", "b / (a + b)", "Barnes et al. 2009, doi:10.1175/2009WAF2222300.1",
          perfect=0.0, orientation="lower"),
    Score("frequency_bias", "events forecast / events observed", "(a + b) / (a + c)", _ROEBBER,
          perfect=1.0, range=(0.0, inf), orientation="nearer"),
    Score("hss", "Heidke skill score", "2 (a d - b c) / ((a + c) (c + d) + (a + b) (b + d))",
          "Heidke 1926, doi:10.1080/20014422.1926.11881138",
          perfect=1.0, range=(-1.0, 1.0), orientation="higher"),
    Score("ets", "equitable threat score", "(a - r) / (a + b + c - r), r = (a + b) (a + c) / n", _SCHAEFER,
          perfect=1.0, range=(-1 / 3, 1.0), orientation="higher"),
)  # fmt: skip


def _error(
    name: str, long_name: str, formula: str, reference: str, dims: tuple[str, ...] = (), *, units: str = RAIN
) -> Score:
    """A distance from what was observed: 0 is perfect, more is worse."""
    return Score(name, long_name, formula, reference, dims, units, 0.0, (0.0, inf), "lower")


def _of(what: str, prefix: str, dims: tuple[str, ...], scores: tuple[Score, ...]) -> list[Score]:
    return [
        replace(row, name=f"{prefix}{row.name}", long_name=f"{row.long_name} of {what}", dims=dims)
        for row in scores
    ]


def _of_matched(scores: tuple[Score, ...]) -> list[Score]:
    rows = _of("the probability-matched mean", "matched_", ("threshold",), scores)
    return [replace(row, reference=f"{row.reference}; {_EBERT}") for row in rows]


_ERRORS = [
    _error("mae", "mean absolute error of the ensemble mean", "<|f - o|>", _CHAI),
    _error("rmse", "root mean square error of the ensemble mean", "sqrt <(f - o)^2>", _CHAI),
    Score("bias", "mean rain forecast / mean rain observed", "<f> / <o>", _JWGFVR,
          perfect=1.0, range=(0.0, inf), orientation="nearer"),
    Score("correlation", "correlation of the ensemble mean with what was observed",
          "<(f - <f>) (o - <o>)> / sqrt(<(f - <f>)^2> <(o - <o>)^2>)", _JWGFVR,
          perfect=1.0, range=(-1.0, 1.0), orientation="higher"),
    Score("spread", "ensemble spread", "sqrt <1/(M - 1) sum_i (x_i - f)^2>", _FORTIN, units=RAIN,
          range=(0.0, inf)),
    Score("spread_skill", "ensemble spread / error of the ensemble mean", "sqrt((M + 1) / M) spread / rmse",
          _FORTIN, perfect=1.0, range=(0.0, inf), orientation="nearer"),
]  # fmt: skip


def _crps(
    name: str, what: str, of: str, references: tuple[str, str], dims: tuple[str, ...] = ()
) -> list[Score]:
    """The standard and the fair score."""
    long_name = f"continuous ranked probability score{what}"
    return [
        _error(name, long_name, f"error - (M - 1) / M spread{of}", references[0], dims),
        _error(f"fair_{name}", f"fair {long_name}", f"error - spread{of}", references[1], dims),
    ]


_CRPS = [
    *_crps("crps", "", "", (_HERSBACH, _FERRO)),
    *_crps("tw_crps", " above the threshold", ", of max(x_i, threshold) and max(o, threshold)",
           (_GNEITING, f"{_GNEITING}; {_FERRO}"), ("threshold",)),
    *_crps("pooled_mean_crps", " of the mean rain of neighbourhoods", ", of the means of neighbourhoods",
           (_RAVURI, f"{_RAVURI}; {_FERRO}"), ("scale",)),
    *_crps("pooled_max_crps", " of the largest rain of neighbourhoods", ", of the maxima of neighbourhoods",
           (_RAVURI, f"{_RAVURI}; {_FERRO}"), ("scale",)),
]  # fmt: skip

_EVENT, _COUNT = ("threshold",), ("threshold", "forecast_count")
_PROBABILITY = [
    Score("brier", "Brier score", "sum_k n_k (o_k (1 - p_k)^2 + (1 - o_k) p_k^2) / n", _BRIER, _EVENT,
          perfect=0.0, orientation="lower"),
    Score("fair_brier", "fair Brier score", "brier - sum_k n_k p_k (1 - p_k) / ((M - 1) n)", _FERRO, _EVENT,
          perfect=0.0, orientation="lower"),
    Score("brier_reliability", "reliability part of the Brier score", "sum_k n_k (p_k - o_k)^2 / n", _MURPHY,
          _EVENT, perfect=0.0, orientation="lower"),
    Score("brier_resolution", "resolution part of the Brier score", "sum_k n_k (o_k - s)^2 / n", _MURPHY,
          _EVENT, range=(0.0, 0.25), orientation="higher"),
    Score("brier_uncertainty", "uncertainty part of the Brier score", "s (1 - s)", _MURPHY, _EVENT,
          range=(0.0, 0.25)),
    Score("brier_skill_score", "Brier skill score against the observed frequency",
          "1 - brier / brier_uncertainty", _MURPHY, _EVENT,
          perfect=1.0, range=(-inf, 1.0), orientation="higher"),
    Score("observed_frequency", "observed frequency of what was forecast with this probability", "o_k",
          _BROECKER, _COUNT),
    Score("forecast_share", "share of cells with this forecast probability", "n_k / n", _BROECKER, _COUNT),
    Score("hit_rate", "events forecast by this number of members or more / events", "H_k", _MASON, _COUNT),
    Score("false_alarm_rate", "false alarms of this number of members or more / cells without event", "F_k",
          _MASON, _COUNT),
    Score("roc_area", "area under the relative operating characteristic",
          "sum_k (F_k - F_(k+1)) (H_k + H_(k+1)) / 2", _MASON, _EVENT, perfect=1.0, orientation="higher"),
    Score("economic_value", "relative economic value at the best number of members",
          "max over k in 1..M of (min(q, s) - F_k q (1 - s) + H_k s (1 - q) - s) / (min(q, s) - q s), "
          "q = cost / loss", "Richardson 2000, doi:10.1002/qj.49712656313", ("threshold", "cost_loss"),
          perfect=1.0, range=(-inf, 1.0), orientation="higher"),
    Score("rank_frequency", "share of cells with this number of members below what was observed",
          "n_rank / n", _HAMILL, ("rank",)),
    Score("rank_flatness", "reliability index of the rank histogram",
          "sum over ranks of |n_rank / n - 1 / (M + 1)|",
          "Delle Monache et al. 2006, doi:10.1029/2005JD006917", perfect=0.0, range=(0.0, 2.0),
          orientation="lower"),
]  # fmt: skip

_SPACE = [
    *(
        Score(f"fss{suffix}", f"fractions skill score of the {what}",
              "1 - sum (F - O)^2 / sum (F^2 + O^2), F and O the fractions of the windows", _ROBERTS,
              ("threshold", "window"), perfect=1.0, orientation="higher")
        for suffix, what in (("", "ensemble mean"), ("_probability", "probability"))
    ),
    _error("log_spectral_distance", "log-spectral distance of the members",
           "sqrt(mean over rings of (10 log10(P_members / P_observed))^2)",
           "Harris et al. 2022, doi:10.1029/2022MS003120", units="dB"),
    Score("intensity_share", "share of cells with rain of this intensity, forecast",
          "n_bin / n, mean over members", _JWGFVR, ("intensity_bin",)),
    Score("observed_intensity_share", "share of cells with rain of this intensity, observed", "n_bin / n",
          _JWGFVR, ("intensity_bin",)),
]  # fmt: skip

_SAL = [
    Score(f"sal_{name}", f"mean {what} of the first member (SAL)", formula, _WERNLI, perfect=0.0,
          range=(0.0, 2.0), orientation="lower")
    for name, what, formula in (
        ("structure", "error of structure", "mean |S|"),
        ("amplitude", "error of amplitude", "mean |A|"),
        ("location", "error of location", "mean L"),
    )
]  # fmt: skip

_COUNTS = [
    Score("cells", "cells that count", "n", "", range=(0.0, inf)),
    Score("events", "cells with an observed event", "a + c", "", ("threshold",), range=(0.0, inf)),
    Score("pooled_cells", "neighbourhoods that count", "n", "", ("scale",), range=(0.0, inf)),
    Score("sal_cases", "fields in which SAL is defined", "n", "", range=(0.0, inf)),
]

SCORES: dict[str, Score] = {
    row.name: row
    for row in (
        *_of("the ensemble mean", "", ("threshold",), CONTINGENCY),
        *_of_matched(CONTINGENCY),
        *_of("the members, pooled", "member_", ("threshold",), CONTINGENCY),
        *_of("the probability", "probability_", ("threshold", "probability"), CONTINGENCY[:3]),
        *_ERRORS,
        *_CRPS,
        *_PROBABILITY,
        *_SPACE,
        *_SAL,
        *_COUNTS,
    )
}
"""All scores by name, in the order of `nowcast.verification.score`."""
