import os
from pathlib import Path

import numpy as np
import pyproj
import pytest
import torch
import xarray as xr
from torch.nn.utils import parametrizations

from data_prep.pipeline import Recipe, prepare_arrays
from data_prep.sampling import Sampling
from data_prep.schema import rain_array
from data_prep.splits import Splits

# Tests run in parallel processes; more threads in each would only get in each other's way.
torch.set_num_threads(1)

CRS = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m")
START = np.datetime64("2020-06-01T00:00", "ns")
STEP = np.timedelta64(5, "m")


@pytest.fixture(scope="session", autouse=True)
def no_power_iterations_without_values():
    """Networks on the device "meta" hold no values; the iterations of spectral norm take seconds there."""
    normalization = parametrizations._SpectralNorm
    iterate = normalization._power_method

    def where_there_are_values(self, weight, count):
        if not weight.is_meta:
            iterate(self, weight, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalization, "_power_method", where_there_are_values)
        yield


@pytest.fixture(scope="session")
def radar_data() -> Path:
    """Root of the real radar files: NOWCAST_RADAR_DATA, or shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("NOWCAST_RADAR_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no real radar files: {root} is absent (NOWCAST_RADAR_DATA names the folder)")
    return root


@pytest.fixture(scope="session")
def make_rain():
    """Rain arrays on a 1-km grid, by default of one blob that moves 2 columns and 1 row a frame."""

    def make(
        frames: int = 8,
        size: int = 64,
        *,
        speed: tuple[float, float] = (2, 1),
        first: int = 0,
        missing_rows: int = 0,
        spacing: float = 1000.0,
        step: np.timedelta64 = STEP,
    ) -> xr.DataArray:
        y, x = np.mgrid[:size, :size]
        n = (first + np.arange(frames))[:, None, None]
        column, row = size * 0.3 + speed[0] * n, size * 0.35 + speed[1] * n
        values = 8 * np.exp(-((x - column) ** 2 / 60 + (y - row) ** 2 / 30))
        values = np.where(values < 0.05, 0, values)
        values[:, size - missing_rows :] = np.nan
        axis = (np.arange(size) - size / 2) * spacing
        time = START + (first + np.arange(frames)) * step
        return rain_array(values, time=time, x=axis, y=axis[::-1], crs=CRS)

    return make


@pytest.fixture(scope="session")
def make_store(make_rain, tmp_path_factory):
    """Stores of moving blobs, with windows of 22 frames of 32 x 32 to train and validate on."""

    def make(frames: int = 60, *, leave_out: tuple[int, ...] = (), rain: xr.DataArray | None = None,
             **recipe) -> Path:  # fmt: skip
        path = tmp_path_factory.mktemp("store") / "radar.zarr"
        if rain is None:
            rain = make_rain(frames, speed=(0.5, 0.25), missing_rows=4)
        kept = [n for n in range(rain.sizes["time"]) if n not in leave_out]
        settings = Recipe(
            **{
                "splits": Splits(origin="2020-06-01T00:00", block_minutes=150, guard_minutes=0,
                                 cycle=("train", "validation", "test")),
                "sampling": Sampling(height=32, width=32, stride=16, q_min=0.2, m=1.0),
                **recipe,
            }
        )  # fmt: skip
        prepare_arrays(iter([rain.isel(time=kept)]), path, settings)
        return path

    return make


@pytest.fixture(scope="session")
def store(make_store) -> Path:
    """A store that no test changes."""
    return make_store(90)
