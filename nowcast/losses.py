"""Losses of DGMR as pure functions that return (loss, diagnostics).

The loss is a scalar to minimise; the diagnostics are detached scalars to log.
Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, equations 2 to 5.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = tuple[Tensor, dict[str, Tensor]]

HEADS = ("spatial", "temporal")
RAIN_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "paper": lambda rain: (rain + 1).clamp(max=24),
    "pseudocode": lambda rain: rain.clamp(0, 24),
}


def discriminator_hinge(real_scores: Tensor, fake_scores: Tensor) -> Loss:
    """Hinge loss of both discriminators, equations 4 and 5.

    L_D = sum over heads of ( mean ReLU(1 - D(real)) + mean ReLU(1 + D(fake)) ), means over the batch.

    Args:
        real_scores: (N, 2) spatial and temporal scores of observed sequences, dimensionless.
        fake_scores: (N', 2) the same of generated sequences.

    Returns:
        The loss, and per head the mean score of real and of generated sequences and the hinge.

    Raises:
        ValueError: if the scores have another shape.
    """
    _check_scores(real_scores, fake_scores)
    hinge = F.relu(1 - real_scores).mean(dim=0) + F.relu(1 + fake_scores).mean(dim=0)
    diagnostics = {
        **_per_head("{}_hinge", hinge),
        **_per_head("{}_real_score", real_scores.mean(dim=0)),
        **_per_head("{}_fake_score", fake_scores.mean(dim=0)),
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
    mean = samples.mean(dim=0) if samples.ndim == target.ndim + 1 else samples
    if mean.shape != target.shape:
        raise ValueError(
            f"realizations must have the shape of the target {tuple(target.shape)} after their number, "
            f"got {tuple(samples.shape)}; reorder the samples"
        )
    _check_mask(target, mask)
    observed = torch.where(mask, target, 0)
    error = (mean - observed).abs()
    loss = masked_mean(error * RAIN_WEIGHTS[weight](observed), mask)
    diagnostics = {
        "grid_cell_regularizer": loss.detach(),
        "mean_absolute_error": masked_mean(error.detach(), mask),
        "observed_fraction": mask.to(error.dtype).mean(),
    }
    return loss, diagnostics


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


def _per_head(name: str, values: Tensor) -> dict[str, Tensor]:
    return {name.format(head): value for head, value in zip(HEADS, values.detach(), strict=True)}


def _check_scores(*scores: Tensor) -> None:
    for score in scores:
        if score.ndim != 2 or score.shape[0] == 0 or score.shape[1] != len(HEADS):
            raise ValueError(
                f"scores must have shape (N, {len(HEADS)}), one column per discriminator, "
                f"got {tuple(score.shape)}; give what Discriminator returns"
            )


def _check_mask(values: Tensor, mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != values.shape:
        raise ValueError(
            f"a mask must be bool of shape {tuple(values.shape)}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}; compare and expand it before"
        )
