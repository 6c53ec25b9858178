"""Forecasts that need no training: what a network has to beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr

from nowcast.forecaster import Forecaster
from nowcast.motion import advect, estimate_motion


class Persistence(Forecaster):
    """The last frame stays (Eulerian persistence)."""

    name = "persistence"
    deterministic = True

    def stream(
        self,
        context: xr.DataArray,
        *,
        lead_steps: int,
        members: int,
        seed: int,  # noqa: ARG002
    ) -> Iterator[np.ndarray]:
        """Repeat the last frame; see `Forecaster.stream`."""
        for _ in range(members):
            yield np.repeat(context.values[-1:], lead_steps, axis=0)


class Extrapolation(Forecaster):
    """The last frame moves on (Lagrangian persistence; Germann and Zawadzki 2002).

    The motion is estimated from all frames of the context and held steady. Where the rain would come from
    outside the data there is no forecast.
    """

    name = "extrapolation"
    deterministic = True

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device

    def stream(
        self,
        context: xr.DataArray,
        *,
        lead_steps: int,
        members: int,
        seed: int,  # noqa: ARG002
    ) -> Iterator[np.ndarray]:
        """Advect the last frame; see `Forecaster.stream`."""
        frames = torch.from_numpy(context.values)[None].to(self.device)
        with torch.inference_mode():
            moved = advect(frames[:, -1], estimate_motion(frames), lead_steps)[0].cpu().numpy()
        for _ in range(members):
            yield moved
