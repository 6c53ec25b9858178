"""Continuous ranked probability score of ensembles, standard and fair, whole or above a threshold.

The score of the members' empirical distribution (Hersbach 2000,
doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2) is made of two parts that add over cells,

    error  = 1/M sum_i |x_i - y|
    spread = 1/(2 M (M - 1)) sum_ij |x_i - x_j| = 1/(M (M - 1)) sum_r<=M/2 (M + 1 - 2 r) (x_(M+1-r) - x_(r)),

x_(r) the members in ascending order. CRPS = error - (M - 1)/M spread; the fair CRPS = error - spread does not
depend on the number of members in expectation (Ferro 2014, doi:10.1002/qj.2270) and is undefined for one.

Threshold-weighted (Gneiting and Ranjan 2011, doi:10.1198/jbes.2010.08110): rain below t counts as t, so that
only what happens above it is scored; the same two parts of max(x, t) and max(y, t).
"""

from __future__ import annotations

from nowcast.verification.arrays import Array, blocks, copied, floating, namespace, sort_members


def ensemble_crps(members: Array, observed: Array, *, fair: bool = False) -> Array:
    """CRPS of an ensemble in every cell.

    Args:
        members: (M, ...).
        observed: (...), in the same unit.
        fair: The fair score instead of that of the members' empirical distribution.

    Returns:
        (...), in the unit of the members; a single member gives |x - y|, and a fair score of NaN. NaN where
        a member or the observation is missing.
    """
    xp = namespace(members)
    members = floating(members)
    count = members.shape[0]
    rows = [member.reshape(-1) for member in members]
    truth = xp.asarray(observed, dtype=members.dtype).reshape(-1)
    result = xp.empty_like(truth)
    for cells in blocks(truth.shape[0], truth):
        ordered = sort_members([copied(row[cells]) for row in rows])
        error, spread = crps_parts(ordered, truth[cells])
        result[cells] = crps_of(error, spread, count, fair=fair)
    return result.reshape(observed.shape)


def crps_parts(
    ordered: list[Array], observed: Array, *, threshold: float | None = None
) -> tuple[Array, Array]:
    """Error and spread of sorted members in every cell.

    Args:
        ordered: Members, ascending, M arrays (N,).
        observed: (N,).
        threshold: Above which rain is scored; all of it if not given.

    Returns:
        Error and spread, (N,) each; the spread of one member is 0.
    """
    if threshold is not None:
        ordered, observed = [row.clip(threshold) for row in ordered], observed.clip(threshold)
    xp, count = namespace(observed), len(ordered)
    error, spread, work = (xp.zeros_like(observed) for _ in range(3))
    for row in ordered:
        xp.subtract(row, observed, out=work)
        xp.abs(work, out=work)
        error += work
    # From the outside in: every difference is 0 or more, and equal members have no spread at all.
    for rank in range(count // 2):
        xp.subtract(ordered[count - 1 - rank], ordered[rank], out=work)
        xp.multiply(work, count - 1 - 2 * rank, out=work)
        spread += work
    error /= count
    spread /= max(count * (count - 1), 1)
    return error, spread


def crps_of(error: Array, spread: Array, count: int, *, fair: bool) -> Array:
    """The score from its two parts, of M members."""
    if fair and count == 1:
        return error * float("nan")
    return error - spread * (1 if fair else (count - 1) / count)
