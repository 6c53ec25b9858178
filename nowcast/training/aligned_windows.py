"""Training windows cut once, in the co-moving frame: of radar archives, and of synthetic rain.

Rain that moves leaves a window of 128 km within the hour. Here the whole field is pulled along its motion
before a window is cut out, so that a window keeps its rain, and nothing of that has to be done again in
training. A file holds windows as float16, mm/h, (N, T, H, W), NaN where there is no data; its name is a
digest of how it was made, and it appears whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import Dataset

from data_prep.schema import RefusedInput, iso, open_radar, time_step
from nowcast.files import written_whole
from nowcast.forecaster import spacing_km
from nowcast.representation import pulled_along
from nowcast.training.crops import turned
from nowcast.training.synthetic_windows import STEP, synthetic_windows

SPACING_KM, STEP_MINUTES = 1.0, STEP
"""What all windows are on: synthetic rain is made for it."""
SHIFT = 16
"""Cells that a real window is larger than what training takes of it, at a random place."""
SHORTEST = 3
"""Lead times that a window has at least; what lies beyond the part of an archive is missing."""
SEEN = 0.25
"""Share of a window's cells that have data at the reference time, at least."""
CANDIDATES = 192
"""Places among which the windows of one reference time are drawn."""


@dataclass(frozen=True)
class Cutting:
    """How windows are cut.

    Attributes:
        size: Rows and columns that training takes.
        context_frames: Frames up to and including the reference time.
        lead_steps: Frames after it.
        seed: Of the places, and of synthetic rain.
    """

    size: int = 128
    context_frames: int = 4
    lead_steps: int = 18
    seed: int = 0

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.context_frames + self.lead_steps


def cut_synthetic(folder: Path, numbers: range, cutting: Cutting) -> np.ndarray:
    """Windows of synthetic rain, from the file if it is there."""
    about = ["synthetic", 3, numbers.start, numbers.stop, vars(cutting)]
    shape = (len(numbers), cutting.frames, cutting.size, cutting.size)
    made = (
        window.numpy()
        for window in synthetic_windows(
            numbers,
            size=cutting.size,
            seed=cutting.seed,
            context_frames=cutting.context_frames,
            lead_steps=cutting.lead_steps,
        )
    )
    return _kept(folder, about, shape, made)


def cut_store(
    folder: Path, store: str, *, part: tuple[float, float], count: int, cutting: Cutting
) -> np.ndarray:
    """Windows of a radar archive, drawn in favour of rain, from the file if it is there.

    Args:
        folder: Where files are kept.
        store: RADAR.zarr with frames of about 1 km every 5 min.
        part: First and last share of the frames to use, as (0, 2/3).
        count: Windows.
        cutting: How to cut them.

    Raises:
        RefusedInput: If grid spacing or time step are others, or that part has no window.
    """
    radar = open_radar(store)
    _refuse_other_grid(radar, store)
    first, last = (round(share * radar.sizes["time"]) for share in part)
    radar = radar.isel(time=slice(first, last))
    times = radar["time"].values
    side = cutting.size + SHIFT
    starts = _starts(times, cutting)
    if not starts or min(radar.shape[1:]) < side:
        raise RefusedInput(
            f"a store to cut from holds {cutting.context_frames + SHORTEST} frames in a row and "
            f"{side} x {side} cells",
            came=f"{times.size} frames of {radar.shape[1:]} in {store}",
            do="leave it out, or prepare more data",
        )
    about = [str(Path(store).resolve()), iso(times[0]), iso(times[-1]), times.size, count, vars(cutting)]
    return _kept(folder, about, (count, cutting.frames, side, side), _cut(radar, starts, count, cutting))


class AlignedWindows(Dataset):
    """Endless draws from synthetic and real windows; draw n is the same in every run.

    Args:
        synthetic: Windows of synthetic rain, (N, T, H, W).
        real: Windows of each archive, larger by `SHIFT`.
        share: Share of synthetic windows.
        size: Rows and columns.
        gain: Standard deviation of the logarithm of a factor on the rain rate of a window.
        seed: Of the draws.
    """

    DRAWS = 2**31
    symmetries = tuple(range(8))

    def __init__(
        self, synthetic: np.ndarray | None, real: list[np.ndarray], *, share: float, size: int, gain: float,
        seed: int,
    ) -> None:  # fmt: skip
        self.synthetic = synthetic
        self.real = real
        self.share = share
        self.height = self.width = size
        self.gain = gain
        self.seed = seed

    def __len__(self) -> int:
        return self.DRAWS

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        """One window as `nowcast.training.crops.RadarCrops` gives it, with ``aligned``."""
        number, symmetry = item if isinstance(item, tuple) else (item, 0)
        rng = np.random.default_rng([self.seed, number])
        if self.synthetic is not None and (not self.real or rng.random() < self.share):
            windows, shift = self.synthetic, (0, 0)
        else:
            windows = self.real[rng.integers(len(self.real))]
            shift = tuple(rng.integers(SHIFT + 1, size=2).tolist())
        rows, columns = (slice(first, first + self.height) for first in shift)
        window = turned(windows[rng.integers(len(windows))][:, rows, columns], symmetry).astype(np.float32)
        mask = np.isfinite(window)
        rain = np.where(mask, window, 0) * np.float32(np.exp(self.gain * rng.standard_normal()))
        return {
            "rain": torch.from_numpy(rain[:, None]),
            "mask": torch.from_numpy(mask[:, None]),
            "probability": torch.tensor(1.0),
            "aligned": torch.tensor(True),  # noqa: FBT003 (a value)
        }


def _kept(folder: Path, about: list, shape: tuple[int, ...], made: Iterable[np.ndarray]) -> np.ndarray:
    """The windows of a file, which is written if it is not there."""
    digest = hashlib.sha256(json.dumps([about, shape], default=str).encode()).hexdigest()[:16]
    path = folder / f"windows-{digest}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            # open_memmap adds no suffix to a name
            file = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
            for number, window in enumerate(made):
                file[number] = window
            file.flush()
    return np.load(path, mmap_mode="r")


def _refuse_other_grid(radar: xr.DataArray, store: str) -> None:
    spacing = spacing_km(radar)
    step = time_step(radar["time"].values) / np.timedelta64(1, "m")
    if abs(spacing / SPACING_KM - 1) > 0.1 or step != STEP_MINUTES:
        raise RefusedInput(
            f"windows are cut from frames of {SPACING_KM:g} km every {STEP_MINUTES:g} min",
            came=f"{spacing:.2f} km every {step:g} min in {store}",
            do="regrid it with nowcast prep, or leave it out",
        )


def _starts(times: np.ndarray, cutting: Cutting) -> list[tuple[int, int]]:
    """Number of the first frame of each window, and how many frames there are from it to the next gap."""
    step = np.timedelta64(round(STEP_MINUTES * 60), "s")
    starts = []
    for first in range(times.size):
        window = times[first : first + cutting.frames]
        unbroken = int((window == window[0] + step * np.arange(window.size)).cumprod().sum())
        if unbroken >= cutting.context_frames + SHORTEST:
            starts.append((first, unbroken))
    return starts


def _cut(
    radar: xr.DataArray, starts: list[tuple[int, int]], count: int, cutting: Cutting
) -> Iterator[np.ndarray]:
    """Windows, as many from one reference time as from any other."""
    side = cutting.size + SHIFT
    shares = np.diff(np.linspace(0, count, len(starts) + 1).round().astype(int))
    for (first, length), share in zip(starts, shares, strict=True):
        if share == 0:
            continue
        rng = np.random.default_rng([cutting.seed, first])
        rain = torch.full((1, cutting.frames, *radar.shape[1:]), torch.nan)
        rain[0, :length] = torch.from_numpy(radar[first : first + length].values.astype(np.float32))
        aligned = pulled_along(rain, context_frames=cutting.context_frames)[0].numpy()
        for row, column in _places(aligned[cutting.context_frames - 1], side, share, rng):
            yield aligned[:, row : row + side, column : column + side]


def _places(now: np.ndarray, side: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """First row and column of windows of a field (H, W), in favour of rain, (count, 2)."""
    limits = [length - side + 1 for length in now.shape]
    places = rng.integers(limits, size=(CANDIDATES, 2))
    windows = [now[row : row + side, column : column + side] for row, column in places]
    seen = np.array([np.isfinite(window).mean() for window in windows])
    rain = np.array([np.nansum(1 - np.exp(-window)) / window.size for window in windows])
    weight = np.where(seen >= min(SEEN, seen.max()), rain + 0.02, 0)
    return places[rng.choice(len(places), size=count, p=weight / weight.sum())]
