"""Scores of a network in training: sums that grow with every window, scores when all have been seen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nowcast.verification import ensemble_crps, log_spectral_distance, power_spectrum

THRESHOLDS = (1.0, 4.0)
"""mm/h."""


class ValidationSums:
    """Sums over windows, of a network's ensemble and of persistence on the same cells.

    Attributes:
        totals: What has been added up, by name; sums of several processes add up to those of all.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, members: Tensor, target: Tensor, last: Tensor) -> None:
        """Takes the forecasts of some windows.

        Cells count where the target, the last frame and all members have a value.

        Args:
            members: mm/h, (M, B, L, H, W), NaN where there is no forecast.
            target: mm/h, (B, L, H, W), NaN where there is no data.
            last: Last frame of the context, mm/h, (B, H, W), NaN where there is no data.
        """
        persistence = last[:, None].expand_as(target)
        mask = target.isfinite() & persistence.isfinite() & members.isfinite().all(dim=0)
        members, target, persistence = (
            torch.where(mask, field, 0).float() for field in (members, target, persistence)
        )
        sums = {
            "cells": mask.sum(),
            "crps": ensemble_crps(members, target).sum(),
            "crps_persistence": (persistence - target).abs().sum(),
            "spectrum": power_spectrum(members).sum(dim=(0, 1, 2)) / len(members),
            "spectrum_observed": power_spectrum(target).sum(dim=(0, 1)),
        }
        for name, forecast in (("", members.mean(dim=0)), ("_persistence", persistence)):
            sums |= dict(_contingency(forecast, target, mask, suffix=name))
        for name, value in sums.items():
            self.totals[name] = self.totals.get(name, 0) + value.double()

    def scores(self) -> dict[str, Tensor]:
        """Scores over all windows.

        Returns:
            ``crps`` and ``crps_persistence`` in mm/h; ``crps_skill`` = 1 - crps / crps_persistence; at each
            of `THRESHOLDS` ``csi_<mm/h>`` of the ensemble mean and ``csi_persistence_<mm/h>``; and
            ``spectra_distance``, between the spectra of members and of what fell, in dB.
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
        return {**scores, "spectra_distance": distance}


def _contingency(
    forecast: Tensor, target: Tensor, mask: Tensor, *, suffix: str
) -> Iterator[tuple[str, Tensor]]:
    """Hits, and hits, misses and false alarms together."""
    for threshold in THRESHOLDS:
        forecast_event, event = forecast >= threshold, target >= threshold
        yield f"hits{suffix}_{threshold:g}", (forecast_event & event & mask).sum()
        yield f"either{suffix}_{threshold:g}", ((forecast_event | event) & mask).sum()
