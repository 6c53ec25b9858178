"""Forecasts that need no training and no compiler: what anything better has to beat.

Those of pysteps are in `nowcast.forecasters.pysteps_baselines`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr

from data_prep.schema import SPLITS, RefusedInput, crs_of, iso, time_step
from nowcast.forecaster import Forecaster, cell_size, member_seed, tell_unknown_motion
from nowcast.motion import advect, estimate_motion, unknown_motion

VELOCITY_ERROR = 2.7
"""Standard deviation of the error of an estimated motion along each axis, m/s: 0.8 km in 5 min."""


class Persistence(Forecaster):
    """The last frame stays (Eulerian persistence)."""

    name = "persistence"
    deterministic = True
    takes_gaps = True

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

    The motion is estimated from all pairs of consecutive frames with data and held steady. Where the rain
    would come from outside the data there is no forecast.
    """

    name = "extrapolation"
    deterministic = True
    takes_gaps = True

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """As `Forecaster.recent`.

        Raises:
            RefusedInput: Also if no two consecutive frames hold data.
        """
        return _with_a_pair(super().recent(context))

    def stream(
        self,
        context: xr.DataArray,
        *,
        lead_steps: int,
        members: int,
        seed: int,  # noqa: ARG002
    ) -> Iterator[np.ndarray]:
        """Advect the last frame; see `Forecaster.stream`."""
        moved = carried_along(context.values[-1], motion_of(context, device=self.device), lead_steps)
        for _ in range(members):
            yield moved


class ExtrapolationEnsemble(Forecaster):
    """Extrapolations that differ in their motion: each member has a velocity error of its own.

    The error is drawn once for a member, Gaussian along both axes with a standard deviation of
    `VELOCITY_ERROR`, and is the same everywhere and at all lead times, so that places differ in proportion
    to lead time. The rain itself is not perturbed.
    """

    name = "extrapolation-ensemble"
    takes_gaps = True

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """As `Extrapolation.recent`."""
        return _with_a_pair(super().recent(context))

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Advect the last frame along a motion of its own for each member; see `Forecaster.stream`."""
        motion = motion_of(context, device=self.device)
        times = context["time"].values
        seconds = time_step(times) / np.timedelta64(1, "s")
        cells = VELOCITY_ERROR * seconds / np.array(cell_size(context))
        for member in range(members):
            noise = np.random.default_rng(member_seed(seed, times[-1], member)).standard_normal(2)
            error = torch.from_numpy(noise * cells).to(motion)
            yield carried_along(context.values[-1], motion + error[:, None, None], lead_steps)


class Climatology(Forecaster):
    """What it may rain on any day: members are frames of the training split, drawn at random.

    A member is one frame, the same at all lead times. Frames without any data are not drawn.

    Args:
        radar: Rain array of a store, with the coordinate ``split(time)``; one frame is loaded at a time.

    Raises:
        RefusedInput: If it holds no frame of the training split.
    """

    name = "climatology"

    def __init__(self, radar: xr.DataArray) -> None:
        codes = radar["split"].values if "split" in radar.coords else np.zeros(0)
        training = np.flatnonzero(codes == SPLITS.index("train"))
        if not training.size:
            raise RefusedInput(
                "climatology draws from the training split of a store",
                came=f"{codes.size} frames with a split, none of training" if codes.size else "no split",
                do="set splits in the prep configuration, or leave climatology out",
            )
        self._frames = radar.isel(time=training)

    def provenance(self) -> dict[str, str]:
        """Which frames it draws from."""
        times = self._frames["time"].values
        return {
            "model": self.name,
            "training_frames": f"{times.size} from {iso(times[0])} to {iso(times[-1])}",
        }

    def recent(self, context: xr.DataArray) -> xr.DataArray:
        """As `Forecaster.recent`.

        Raises:
            RefusedInput: Also if it is no part of the grid of the training frames.
        """
        frames = super().recent(context)
        within = all(np.isin(frames[axis], self._frames[axis]).all() for axis in ("y", "x"))
        if not within or crs_of(self._frames) != crs_of(frames):
            raise RefusedInput(
                "climatology lies on the grid of the frames it is asked about",
                came=f"training frames of {self._frames.shape[1:]} cells, or elsewhere",
                do="take the store that the frames come from",
            )
        return frames

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Draw one frame for each member; see `Forecaster.stream`."""
        reference_time = context["time"].values[-1]
        frames = self._frames.sel(y=context["y"].values, x=context["x"].values)
        for member in range(members):
            frame = _drawn(frames, member_seed(seed, reference_time, member))
            yield np.repeat(frame[None], lead_steps, axis=0)


def _drawn(frames: xr.DataArray, seed: int) -> np.ndarray:
    """A frame with data, (y, x)."""
    count = frames.sizes["time"]
    for index in np.random.default_rng(seed).permutation(count):
        frame = frames[index].values.astype(np.float32)
        observed = np.isfinite(frame)
        if observed.any():
            return np.where(observed, frame, np.float32(np.nan))
    raise RefusedInput(
        "a frame of the training split holds data",
        came=f"{count} frames without any",
        do="look at the store with: nowcast check",
    )


def _with_a_pair(frames: xr.DataArray) -> xr.DataArray:
    seen = np.isfinite(frames.values).any(axis=(1, 2))
    if not (seen[:-1] & seen[1:]).any():
        raise RefusedInput(
            "two consecutive frames of a context hold data, which tell the motion",
            came=f"data at {', '.join(iso(time) for time in frames['time'].values[seen])}",
            do="choose another time, or persistence",
        )
    return frames


def motion_of(context: xr.DataArray, *, device: str = "cpu") -> torch.Tensor:
    """Motion that a context shows, cells per time step, (2, H, W), on the device.

    Where it shows none (see `nowcast.motion.unknown_motion`), rain is taken to stand still; the log says so.
    """
    frames = torch.from_numpy(context.values).to(device)
    with torch.inference_mode():
        motion = estimate_motion(frames[None])[0]
        reason = unknown_motion(frames, motion)
    if not reason:
        return motion
    if bool((frames > 0).any()):
        tell_unknown_motion(context, reason)
    return torch.zeros_like(motion)


def carried_along(frame: np.ndarray, motion: torch.Tensor, steps: int) -> np.ndarray:
    """A frame (H, W) carried along a motion (2, H, W), cells per step; (steps, H, W)."""
    field = torch.from_numpy(frame)[None].to(motion.device)
    with torch.inference_mode():
        return advect(field, motion[None], steps)[0].cpu().numpy()
