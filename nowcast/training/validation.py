"""Scores of a network in training: sums that grow with every window, scores when all have been seen.

Windows are sampled in favour of rain: window b with probability q_b. A sum over those that were sampled, each
weighted by 1/q_b, estimates the sum over all windows there were (Horvitz and Thompson 1952,
doi:10.1080/01621459.1952.10483446), and a score is a ratio of two such sums,

    CRPS = sum_b (1/q_b) sum_cells crps / sum_b (1/q_b) cells_b,

so it does not depend on the scale of the weights. Where few windows with small q carry most of the weight the
estimate is uncertain: it is worth that of ``effective_windows`` windows of equal weight (Kish 1965),

    n = (sum_b 1/q_b)^2 / sum_b (1/q_b)^2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nowcast.verification import ensemble_crps, log_spectral_distance, power_spectrum

THRESHOLDS = (1.0, 4.0)
"""mm/h."""


class ValidationSums:
    """Weighted sums over windows, of a network's ensemble and of persistence on the same cells.

    Attributes:
        totals: What has been added up, by name; sums of several processes add up to those of all.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(
        self, members: Tensor, target: Tensor, last: Tensor, *, probability: Tensor | None = None
    ) -> None:
        """Takes the forecasts of some windows.

        Cells count where the target, the last frame and all members have a value.

        Args:
            members: mm/h, (M, B, L, H, W), NaN where there is no forecast.
            target: mm/h, (B, L, H, W), NaN where there is no data.
            last: Last frame of the context, mm/h, (B, H, W), NaN where there is no data.
            probability: Of each window having been sampled, (B,); the same for all if not given.
        """
        weights = torch.ones(len(target), device=target.device) if probability is None else 1 / probability
        persistence = last[:, None].expand_as(target)
        mask = target.isfinite() & persistence.isfinite() & members.isfinite().all(dim=0)
        members, target, persistence = (
            torch.where(mask, field, 0).float() for field in (members, target, persistence)
        )
        sums = {
            "cells": _by_window(mask),
            "crps": _by_window(ensemble_crps(members, target)),
            "crps_persistence": _by_window((persistence - target).abs()),
            "spectrum": power_spectrum(members).mean(dim=0).sum(dim=1),
            "spectrum_observed": power_spectrum(target).sum(dim=1),
            "weights": torch.ones_like(weights),
            "squared_weights": weights,
        }
        for name, forecast in (("", members.mean(dim=0)), ("_persistence", persistence)):
            sums |= dict(_contingency(forecast, target, mask, suffix=name))
        for name, value in sums.items():
            self.totals[name] = self.totals.get(name, 0) + weights.double() @ value.double()

    def scores(self) -> dict[str, Tensor]:
        """Estimates of the scores over all windows, the dry ones included.

        Returns:
            ``crps`` and ``crps_persistence`` in mm/h; ``crps_skill`` = 1 - crps / crps_persistence; at each
            of `THRESHOLDS` ``csi_<mm/h>`` of the ensemble mean and ``csi_persistence_<mm/h>``;
            ``spectra_distance``, between the spectra of members and of what fell, in dB; and
            ``effective_windows``.
        """
        totals = self.totals
        cells = totals["cells"].clamp(min=1)
        crps, reference = totals["crps"] / cells, totals["crps_persistence"] / cells
        scores = {"crps": crps, "crps_persistence": reference, "crps_skill": 1 - crps / reference}
        for threshold in THRESHOLDS:
            for suffix in ("", "_persistence"):
                hits, either = totals[f"hits{suffix}_{threshold:g}"], totals[f"either{suffix}_{threshold:g}"]
                scores[f"csi{suffix}_{threshold:g}"] = hits / either
        distance = log_spectral_distance(totals["spectrum"], totals["spectrum_observed"])
        effective = totals["weights"] ** 2 / totals["squared_weights"]
        return {**scores, "spectra_distance": distance, "effective_windows": effective}


def _by_window(field: Tensor) -> Tensor:
    """Sums of a field (B, L, H, W) over the cells and lead times of each window, (B,)."""
    return field.sum(dim=(1, 2, 3))


def _contingency(
    forecast: Tensor, target: Tensor, mask: Tensor, *, suffix: str
) -> Iterator[tuple[str, Tensor]]:
    """Of each window, hits, and hits, misses and false alarms together."""
    for threshold in THRESHOLDS:
        forecast_event, event = forecast >= threshold, target >= threshold
        yield f"hits{suffix}_{threshold:g}", _by_window(forecast_event & event & mask)
        yield f"either{suffix}_{threshold:g}", _by_window((forecast_event | event) & mask)
