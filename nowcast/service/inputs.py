"""What a forecast is made from: the frames up to its reference time, as far as there are any."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from data_prep.live import LiveFrames, Window
from data_prep.schema import iso
from nowcast.forecaster import INPUT_STATUS
from nowcast.motion import between
from nowcast.service.clock import stamp
from nowcast.service.settings import Policy

CONTEXT_FRAMES = 4
EARLIER_FRAMES = 2
"""Read beside the context: to interpolate its first frame, and to compare frames with."""
OBSERVED, INTERPOLATED, MISSING = 0, 1, 2


class Context(NamedTuple):
    """The frames of a forecast.

    Attributes:
        rain: Rain array, mm/h, (time, y, x), with ``input_frame_status (time)``; missing frames are NaN.
        reasons: By frame, why it was not observed; nothing for one that was.
        files: By frame, the name of its file; nothing for one that was not observed.
    """

    rain: xr.DataArray
    reasons: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def status(self) -> np.ndarray:
        """By frame: `OBSERVED`, `INTERPOLATED` or `MISSING`."""
        return self.rain["input_frame_status"].values

    def frames(self) -> list[dict[str, str | None]]:
        """What a manifest says of the frames."""
        return [
            {
                "time": stamp(time),
                "status": INPUT_STATUS[status],
                "file": file or None,
                "reason": reason or None,
            }
            for time, status, file, reason in zip(
                self.rain["time"].values, self.status, self.files, self.reasons, strict=True
            )
        ]  # fmt: skip

    def lacking(self) -> str:
        """Which frames are missing and why, in one line; nothing if none are."""
        return "; ".join(
            f"no frame of {iso(time)} ({reason})"
            for time, status, reason in zip(self.rain["time"].values, self.status, self.reasons, strict=True)
            if status == MISSING
        )


def window_of(live: LiveFrames, time: np.datetime64, doubted: tuple[str, ...]) -> Window:
    """The frames up to a time that a forecast may need.

    Raises:
        RefusedInput: If none of them can be read.
    """
    return live.window(time, CONTEXT_FRAMES + EARLIER_FRAMES, doubted=doubted)


def context_of(window: Window, policy: Policy) -> Context:
    """The context in a window; one missing frame between two others is interpolated if the policy says so."""
    values = window.rain.values[-CONTEXT_FRAMES:]
    status = np.where([bool(reason) for reason in window.reasons], MISSING, OBSERVED).astype(np.int8)
    (missing,) = np.nonzero(status[EARLIER_FRAMES:])
    if policy.interpolate and missing.size == 1 and missing[0] < CONTEXT_FRAMES - 1:
        number = EARLIER_FRAMES + missing[0]
        if status[number - 1] == status[number + 1] == OBSERVED:
            earlier, later = (torch.from_numpy(window.rain.values[n]) for n in (number - 1, number + 1))
            with torch.inference_mode():
                values = values.copy()
                values[missing[0]] = between(earlier, later).numpy()
            status[number] = INTERPOLATED
    rain = window.rain.isel(time=slice(-CONTEXT_FRAMES, None)).copy(data=values)
    rain = rain.assign_coords(input_frame_status=("time", status[-CONTEXT_FRAMES:]))
    return Context(rain, window.reasons[-CONTEXT_FRAMES:], window.files[-CONTEXT_FRAMES:])
