"""Scores from sums: add over cases first, divide last. `SCORES` says what each score is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial

import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.verification.contingency import Contingency, ratio
from nowcast.verification.probability import (
    ROUNDING,
    EventCounts,
    brier_scores,
    economic_value,
    member_scores,
    probability_scores,
    rank_scores,
    reliability_diagram,
    roc,
)
from nowcast.verification.sal import SAL_SUMS
from nowcast.verification.score_table import CONTINGENCY, SCORES, Score
from nowcast.verification.spectra import log_spectral_distance
from nowcast.verification.sums import TABLE, ScoreSettings

DEFAULTS = ScoreSettings()
COST_LOSS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the economic value; events are rare, and the value is largest where the ratio is their frequency."""
NO_VARIANCE = 1e-6
"""Share of the mean square below which a variance is the rounding of sums in single precision."""

Values = dict[str, xr.DataArray]
Group = tuple[tuple[str, ...], tuple[str, ...], Callable[[xr.Dataset], Values]]
"""Sums that are needed, scores that they give, and how."""
EventGroup = tuple[tuple[str, ...], Callable[[EventCounts], Values]]
"""Scores that the event counts give, and how."""


def score(
    sums: xr.Dataset,
    settings: ScoreSettings = DEFAULTS,
    *,
    cost_loss: Sequence[float] = COST_LOSS,
    names: Collection[str] | None = None,
) -> xr.Dataset:
    """Scores of sums that are already added over the cases that count.

    A score whose divisor is 0 is NaN: nothing was forecast or nothing observed that it could be judged by.
    ``cells``, ``events`` and ``pooled_cells`` say how much there was. Fair scores, ``spread`` and
    ``spread_skill`` are NaN for a single member.

    Args:
        sums: As `label_sums` makes them, with any leading dims; scores whose sums are not there are left out.
        settings: The probabilities at which the event counts as forecast.
        cost_loss: Cost/loss ratios of the economic value; without any it is left out.
        names: Scores wanted; all that can be made if not given.

    Returns:
        The variables of `SCORES` with the leading dims and their own ones, and beside the coordinates of the
        sums ``probability``, ``cost_loss`` and ``forecast_probability`` (NaN beyond a model's members).

    Raises:
        RefusedInput: If a wanted score is unknown or its sums are not there, or ``member_count`` is not.
    """
    if "member_count" not in sums.coords:
        raise RefusedInput(
            "sums to score have the coordinate member_count",
            came=f"coordinates {', '.join(map(str, sums.coords))}",
            do="make them with label_sums and keep its coordinates",
        )
    # All arrays share their axes; xarray would compare them at every step.
    bare = sums.drop_vars(sums.coords).assign(member_count=sums["member_count"].variable)
    found: Values = {}
    for gives, make in _makers(bare, settings.probabilities, cost_loss):
        if names is None or not set(names).isdisjoint(gives):
            found |= make()
    lacking = sorted(set(names or ()) - set(found))
    if lacking:
        raise RefusedInput(
            "a score is in the table of scores and its sums are there",
            came=", ".join(lacking),
            do="give one of nowcast.verification.SCORES, and sums of all kinds",
        )
    chosen = [name for name in SCORES if name in (found if names is None else names)]
    scores = xr.Dataset({name: _described(name, found[name]) for name in chosen})
    axes = {name: axis for name, axis in sums.coords.items() if set(axis.dims) <= set(scores.dims)}
    return scores.assign_coords(axes)


def skill(scores: xr.Dataset, reference: str) -> xr.Dataset:
    """Skill of every model against one of them: 1 is perfect, 0 is the reference, less is worse.

    skill = (score - reference) / (perfect - reference), NaN where the reference is perfect. Scores that may
    miss the perfect value on either side (``bias``, ``frequency_bias``, ``spread_skill``) count by their
    distance from it: skill = 1 - |perfect - score| / |perfect - reference|.

    Args:
        scores: As `score` makes them, with dim ``model``.
        reference: Name of the model to compare with.

    Returns:
        A variable ``<score>_skill`` for every score that has a perfect value.

    Raises:
        RefusedInput: If the reference is not among the models.
    """
    models = [str(name) for name in scores["model"].values]
    if reference not in models:
        raise RefusedInput("the reference is one of the models", came=reference, do=f"give one of {models}")
    against = scores.sel(model=reference, drop=True)
    result = {}
    for name in scores.data_vars:
        row = SCORES.get(str(name))
        if row is None or row.perfect is None:
            continue
        room, left = row.perfect - against[name], row.perfect - scores[name]
        if row.orientation == "nearer":
            room, left = abs(room), abs(left)
        result[f"{name}_skill"] = 1 - ratio(left, room)
        result[f"{name}_skill"].attrs = {
            "long_name": f"skill in {row.long_name} against {reference}", "units": "1", "perfect_value": 1.0
        }  # fmt: skip
    return xr.Dataset(result)


def _described(name: str, values: xr.DataArray) -> xr.DataArray:
    row = SCORES[name]
    attributes: dict = {"long_name": row.long_name, "units": row.units, "references": row.reference}
    if row.perfect is not None:
        attributes["perfect_value"] = row.perfect
    values = values.transpose(..., *row.dims)
    values.attrs = attributes
    return values


def _makers(
    sums: xr.Dataset, cuts: Sequence[float], cost_loss: Sequence[float]
) -> list[tuple[tuple[str, ...], Callable[[], Values]]]:
    """Names of the scores that these sums give, and what makes them."""
    makers: list[tuple[tuple[str, ...], Callable[[], Values]]] = [
        (gives, partial(formula, sums)) for needs, gives, formula in GROUPS if set(needs) <= set(sums)
    ]
    if "event_table" not in sums:
        return makers
    counts = cache(lambda: EventCounts(sums))
    groups = EVENT_GROUPS + (
        (_named("probability_", CONTINGENCY[:3]), partial(probability_scores, cuts=cuts)),
        (("economic_value",), partial(economic_value, cost_loss=cost_loss)),
    )
    return makers + [(gives, partial(_of_counts, formula, counts)) for gives, formula in groups]


def _of_counts(formula: Callable[[EventCounts], Values], counts: Callable[[], EventCounts]) -> Values:
    return formula(counts())


def _named(prefix: str, rows: Sequence[Score]) -> tuple[str, ...]:
    return tuple(f"{prefix}{row.name}" for row in rows)


def _number(sums: xr.Dataset, *, name: str) -> Values:
    return {name: sums[name]}


def _contingency(sums: xr.Dataset, *, prefix: str) -> Values:
    """Of one field, whose correct negatives are what is left of the cells."""
    hits, false_alarms, misses = (sums[f"{prefix}{name}"] for name in ("hits", "false_alarms", "misses"))
    left = sums["cells"] - hits - false_alarms - misses
    # Sums of weighted cells differ by rounding where nothing is left.
    left = left.where(left > ROUNDING * sums["cells"], 0)
    return Contingency(hits, false_alarms, misses, left).scores(prefix)


def _events(sums: xr.Dataset) -> Values:
    return {"events": sums["hits"] + sums["misses"]}


def _contingency_group(prefix: str) -> Group:
    needs = ("cells", *(f"{prefix}{name}" for name in TABLE))
    return needs, _named(prefix, CONTINGENCY), partial(_contingency, prefix=prefix)


def _mae(sums: xr.Dataset) -> Values:
    return {"mae": ratio(sums["absolute_error"], sums["cells"])}


def _bias(sums: xr.Dataset) -> Values:
    return {"bias": ratio(sums["forecast"], sums["observed"])}


def _rmse(sums: xr.Dataset) -> Values:
    return {"rmse": ratio(sums["squared_error"], sums["cells"]) ** 0.5}


def _correlation(sums: xr.Dataset) -> Values:
    """Pearson's, of cells; NaN where one of the two fields is the same everywhere."""
    cells = sums["cells"]
    means = {name: ratio(sums[name], cells) for name in ("forecast", "observed")}
    variances = []
    for name, mean in means.items():
        square = ratio(sums[f"{name}_squared"], cells)
        variance = square - mean**2
        variances.append(variance.where(variance > NO_VARIANCE * square))
    covariance = ratio(sums["product"], cells) - means["forecast"] * means["observed"]
    # Each root by itself: the product of two small variances may be too small for a number.
    correlation = covariance / (variances[0] ** 0.5 * variances[1] ** 0.5)
    return {"correlation": correlation.clip(-1, 1)}


def _spread(sums: xr.Dataset) -> Values:
    members = sums["member_count"]
    spread = ratio(sums["ensemble_variance"], sums["cells"]).where(members > 1) ** 0.5
    rmse = ratio(sums["squared_error"], sums["cells"]) ** 0.5
    return {"spread": spread, "spread_skill": ratio(((members + 1) / members) ** 0.5 * spread, rmse)}


def _sal(sums: xr.Dataset) -> Values:
    """Means over fields in which SAL is defined."""
    fields = sums["sal_cases"]
    return {name: ratio(sums[name], fields) for name in SAL_SUMS[1:]} | {"sal_cases": fields}


def _crps(sums: xr.Dataset, *, name: str, cells: str) -> Values:
    members = sums["member_count"]
    error, spread = (ratio(sums[f"{name}_{part}"], sums[cells]) for part in ("error", "spread"))
    return {
        name: error - spread * (members - 1) / members,
        f"fair_{name}": (error - spread).where(members > 1),
    }


def _crps_group(name: str, cells: str) -> Group:
    """One kind of CRPS, standard and fair."""
    needs = (f"{name}_error", f"{name}_spread", cells)
    return needs, (name, f"fair_{name}"), partial(_crps, name=name, cells=cells)


def _fractions(sums: xr.Dataset, *, name: str) -> Values:
    return {name: 1 - ratio(sums[f"{name}_difference"], sums[f"{name}_reference"])}


def _fractions_group(name: str) -> Group:
    return (f"{name}_difference", f"{name}_reference"), (name,), partial(_fractions, name=name)


def _spectra(sums: xr.Dataset) -> Values:
    """Of the spectra added over all cases."""
    distance = xr.apply_ufunc(
        log_spectral_distance, sums["power"], sums["observed_power"], input_core_dims=[["ring"], ["ring"]]
    )
    return {"log_spectral_distance": distance}


def _intensities(sums: xr.Dataset) -> Values:
    return {
        "intensity_share": ratio(sums["intensity"], sums["cells"]),
        "observed_intensity_share": ratio(sums["observed_intensity"], sums["cells"]),
    }


GROUPS: tuple[Group, ...] = (
    _contingency_group(""),
    _contingency_group("matched_"),
    (("hits", "misses"), ("events",), _events),
    (("cells", "absolute_error"), ("mae",), _mae),
    (("cells", "squared_error"), ("rmse",), _rmse),
    (("forecast", "observed"), ("bias",), _bias),
    (
        ("cells", "forecast", "observed", "forecast_squared", "observed_squared", "product"),
        ("correlation",),
        _correlation,
    ),
    (("cells", "squared_error", "ensemble_variance"), ("spread", "spread_skill"), _spread),
    _crps_group("crps", "cells"),
    _crps_group("tw_crps", "cells"),
    _crps_group("pooled_mean_crps", "pooled_cells"),
    _crps_group("pooled_max_crps", "pooled_cells"),
    (("rank_count",), ("rank_frequency", "rank_flatness"), rank_scores),
    _fractions_group("fss"),
    _fractions_group("fss_probability"),
    (("power", "observed_power"), ("log_spectral_distance",), _spectra),
    (
        ("cells", "intensity", "observed_intensity"),
        ("intensity_share", "observed_intensity_share"),
        _intensities,
    ),
    (SAL_SUMS, SAL_SUMS, _sal),
    (("cells",), ("cells",), partial(_number, name="cells")),
    (("pooled_cells",), ("pooled_cells",), partial(_number, name="pooled_cells")),
)
EVENT_GROUPS: tuple[EventGroup, ...] = (
    ((*_named("member_", CONTINGENCY), "events"), member_scores),
    (
        (
            "brier", "fair_brier", "brier_reliability", "brier_resolution", "brier_uncertainty",
            "brier_skill_score",
        ),
        brier_scores,
    ),
    (("observed_frequency", "forecast_share"), reliability_diagram),
    (("hit_rate", "false_alarm_rate", "roc_area"), roc),
)  # fmt: skip
