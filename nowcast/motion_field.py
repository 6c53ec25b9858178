"""The motion of labelled frames, in metres per second along the axes of their grid."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from data_prep.schema import RefusedInput, iso, time_step
from nowcast.forecaster import Forecaster, cell_size, usable_frames
from nowcast.motion import estimate_motion, unknown_motion


def motion_field(frames: xr.DataArray) -> xr.Dataset:
    """How the rain moves, estimated from as many of the last frames as forecasters take (`nowcast.motion`).

    Args:
        frames: Rain array (time, y, x), mm/h, two frames or more that follow each other at one time step, NaN
            where there is no data.

    Returns:
        ``motion_x`` and ``motion_y`` (y, x), m/s along the coordinates ``x`` and ``y``, so that rain that
        moves to larger ``y`` has a positive ``motion_y`` whichever way the rows are stored; and the time of
        the last frame. Both have a value in every cell: motion is smooth, and continued where no rain is.

    Raises:
        RefusedInput: If the frames cannot be used, or too little rain is in them to tell its motion.
    """
    count = min(Forecaster.context_frames, max(frames.sizes.get("time", 0), 2))
    frames = usable_frames(frames, count, gaps=True)
    values = torch.from_numpy(frames.values)
    with torch.inference_mode():
        motion = estimate_motion(values[None])[0]
        reason = unknown_motion(values, motion)
    if reason:
        raise RefusedInput(
            f"the frames up to {iso(frames['time'].values[-1])} tell how the rain moves", came=reason,
            do="choose a time with more rain",
        )  # fmt: skip
    seconds = float(time_step(frames["time"].values) / np.timedelta64(1, "s"))
    last = frames.isel(time=-1)
    components = {}
    for axis, cells, size in zip("xy", motion.numpy(), cell_size(frames), strict=True):
        towards = np.sign(frames[axis].values[-1] - frames[axis].values[0])
        told = {"long_name": f"motion of the rain along {axis}", "units": "m s-1", "grid_mapping": "crs"}
        component = last.copy(data=cells * np.float32(towards * size / seconds))
        components[f"motion_{axis}"] = component.drop_attrs(deep=False).assign_attrs(told)
    cited = {name: frames.attrs[name] for name in ("institution", "license") if name in frames.attrs}
    return xr.Dataset(components, attrs=cited)
