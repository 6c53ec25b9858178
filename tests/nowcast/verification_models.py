"""Forecasters and settings that the tests of the verification share, and what a failing model may do."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from nowcast.forecaster import Forecaster, member_seed
from nowcast.products.forecast_file import forecast_to_file
from nowcast.verification import ScoreSettings

SETTINGS = ScoreSettings(
    thresholds=(1.0, 4.0), scales=(1.0, 4.0), windows=(4.0,), intensities=(0.0, 1.0, 8.0)
)
START = np.datetime64("2020-06-01T00:00", "ns")
STEP = np.timedelta64(5, "m")


def frame_time(number: int) -> np.datetime64:
    """Time of a frame of the rain that `make_rain` makes."""
    return START + number * STEP


class Noisy(Forecaster):
    """Members are the last frame times a number of their own; the first columns have no forecast."""

    context_frames = 2

    def __init__(self, name: str = "noisy", *, spread: float = 0.5, blind_columns: int = 0) -> None:
        self.name, self.spread, self.blind_columns = name, spread, blind_columns

    def provenance(self) -> dict[str, str]:
        return {"model": self.name, "spread": str(self.spread)}

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        for member in range(members):
            rng = np.random.default_rng(member_seed(seed, context["time"].values[-1], member))
            last = np.repeat(context.values[-1:], lead_steps, axis=0)
            made = last * rng.uniform(1 - self.spread, 1 + self.spread, (lead_steps, 1, 1))
            made[:, :, : self.blind_columns] = np.nan
            yield made.astype(np.float32)


class Failing(Noisy):
    """Does something wrong from some reference times on."""

    def __init__(self, how: str, times: tuple[np.datetime64, ...] = ()) -> None:
        super().__init__(f"failing_{how}")
        self.how, self.times = how, times

    def stream(
        self, context: xr.DataArray, *, lead_steps: int, members: int, seed: int
    ) -> Iterator[np.ndarray]:
        fails = not self.times or context["time"].values[-1] in self.times
        good = super().stream(context, lead_steps=lead_steps, members=members, seed=seed)
        for number, member in enumerate(good):
            if fails and self.how == "negative":
                member[:, 5, 5] = -999
            if fails and self.how == "raises" and number == 1:
                raise ZeroDivisionError("the motion has no length")
            if fails and self.how == "few" and number == members - 1:
                return
            if fails and self.how == "many" and number == 0:
                yield member
            if fails and self.how == "shape":
                member = member[:-1]
            if fails and self.how == "blank":
                member = np.full_like(member, np.nan)
            yield member


def store_forecasts(
    folder: Path,
    forecaster: Forecaster,
    rain: xr.DataArray,
    frames: list[int],
    *,
    lead_steps: int = 3,
    members: int = 3,
    seed: int = 0,
) -> Path:
    """Forecast files from some frames of a rain array."""
    for number in frames:
        context = rain[number - 3 : number + 1]
        path = folder / f"{number:03}.nc"
        forecast_to_file(path, forecaster, context, lead_steps=lead_steps, members=members, seed=seed)
    return folder
