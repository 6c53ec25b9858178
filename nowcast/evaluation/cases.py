"""Which forecasts to verify: reference times in an unbroken window, or sampled windows with their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from data_prep.schema import SPLITS, RefusedInput, iso, time_step

Part = Literal["held_out", "all", "train", "validation", "test"]


@dataclass(frozen=True)
class Case:
    """One forecast to make and to score.

    Attributes:
        time: Reference time.
        rows: Rows of the store's grid that it is made from and scored on; all if None.
        columns: Columns, likewise.
        weight: What its sums count: 1 over the probability of having been chosen.
    """

    time: np.datetime64
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Reference time, and place if it is a window."""
        place = f"_{self.rows[0]}_{self.columns[0]}" if self.rows and self.columns else ""
        return f"{np.datetime_as_string(self.time, unit='s').replace(':', '')}{place}"

    def cut(self, array: xr.DataArray) -> xr.DataArray:
        """The part of an array (..., y, x) that the case is about."""
        if self.rows is None or self.columns is None:
            return array
        return array.isel(y=slice(*self.rows), x=slice(*self.columns))


def valid_starts(
    radar: xr.DataArray, *, context_frames: int, lead_steps: int, stride: int = 1, part: Part = "held_out"
) -> np.ndarray:
    """Reference times whose whole window, context and lead times, is in a store without a gap.

    Args:
        radar: Rain array with, if it has one, the coordinate ``split(time)``.
        context_frames: Frames up to and including the reference time.
        lead_steps: Frames after it.
        stride: Every how many-th start to take.
        part: Windows of one split; ``held_out`` takes those without any training frame.

    Raises:
        RefusedInput: If there is none.
    """
    _refuse_senseless_choice(lead_steps, stride)
    times = radar["time"].values
    length = context_frames + lead_steps
    span = (length - 1) * time_step(times)
    allowed = _allowed(radar, part)
    starts = [
        times[first + context_frames - 1]
        for first in range(times.size - length + 1)
        if times[first + length - 1] - times[first] == span and allowed[first : first + length].all()
    ]
    if not starts:
        raise RefusedInput(
            f"the store holds an unbroken window of {length} frames in part '{part}'",
            came=f"{times.size} frames, {int(allowed.sum())} of them in that part",
            do="choose another --part (all, train, validation, test) or fewer lead steps",
        )
    return np.array(starts[::stride])


def sampled_cases(
    store: str | Path, radar: xr.DataArray, *, context_frames: int, lead_steps: int, stride: int, part: Part
) -> list[Case]:
    """Windows of a store's sample index, weighted by 1 over the probability with which they were drawn.

    Their sums, so weighted, estimate those over all windows there are (Horvitz and Thompson 1952,
    doi:10.1080/01621459.1952.10483446).

    Args:
        store: RADAR.zarr with group ``samples``.
        radar: Its rain array.
        context_frames: Frames up to and including the reference time.
        lead_steps: Frames after it.
        stride: Every how many-th window to take.
        part: Windows of one split; ``held_out`` takes those that are not of the training split.

    Raises:
        RefusedInput: If the store has no such windows, or they are too short.
    """
    _refuse_senseless_choice(lead_steps, stride)
    if not (Path(store) / "samples" / "zarr.json").is_file():
        raise RefusedInput(
            "windows are drawn from a sample index", came=f"{store} without one", do="prepare it with samples"
        )
    samples = xr.open_zarr(store, group="samples", chunks=None, consolidated=False).load()
    frames, height, width = (int(samples.attrs[name]) for name in ("frames", "height", "width"))
    if frames < context_frames + lead_steps:
        raise RefusedInput(
            f"windows hold {context_frames} + {lead_steps} frames",
            came=f"{frames} frames",
            do="give fewer --lead_steps or draw longer windows",
        )
    codes, train = samples["split"].values, SPLITS.index("train")
    wanted = {"all": codes >= 0, "held_out": codes != train}.get(part)
    chosen = np.flatnonzero(wanted if wanted is not None else codes == SPLITS.index(part))[::stride]
    if not chosen.size:
        raise RefusedInput("a part holds windows", came=f"none in '{part}'", do="choose another --part")
    starts = samples["start_time"].values[chosen]
    places = [samples[name].values[chosen].tolist() for name in ("y", "x", "probability")]
    if not all(0 < probability <= 1 for probability in places[-1]):
        raise RefusedInput(
            "windows were drawn with probabilities above 0 and not above 1",
            came=f"{min(places[-1])} to {max(places[-1])}",
            do="draw the sample index anew",
        )
    to_reference = (context_frames - 1) * time_step(radar["time"].values)
    cases = [
        Case(start + to_reference, (row, row + height), (column, column + width), 1 / probability)
        for start, row, column, probability in zip(starts, *places, strict=True)
    ]
    return sorted(cases, key=lambda case: (case.time, case.rows, case.columns))


def context_at(radar: xr.DataArray, time: np.datetime64, frames: int) -> xr.DataArray:
    """The frames of a store up to a time.

    Raises:
        RefusedInput: If the time is not in the store, or a frame before it is missing.
    """
    times = radar["time"].values
    if time not in times:
        near = times[np.abs(times - time).argmin()]
        raise RefusedInput(
            f"--time is the time of a frame between {iso(times[0])} and {iso(times[-1])}",
            came=iso(time),
            do=f"the nearest frame is {iso(near)}",
        )
    step = time_step(times)
    wanted = time - step * np.arange(frames - 1, -1, -1)
    lacking = np.setdiff1d(wanted, times)
    if lacking.size:
        raise RefusedInput(
            f"a context is {frames} frames without a gap up to {iso(time)}",
            came=f"no frame at {', '.join(iso(gap) for gap in lacking)}",
            do="choose a time after the gap",
        )
    return radar.sel(time=slice(wanted[0], wanted[-1]))


def _refuse_senseless_choice(lead_steps: int, stride: int) -> None:
    if lead_steps < 1 or stride < 1:
        raise RefusedInput(
            "lead_steps and stride are 1 or more", came=f"{lead_steps} and {stride}", do="correct the number"
        )


def _allowed(radar: xr.DataArray, part: Part) -> np.ndarray:
    """Frames that a part may use, (time,)."""
    if part == "all" or ("split" not in radar.coords and part == "held_out"):
        return np.ones(radar.sizes["time"], bool)
    if "split" not in radar.coords:
        raise RefusedInput("a part of the data is marked in the store", came=part, do="use --part all")
    codes = radar["split"].values
    if part == "held_out":
        return codes != SPLITS.index("train")
    return codes == SPLITS.index(part)
