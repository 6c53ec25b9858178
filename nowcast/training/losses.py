"""Losses of DGMR, and an ensemble score to train on, as pure functions that return (loss, diagnostics).

The loss is a scalar to minimise; the diagnostics are detached scalars to log.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, equations 2 to 5; Lang et al. 2024,
arXiv 2412.15832, equation 3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = tuple[Tensor, dict[str, Tensor]]

HEADS = ("spatial", "temporal")
RAIN_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "paper": lambda rain: (rain + 1).clamp(max=24),
    "pseudocode": lambda rain: rain.clamp(0, 24),
}
DRY_RATE = 0.1
"""mm/h added to the mean rate that a window is divided by: some have no rain at all."""


def discriminator_hinge(real_scores: Tensor, fake_scores: Tensor) -> Loss:
    """Hinge loss of both discriminators, equations 4 and 5.

    L_D = sum over heads of ( mean ReLU(1 - D(real)) + mean ReLU(1 + D(fake)) ), means over the batch.

    Args:
        real_scores: (N, 2) spatial and temporal scores of observed sequences, dimensionless.
        fake_scores: (N', 2) the same of generated sequences.

    Returns:
        The loss, and per head the hinge, the mean score of real and of generated sequences, and the accuracy
        on both: the fraction of real sequences scored above 0, of generated ones below 0.

    Raises:
        ValueError: if the scores have another shape.
    """
    _check_scores(real_scores, fake_scores)
    hinge = F.relu(1 - real_scores).mean(dim=0) + F.relu(1 + fake_scores).mean(dim=0)
    diagnostics = {
        **_per_head("{}_hinge", hinge),
        **_per_head("{}_real_score", real_scores.mean(dim=0)),
        **_per_head("{}_fake_score", fake_scores.mean(dim=0)),
        **_per_head("{}_real_accuracy", (real_scores > 0).float().mean(dim=0)),
        **_per_head("{}_fake_accuracy", (fake_scores < 0).float().mean(dim=0)),
    }
    return hinge.sum(), diagnostics


def generator_hinge(fake_scores: Tensor) -> Loss:
    """Adversarial part of the generator's loss, equation 2 with its sign changed to be minimised.

    L_G = - sum over heads of mean D(fake), the mean over batch and realizations.

    Args:
        fake_scores: (N, 2) spatial and temporal scores of generated sequences, dimensionless.

    Returns:
        The loss, and per head the mean score.

    Raises:
        ValueError: if the scores have another shape.
    """
    _check_scores(fake_scores)
    means = fake_scores.mean(dim=0)
    return -means.sum(), _per_head("{}_fake_score", means)


def grid_cell_regularizer(samples: Tensor, target: Tensor, mask: Tensor, *, weight: str = "paper") -> Loss:
    """Weighted distance of the mean realization from the observed rain, equation 3.

    L_R = mean over observed cells of |mean_z(G) - y| w(y), where the mean over realizations comes first.
    The weight w(y) is min(y + 1, 24) for "paper" and clip(y, 0, 24) for "pseudocode". Equation 3 prints
    max(y + 1, 24), which contradicts the text around it (a weight that grows with rain, clipped at 24).

    Args:
        samples: (M, B, T, C, H, W) realizations, or their mean (B, T, C, H, W), mm/h.
        target: (B, T, C, H, W) observed rain, mm/h; may hold anything, NaN included, where not observed.
        mask: (B, T, C, H, W) bool, True where observed.
        weight: name of the weight, "paper" or "pseudocode".

    Returns:
        The loss in mm/h times the dimensionless weight, 0 if nothing was observed; with the unweighted
        `mean_absolute_error` (mm/h) and the `observed_fraction` of cells.

    Raises:
        ValueError: if shapes differ, the mask is not bool or the weight has no such name.
    """
    if weight not in RAIN_WEIGHTS:
        raise ValueError(f"weight must be one of {sorted(RAIN_WEIGHTS)}, got {weight!r}; choose one of these")
    _check_samples(samples, target)
    _check_mask(target, mask)
    mean = samples.mean(dim=0) if samples.ndim == target.ndim + 1 else samples
    error = torch.where(mask, mean - target, 0)
    loss = masked_mean(error.abs() * RAIN_WEIGHTS[weight](torch.where(mask, target, 0)), mask)
    return loss, {"grid_cell_regularizer": loss.detach(), **_of_the_mean(error.detach(), mask)}


def multiscale_crps(
    samples: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    scales: Sequence[int] = (1, 4, 16),
    alpha: float = 0.95,
    normalize: bool = False,
) -> Loss:
    """Almost-fair CRPS of the realizations, in cells and in means over blocks of cells.

    Lang et al. 2024, equation 3: alpha times the fair plus 1 - alpha times the standard CRPS of M members,

        afCRPS = mean_i |x_i - y| - (1 - eps) / (2 M (M - 1)) * sum_ij |x_i - x_j|,   eps = (1 - alpha) / M.

    The fair score (alpha = 1) alone does not see one member run away while all others hit what was observed.

    At every scale, x_i and y are means over the observed cells of a block of scale x scale cells; a block
    weighs as much as the number of these cells, and blocks that reach over the edge hold fewer. The loss is
    the mean over observed cells, then over scales.

    Args:
        samples: (M, B, T, C, H, W) realizations, M of 2 or more, mm/h; may hold anything where not observed.
        target: (B, T, C, H, W) observed rain, mm/h; may hold anything, NaN included, where not observed.
        mask: (B, T, C, H, W) bool, True where observed.
        scales: sides of the blocks in cells; a side longer than the field makes one block of it.
        alpha: 1 for the fair score, 0 for the standard one.
        normalize: whether each window's own mean score is divided by its mean observed rate + 0.1 mm/h
            before the mean over windows, so that heavy rain in one does not rule the batch. A window
            without an observed cell counts as 0.

    Returns:
        The loss in mm/h (dimensionless if normalized), 0 if nothing was observed; with, never normalized,
        `crps_<scale>` and the `mean_absolute_error` of the mean realization (mm/h), and the
        `observed_fraction` of cells.

    Raises:
        ValueError: if shapes differ or are of another kind, the mask is not bool, there is one realization,
            a scale is not a positive whole number, or alpha lies outside 0 to 1.
    """
    _check_samples(samples, target)
    _check_mask(target, mask)
    _check_ensemble(samples, target)
    _check_score(scales, alpha)
    error = torch.where(mask, samples - target, 0)
    # (scale, window), mm/h times cells. The score grows in proportion to x - y: the score of a block's sum
    # is that of its mean times its cells, so that nothing has to be divided before the end.
    sums = torch.stack(
        [_almost_fair_crps(_block_sums(error, scale), alpha).flatten(1).sum(dim=1) for scale in scales]
    )
    by_scale = sums.sum(dim=1) / mask.sum().clamp(min=1)
    loss = (sums / _window_rain(target, mask)).mean() if normalize else by_scale.mean()
    diagnostics = {f"crps_{scale}": score for scale, score in zip(scales, by_scale.detach(), strict=True)}
    return loss, {**diagnostics, **_of_the_mean(error.detach().mean(dim=0), mask)}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is True, in their unit; 0, still in the graph, if it is True nowhere.

    Args:
        values: any shape and unit; may hold anything where the mask is False.
        mask: bool of the same shape.

    Raises:
        ValueError: if the mask is not bool or has another shape.
    """
    _check_mask(values, mask)
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


class Regularizer(NamedTuple):
    """What keeps the samples of a generator near the observation."""

    loss: Callable[[Tensor, Tensor, Tensor], Loss]
    """Of samples, target and mask, as `multiscale_crps` takes them."""
    per_window: bool
    """Whether it is a mean over windows; else over observed cells."""


REGULARIZERS = {
    "paper": Regularizer(partial(grid_cell_regularizer, weight="paper"), per_window=False),
    "pseudocode": Regularizer(partial(grid_cell_regularizer, weight="pseudocode"), per_window=False),
    "crps": Regularizer(multiscale_crps, per_window=False),
    "normalized_crps": Regularizer(partial(multiscale_crps, normalize=True), per_window=True),
}


def _window_rain(target: Tensor, mask: Tensor) -> Tensor:
    """Observed cells times (their mean rate + 0.1 mm/h), (B,)."""
    cells = mask.flatten(1).sum(dim=1).clamp(min=1)
    return torch.where(mask, target, 0).flatten(1).sum(dim=1) + DRY_RATE * cells


def _block_sums(fields: Tensor, scale: int) -> Tensor:
    """Sums over blocks of (..., H, W), the field continued by 0 to whole blocks."""
    if scale == 1:
        return fields
    height, width = fields.shape[-2:]
    rows, columns = min(scale, height), min(scale, width)
    whole = F.pad(fields, (0, -width % columns, 0, -height % rows))
    return whole.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows)).sum(dim=(-3, -1))


def _almost_fair_crps(error: Tensor, alpha: float) -> Tensor:
    """The score of x - y, (M, ...) to (...), in its unit.

    It is linear in pieces and grows in proportion to x - y, so it equals sum_i (x_i - y) d afCRPS / d x_i
    (Euler's theorem). The derivatives hold no graph: one number for each x_i is all that is kept for the way
    back, where |x_i - x_j| would keep one for every pair.
    """
    return (error * _crps_slopes(error.detach(), alpha)).sum(dim=0)


def _crps_slopes(error: Tensor, alpha: float) -> Tensor:
    """Derivatives by x_i, sgn(x_i - y) / M - (1 - eps) / (M (M - 1)) * sum_j sgn(x_i - x_j), (M, ...).

    The sum is the rank of x_i counted from the middle. Pairs rather than a sort: members that are equal,
    as dry ones often are, get equal slopes.
    """
    members = error.shape[0]
    spread = (1 - (1 - alpha) / members) / (members * (members - 1))
    slopes = error.sign() / members
    for i, j in combinations(range(members), 2):
        step = spread * (error[i] - error[j]).sign()
        slopes[i] -= step
        slopes[j] += step
    return slopes


def _of_the_mean(error: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Diagnostics of the mean realization's error (B, T, C, H, W), mm/h."""
    return {
        "mean_absolute_error": masked_mean(error.abs(), mask),
        "observed_fraction": mask.to(error.dtype).mean(),
    }


def _per_head(name: str, values: Tensor) -> dict[str, Tensor]:
    return {name.format(head): value for head, value in zip(HEADS, values.detach(), strict=True)}


def _check_scores(*scores: Tensor) -> None:
    for score in scores:
        if score.ndim != 2 or score.shape[0] == 0 or score.shape[1] != len(HEADS):
            raise ValueError(
                f"scores must have shape (N, {len(HEADS)}), one column per discriminator, "
                f"got {tuple(score.shape)}; give what Discriminator returns"
            )


def _check_samples(samples: Tensor, target: Tensor) -> None:
    if samples.ndim > target.ndim + 1 or samples.shape[-target.ndim :] != target.shape:
        raise ValueError(
            f"realizations must have the shape of the target {tuple(target.shape)} after their number, "
            f"got {tuple(samples.shape)}; reorder the samples"
        )


def _check_ensemble(samples: Tensor, target: Tensor) -> None:
    if target.ndim != 5:
        raise ValueError(
            f"the target must have the axes (B, T, C, H, W), got shape {tuple(target.shape)}; "
            "add axes of length 1 for those it lacks"
        )
    members = samples.shape[0] if samples.ndim > target.ndim else 1
    if members < 2:
        raise ValueError(
            f"an ensemble score needs 2 realizations or more, got {members}; draw more samples, "
            "or use grid_cell_regularizer"
        )


def _check_score(scales: Sequence[int], alpha: float) -> None:
    if not scales or not all(isinstance(scale, int) and scale >= 1 for scale in scales):
        raise ValueError(
            f"scales must be positive whole numbers of cells, one or more, got {scales!r}; "
            "give for instance (1, 4, 16)"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha must lie between 0 (standard CRPS) and 1 (fair CRPS), got {alpha}; the usual one is 0.95"
        )


def _check_mask(values: Tensor, mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != values.shape:
        raise ValueError(
            f"a mask must be bool of shape {tuple(values.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}; compare and expand it before"
        )
