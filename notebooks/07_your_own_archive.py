# %% [markdown]
# # An archive of your own
#
# A dozen formats are read as they are. Yours may not be among them: this notebook takes files of a made-up
# form, shows what is refused and why, writes the small reader that they need, and goes on to an archive and
# a forecast. The files are made here, of synthetic rain, so it runs anywhere.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np
import pyproj
import xarray as xr

import nowcast
from data_prep.schema import RefusedInput
from data_prep.synthetic import SyntheticRain, generate

_ = xr.set_options(display_expand_data=False)
os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder

# %% [markdown]
# ## The files
#
# One NumPy archive for each frame: `depth` holds hundredths of a millimetre in 5 minutes as whole numbers,
# -1 where the radar does not reach, the first row in the **south**; `valid` is local time, one hour ahead
# of UTC. Where the cells are stands in a letter from the people who made the files: 192 x 192 cells of 1 km
# on UTM zone 32, around 500 km east and 6000 km north.

# %%
weather = SyntheticRain(shape=(192, 192), start="2026-01-01T00:00", wet_fraction=0.35, crs="EPSG:32632")
rain = generate(weather, frames=48, seed=7)["rainfall_rate"]

Path("archive").mkdir()
for frame in rain:
    depth = np.where(np.isnan(frame), -1, np.round(frame * 100 / 12))[::-1]  # 12 intervals in an hour
    local = str((frame["time"].values + np.timedelta64(1, "h")).astype("datetime64[m]"))
    np.savez_compressed(
        f"archive/rain_{local.replace(':', '')}.npz", depth=depth.astype(np.int16), valid=local
    )
files = sorted(Path("archive").iterdir())
print(len(files), "files, the first", files[0].name)

# %% [markdown]
# ## What is refused, and why
#
# No reader knows such a file, and none guesses. A refusal is one line: the rule, what came, what to do.

# %%
from data_prep.readers import read

try:
    read(files[0])
except RefusedInput as refusal:
    print(refusal)

# %% [markdown]
# ## A reader
#
# A reader says whether a file is its own, of which time a file is, and what is in it. It hands over a frame
# in the **unit of the file**, with the length of its interval; mm/h is made of it later, in one place for
# all formats. It turns the first row to the north, local time into UTC, and what the file writes for no
# data into NaN. No data taken for dry is the most frequent error in radar archives, and nothing can mend it
# afterwards.

# %%
from data_prep.readers import frame, single_frame_reader
from data_prep.schema import map_coordinates

SHAPE, MIDDLE = (192, 192), (500e3, 6000e3)
X = MIDDLE[0] + (np.arange(SHAPE[1]) - SHAPE[1] / 2 + 0.5) * 1000.0  # cell centres, metres
Y = MIDDLE[1] + (SHAPE[0] / 2 - 0.5 - np.arange(SHAPE[0])) * 1000.0  # north first
COORDINATES = map_coordinates(X, Y, pyproj.CRS("EPSG:32632"))


def is_ours(head: bytes, _path: Path) -> bool:
    """Whether a file is of this form: by its first bytes, never by its name."""
    return head.startswith(b"PK\x03\x04") and head[30:].startswith(b"depth.npy")  # a ZIP and its first member


def read_time(path: Path) -> np.datetime64:
    """Time of the frame, UTC."""
    with np.load(path) as file:
        return np.datetime64(str(file["valid"]), "ns") - np.timedelta64(1, "h")


def read_frame(path: Path) -> xr.DataArray:
    """The frame, mm in 5 minutes."""
    with np.load(path) as file:
        depth = file["depth"][::-1].astype(np.float32)
    values = np.where(depth < 0, np.nan, depth / 100)
    attributes = {"units": "mm", "accumulation_minutes": 5.0}
    return frame(values, time=read_time(path), coordinates=COORDINATES, attributes=attributes)


READER = single_frame_reader("our_npz", is_ours, read_time, read_frame)

# %% [markdown]
# One frame, to see whether it is what it should be. A map of an accumulation would be refused, so it goes
# through the step that makes rates of everything.

# %%
from data_prep.rain_rate import to_rain_rate

first = READER.read_frames(files[0], [0])
one = to_rain_rate(next(first))
one

# %%
nowcast.plot_map(one).figure

# %% [markdown]
# Look at such a map before anything else. The rain must lie where it fell, as far as you know; the
# grey must be where the radar does not reach, and the colour bar must show rates that fall from the sky.
#
# ## Files become an archive
#
# The recipe names the reader by its place, `module:NAME`. Here the module is this notebook, `__main__`.
# Four hours are dealt out in blocks of two; of a real archive, leave the splits at whole days and the guard
# at two hours.

# %%
from data_prep.pipeline import Recipe, prepare
from data_prep.sampling import Sampling
from data_prep.splits import Splits
from data_prep.store import About

recipe = Recipe(
    pattern="*.npz",
    reader="__main__:READER",
    time_step_minutes=5,
    about=About(title="Rain of our own radar", institution="Our weather service", license="CC-BY-4.0"),
    splits=Splits(
        origin="2026-01-01T00:00", block_minutes=120, guard_minutes=0, cycle=("train", "validation")
    ),
    sampling=Sampling(height=128, width=128, q_min=0.3, m=1.0),
)
report = prepare("archive", "ours.zarr", recipe)
print(report.as_text().partition("\n")[2])  # the first line tells how long it took

# %% [markdown]
# ### What a wrong reader would have given
#
# Somebody forgets that the numbers are hundredths.

# %%
FORGETFUL = single_frame_reader(
    "forgetful", is_ours, read_time, lambda path: read_frame(path).copy(data=read_frame(path) * 100)
)
wrong = prepare("archive", "wrong.zarr", Recipe(pattern="*.npz", reader="__main__:FORGETFUL", sampling=None))
print(wrong.as_text().splitlines()[2])

# %% [markdown]
# Nothing is refused, because each frame alone could be rain; only the largest rate gives it away. (Frames
# in which most wet cells have more than 128 mm/h are refused.) A factor of two would not even show there.
# So read the report, and compare some hours with gauges, or with the sums that the provider publishes.
#
# ## Check it
#
# `check_store` reads every value: layout, projection, gaps, range, frozen frames, cells that look like
# clutter. Facts come first; findings, if there are any, are what to mend. (On the command line: `nowcast
# check ours.zarr`.)

# %%
from nowcast.checks import check_store

facts, findings = check_store("ours.zarr")
print(*facts, "", f"{len(findings)} findings", *findings, sep="\n")

# %% [markdown]
# The store is plain Zarr, and any xarray opens it. `open_radar` gives its rain.

# %%
radar = nowcast.open_radar("ours.zarr")
radar

# %% [markdown]
# ## Forecast
#
# The network that is shipped wants 1 km and 5 minutes. It resamples cells of 0.4 to 2.5 km and refuses
# other time steps.

# %%
model = nowcast.load_forecaster()
ensemble = model.forecast(radar.sel(time=slice(None, "2026-01-01T02:00")), members=6, seed=1)
ensemble.nowcast.plot_panel(radar)

# %% [markdown]
# ## To keep the reader
#
# Put its functions into a file `my_radar.py` and the recipe into `prep.yaml` with `reader:
# my_radar:READER`. Then every command takes your files, also the service:
#
# ```
# export PYTHONPATH=.
# nowcast prep     --config prep.yaml --source archive --store ours.zarr
# nowcast check    ours.zarr
# nowcast forecast --source archive --prep prep.yaml --time latest --output forecast.nc
# ```
#
# A second `prep` appends what is new. A package of yours can give its readers to everybody who installs it:
# an entry point of the group `nowcast.readers` names one, and files are then found by their content.
