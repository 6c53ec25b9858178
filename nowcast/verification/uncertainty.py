"""How sure scores and differences between models are: intervals and tests from blocks of cases.

Forecasts that start minutes apart verify against the same frames and see the same weather, so that their
errors go together. Taking each for an independent case makes intervals far too narrow and tests far too sure
(Hamill 1999, doi:10.1175/1520-0434(1999)014<0155:HTFENP>2.0.CO;2; Wilks 2019, Statistical Methods in the
Atmospheric Sciences, chapter 5). The unit of chance is therefore a block of neighbouring cases (Künsch 1989,
doi:10.1214/aos/1176347265).

All models are scored on the same cells of the same cases, and the blocks drawn are the same for all, so that
what makes a case hard for every model cancels in their differences. Sums are added over the blocks drawn and
divided last: a score is of all cells of those blocks together, never a mean of scores by block.

There is no Diebold-Mariano test here. It is about the mean of a loss in an unbroken series, while CSI, FSS
and RMSE are ratios of sums, and cases have weights and gaps. Exchanging models by blocks serves those as
well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.verification.score_table import CONTINGENCY
from nowcast.verification.scores import GROUPS, score, skill

MADE_OF_ALL_MEMBERS = {"ensemble_variance", "rank_count"}
"""Sums that say nothing without the number of members they were made with."""
SUMS_OF: dict[str, tuple[str, ...]] = {
    name: needs for needs, gives, _ in GROUPS if MADE_OF_ALL_MEMBERS.isdisjoint(needs) for name in gives
} | dict.fromkeys(
    ("brier", "brier_skill_score", *(f"member_{row.name}" for row in CONTINGENCY)), ("event_table",)
)
"""Scores that intervals and tests can be made for, and the sums that each needs."""
HEADLINE = (
    "crps", "fair_crps", "pooled_mean_crps", "pooled_max_crps", "mae", "rmse", "bias", "csi", "matched_csi",
    "member_csi", "brier", "fss_probability", "log_spectral_distance",
)  # fmt: skip
"""Scores that get intervals if none are named."""
TESTED = ("crps", "pooled_mean_crps", "pooled_max_crps", "mae", "csi", "fss_probability")
"""Scores whose differences are tested if none are named."""
HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(24, "h")
FEW_BLOCKS = 10
"""With fewer an interval is but an indication."""
VALUES_AT_ONCE = 1 << 22
"""Sums of draws that are in memory together: 32 MiB of them, and some times that while they become scores."""


def block_labels(reference_times: np.ndarray, length: np.timedelta64) -> np.ndarray:
    """Which block each case belongs to.

    A run of cases ends where the next one starts ``length`` or more later. Each run is cut, from its first
    case on, into stretches of ``length``, so that cases of one block start less than that apart. Cases of one
    time, as several windows of a large field are, share a block.

    Args:
        reference_times: datetime64, (case,), in any order.
        length: Of a block.

    Returns:
        Numbers of the blocks from 0 in the order of time, (case,).

    Raises:
        RefusedInput: If the length is not above 0.
    """
    if length <= np.timedelta64(0):
        raise RefusedInput("blocks of cases last some time", came=length, do="give a longer block")
    times, place = np.unique(reference_times, return_inverse=True)
    opens_run = np.append(True, np.diff(times) >= length)
    run_start = times[opens_run][np.cumsum(opens_run) - 1]
    opens_block = opens_run | (np.diff((times - run_start) // length, prepend=0) != 0)
    return np.cumsum(opens_block)[place] - 1


def default_block_length(reference_times: np.ndarray, forecast_length: np.timedelta64) -> np.timedelta64:
    """A day where cases span ten days or more, otherwise the length of a forecast, an hour or more.

    Rain of one day is one weather situation. An archive of some hours has no ten days to draw from: there a
    block lasts as long as a forecast, so that only neighbouring blocks share verifying frames. The weather
    that these have in common makes intervals too narrow all the same.

    Args:
        reference_times: datetime64, (case,).
        forecast_length: The longest lead time.
    """
    span = np.max(reference_times) - np.min(reference_times)
    return max(DAY if span >= 10 * DAY else HOUR, forecast_length)


def add_by_block(sums: xr.Dataset, labels: np.ndarray) -> xr.Dataset:
    """Sums of the cases of each block, with their weights.

    The weight of a case that was sampled with probability q is 1/q: weighted sums estimate those over all
    cases there were (Horvitz and Thompson 1952, doi:10.1080/01621459.1952.10483446).

    Args:
        sums: By ``case, model, lead_time``, with the coordinate ``weight(case)``.
        labels: As `block_labels` gives them, (case,).

    Returns:
        The sums with ``block`` in place of ``case``. A model that lacks the sums of a case (NaN) has none.
    """
    belongs = labels == np.arange(labels.max() + 1)[:, None]
    return _combined(sums, belongs * sums["weight"].values, over="case", to=("block",))


def intervals(
    blocks: xr.Dataset,
    reference: str,
    *,
    scores: Sequence[str] = HEADLINE,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Paired block bootstrap: percentile intervals of scores, of differences to a reference, and of skill.

    A replicate is as many blocks as there are, drawn with replacement, the same for all models. Percentile
    intervals of few blocks are too narrow: for the mean of independent normal blocks an interval of 95 %
    holds the truth in about 84 % of all archives with 5 blocks, 90 % with 10 and 94 % with 40.

    An interval is NaN with fewer than 2 blocks, and where more than ``1 - level`` of the replicates leave the
    score undefined: with a level of 95 %, where an event occurs in fewer than about 3 blocks.

    Args:
        blocks: As `add_by_block` makes them.
        reference: Model that the others are compared with.
        scores: Of `SUMS_OF`; those whose sums are not there are left out.
        level: Of the intervals.
        replicates: Number of draws.
        seed: Of the draws.

    Returns:
        ``<score>_low`` and ``<score>_high``; ``<score>_difference`` (model - reference) and ``<score>_skill``
        with theirs; attributes ``blocks``, ``indicative`` (1 with fewer than 10 blocks) and the settings.

    Raises:
        RefusedInput: If the reference, a score, the level or the number of replicates cannot be used.
    """
    if not 0 < level < 1 or replicates < 1:
        raise RefusedInput(
            "a level lies between 0 and 1, and replicates are 1 or more",
            came=f"{level} and {replicates}",
            do="correct the number",
        )
    names = _available(blocks, reference, scores)
    sums, number = _needed(blocks, names), blocks.sizes["block"]
    times_drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), replicates)
    parts: dict[str, list[xr.DataArray]] = {name: [] for name in names}
    for scores_of_some in _scores_of_draws(_as_of_two(sums), times_drawn, names, dims=("draw",)):
        for name, values in scores_of_some.items():
            parts[str(name)].append(values)
    drawn = xr.Dataset({name: xr.concat(some, dim="draw") for name, some in parts.items()})
    drawn = _compared(drawn, reference)
    estimates = _compared(score(sums.sum("block", skipna=False), names=names), reference)
    result = dict(estimates.drop_vars(names).data_vars)
    for name, estimate in estimates.data_vars.items():
        ends = _percentile_interval(drawn[name].transpose("draw", *estimate.dims).values, level)
        for end, bound in zip(("low", "high"), ends, strict=True):
            limit = estimate.copy(data=bound).where(estimate.notnull() & (number > 1))
            what = f"{end} end of the {100 * level:g} % interval"
            result[f"{name}_{end}"] = _described(limit, what, like=estimate)
    settings = {"reference": reference, "level": level, "replicates": replicates, "seed": seed}
    return xr.Dataset(result, attrs=settings | _number_of_blocks(number))


def permutation_test(
    blocks: xr.Dataset,
    reference: str,
    scores: Sequence[str] = TESTED,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """Two-sided paired permutation test of every model against a reference, with blocks as units.

    If two models were equally good it would not matter which forecast of a block is whose. The two are
    exchanged in every choice of blocks, or in random ones where there are more choices than ``permutations``;
    the p-value is the share of choices with a difference of scores at least as large as the one found, and of
    N random choices (1 + those) / (1 + N). This is how Ravuri et al. 2021 (doi:10.1038/s41586-021-03854-z)
    tested DGMR, with every other week as the unit.

    Args:
        blocks: As `add_by_block` makes them.
        reference: Model that the others are tested against.
        scores: Of `SUMS_OF`; those whose sums are not there are left out.
        permutations: The largest number of choices to look at.
        seed: Of random choices.

    Returns:
        ``<score>_p_value``, NaN for the reference, for an undefined difference and with fewer than 2 blocks.
        Attributes ``blocks``, ``indicative``, ``exact`` (1 if all choices were looked at),
        ``smallest_p_value`` that the test can give, then 2 / 2^blocks, and the settings.

    Raises:
        RefusedInput: If the reference, a score or the number of permutations cannot be used.
    """
    if permutations < 1:
        raise RefusedInput("permutations are 1 or more", came=permutations, do="correct the number")
    names = _available(blocks, reference, scores)
    sums, number = _needed(blocks, names), blocks.sizes["block"]
    exchanged, exact = _exchanges(number, permutations, seed)
    as_large = _exchanged_as_large(_as_of_two(sums), reference, exchanged, names)
    share = (as_large + (not exact)) / (len(exchanged) + (not exact))
    total = score(sums.sum("block", skipna=False), names=names)
    defined = total.notnull()
    share = share.where(defined & defined.sel(model=reference, drop=True) & (number > 1))
    share = share.reset_coords(drop=True).reindex(model=blocks["model"].values)
    what = f"p-value of the difference to {reference}"
    result = {
        f"{name}_p_value": _described(values, what, like=total[name]).assign_attrs(units="1")
        for name, values in share.items()
    }
    smallest = max(2.0 ** (1 - number), 0 if exact else 1 / (1 + permutations))
    settings = {"reference": reference, "permutations": len(exchanged), "exact": int(exact), "seed": seed}
    return xr.Dataset(result, attrs=settings | {"smallest_p_value": smallest} | _number_of_blocks(number))


def _exchanged_as_large(
    sums: xr.Dataset, reference: str, exchanged: np.ndarray, names: Sequence[str]
) -> xr.Dataset:
    """In how many choices the difference of scores is at least as large as without any exchange.

    Args:
        sums: As `_as_of_two` makes them.
        reference: Model that the others are exchanged with.
        exchanged: 1 for each block whose sums are exchanged, (choice, block).
        names: Of the scores.
    """
    ours = sums.drop_sel(model=reference)
    beside = np.full(ours.sizes["model"], sums.get_index("model").get_loc(reference))
    theirs = sums.isel(model=beside).assign_coords(model=ours["model"])
    both = xr.concat([ours, theirs], dim="block")
    kept = 1 - exchanged
    sides = np.stack([np.hstack([kept, exchanged]), np.hstack([exchanged, kept])], axis=1)
    mine, yours = (score(side.sum("block"), names=names) for side in (ours, theirs))
    # Rounding must not make a difference that is the same in truth a smaller one.
    least = abs(mine - yours) - 1e-12 * (abs(mine) + abs(yours))
    found = xr.zeros_like(least)
    for scores in _scores_of_draws(both, sides, names, dims=("draw", "side")):
        smaller = abs(scores.isel(side=0) - scores.isel(side=1)) < least[list(scores)]
        # An undefined score is not smaller: it speaks for nothing, so not against the models being equal.
        found = found.assign(found[list(scores)] + (~smaller).sum("draw"))
    return found


def _scores_of_draws(
    sums: xr.Dataset, draws: np.ndarray, names: Sequence[str], *, dims: tuple[str, ...]
) -> Iterator[xr.Dataset]:
    """Scores of sums that are added over drawn blocks, some draws and some scores at a time.

    Args:
        sums: By ``block``.
        draws: How often each block counts, (``dims``..., block).
        names: Of the scores; those that are made of the same sums come together, for all draws in turn.
        dims: Of what is drawn, in place of ``block``.
    """
    for needs in dict.fromkeys(SUMS_OF[name] for name in names):
        some, group = sums[list(needs)], [name for name in names if SUMS_OF[name] == needs]
        values = sum(values.size for values in some.data_vars.values()) // sums.sizes["block"]
        rows = max(1, VALUES_AT_ONCE // max(1, values * draws[0, ..., 0].size))
        for first in range(0, len(draws), rows):
            yield score(_combined(some, draws[first : first + rows], over="block", to=dims), names=group)


def _combined(sums: xr.Dataset, shares: np.ndarray, *, over: str, to: tuple[str, ...]) -> xr.Dataset:
    """Sums over one dim, each of the old ones as often as ``shares`` (``to``..., ``over``) says."""
    kept = sums.drop_vars([name for name, values in sums.coords.items() if over in values.dims])
    result = {}
    for name, values in kept.data_vars.items():
        first = values.transpose(over, ...)
        result[name] = ((*to, *first.dims[1:]), np.tensordot(shares.astype(np.float64), first.values, 1))
    return xr.Dataset(result, coords=kept.coords)


def _compared(scores: xr.Dataset, reference: str) -> xr.Dataset:
    """Scores with their differences to the reference and their skill against it."""
    against = scores.sel(model=reference, drop=True)
    differences = {
        f"{name}_difference": _described(values - against[name], f"difference to {reference}", like=values)
        for name, values in scores.items()
    }
    return scores.assign(differences).merge(skill(scores, reference))


def _described(values: xr.DataArray, what: str, *, like: xr.DataArray) -> xr.DataArray:
    """With the unit of a score and a name made of the score's, and nothing else that is said of scores."""
    values.attrs = {"long_name": f"{what}: {like.attrs['long_name']}", "units": like.attrs["units"]}
    return values


def _percentile_interval(draws: np.ndarray, level: float) -> list[np.ndarray]:
    """Ends of the central share of draws (draw, ...); NaN where less than that share is defined."""
    ordered = np.sort(draws, axis=0)  # NaN comes last
    defined = np.isfinite(draws).sum(axis=0)
    ends = ((1 - level) / 2, (1 + level) / 2)
    return [
        np.where(defined >= level * len(draws), _at(ordered, end * np.maximum(defined - 1, 0)), np.nan)
        for end in ends
    ]


def _at(ordered: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Values at one place of each column, in proportion if that lies between two rows."""
    below, above = (
        np.take_along_axis(ordered, row(place).astype(int)[None], axis=0)[0] for row in (np.floor, np.ceil)
    )
    return below + (place % 1) * (above - below)


def _available(blocks: xr.Dataset, reference: str, scores: Sequence[str]) -> list[str]:
    """Which of the scores the sums are there for."""
    if reference not in blocks["model"].values:
        models = [str(name) for name in blocks["model"].values]
        raise RefusedInput("the reference is one of the models", came=reference, do=f"one of {models}")
    unknown = sorted(set(scores) - set(SUMS_OF))
    if unknown:
        raise RefusedInput(
            "intervals and tests are of scores they are made for",
            came=", ".join(unknown),
            do=f"one of {list(SUMS_OF)}",
        )
    return [name for name in scores if set(SUMS_OF[name]) <= set(blocks.data_vars)]


def _needed(blocks: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    return blocks[sorted({needed for name in names for needed in SUMS_OF[name]})]


def _number_of_blocks(number: int) -> dict[str, int]:
    return {"blocks": number, "indicative": int(number < FEW_BLOCKS)}


def _exchanges(number: int, permutations: int, seed: int) -> tuple[np.ndarray, bool]:
    """In which blocks the models are exchanged, (choice, block), and whether these are all choices."""
    if 2**number <= permutations:
        return (np.arange(2**number)[:, None] >> np.arange(number)) & 1, True
    return np.random.default_rng(seed).integers(0, 2, (permutations, number), dtype=np.int8), False


def _as_of_two(sums: xr.Dataset) -> xr.Dataset:
    """Sums that have the same scores of `SUMS_OF`, but are those of ensembles of two members.

    Sums of ensembles of different size cannot be exchanged: k members with an event are a probability of k /
    M, and the CRPS is error - (M - 1) / M spread. With two members for all, the spread becomes 2 / M spread
    and the error error - (1 - 2 / M) spread, which keeps the CRPS and the fair one, error - spread. Cells
    with 0, 1 and 2 members with the event are made so many that the number of cells and the sums of the
    probability and of its square stay, which the Brier score and the members' contingency table are made of.
    It is also less to draw from than counts of M + 1 kinds.
    """
    members = sums["member_count"]
    result = {}
    for name in map(str, sums.data_vars):
        if name.endswith("crps_spread"):
            error = name.replace("spread", "error")
            result[error] = sums[error] - (1 - 2 / members) * sums[name]
            result[name] = 2 / members * sums[name]
    if "event_table" in sums:
        table, probability = sums["event_table"], sums["forecast_count"] / members
        cells, first, second = (xr.dot(table, probability**power, dim="forecast_count") for power in range(3))
        one, two = 4 * (first - second), 2 * second - first
        result["event_table"] = xr.concat([cells - one - two, one, two], dim="forecast_count")
        sums = sums.drop_dims("forecast_count").assign_coords(forecast_count=[0, 1, 2])
    return sums.assign(result).assign_coords(member_count=xr.full_like(members, 2))
