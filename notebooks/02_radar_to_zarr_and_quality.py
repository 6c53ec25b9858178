# %% [markdown]
# # From radar files to an archive, and what is doubtful in them
#
# Radar files become one Zarr archive: mm/h, on a regular clock, with every gap named and everything
# doubtful marked. This notebook takes the original files of a Dutch night, breaks some of them on purpose,
# and follows them into the archive; then it looks at another country, whose radars measure something else.
#
# It needs the radar files of KNMI and FMI (`knmi/2010/08`, `fmi/pgm`), in the folder that
# `NOWCAST_RADAR_DATA` names.

# %%
# %matplotlib inline
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

RADAR_DATA = Path(os.environ.get("NOWCAST_RADAR_DATA", "../../shared/data")).resolve()
if not ((RADAR_DATA / "knmi").is_dir() and (RADAR_DATA / "fmi").is_dir()):
    raise SystemExit("no radar files: set NOWCAST_RADAR_DATA to the folder that holds knmi and fmi")

# %%
import nowcast
from data_prep.pipeline import prepare
from nowcast.options import read_recipe

knmi, fmi = read_recipe("../configs/prep/knmi.yaml"), read_recipe("../configs/prep/fmi.yaml")
_ = xr.set_options(display_expand_data=False)
os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder
shutil.copytree(RADAR_DATA / "knmi", "knmi")
files = {path.stem[-4:]: path for path in sorted(Path("knmi").rglob("*.h5"))}
print(len(files), "files, from", min(files), "to", max(files), "UTC")

# %% [markdown]
# ## One file
#
# `read` finds the format by the content and gives a frame in the unit of the file, here millimetres in five
# minutes. Cells out of range are NaN, dry cells are 0: three quarters of this grid hold no data.

# %%
from data_prep.readers import read

frame = read(files["0500"])
frame

# %%
from data_prep.rain_rate import to_rain_rate

print(f"no data: {float(frame.isnull().mean()):.1%}, dry: {float((frame == 0).mean()):.1%}")
of_knmi = {"institution": knmi.about.institution, "license": knmi.about.license}
nowcast.plot_map(to_rain_rate(frame).assign_attrs(of_knmi)).figure

# %% [markdown]
# ## Things that happen to files
#
# Archives of years hold such files. Here are four of them at once: a frame that is lost, one that is cut
# short, one whose product has frozen and shows the rain of the frame before, and a second file for a time
# that has one.

# %%
files["0010"].unlink()
files["0025"].write_bytes(files["0025"].read_bytes()[:20_000])
with h5py.File(files["0320"], "r+") as frozen, h5py.File(files["0315"]) as before:
    frozen["image1/image_data"][:] = before["image1/image_data"][:]
_ = shutil.copy(files["0400"], files["0400"].with_name("RAD_NL25_RAP_5min_copy.h5"))

# %% [markdown]
# ## The archive
#
# `prepare` never stops at a bad file. It refuses that one by name, keeps the others, and reports. (On the
# command line: `nowcast prep --config configs/prep/knmi.yaml --source knmi --store knmi.zarr`.)

# %%
report = prepare("knmi", "knmi.zarr", knmi)
Path("knmi.zarr.report.json").write_text(report.as_json())
print(report.as_text().partition("\n")[2])  # the first line tells how long it took

# %% [markdown]
# - The lost frame and the one that is cut short leave **gaps**. They are named in `missing_times`; no
#   forecast and no training window reaches across one.
# - The frozen frame is **marked** `repeated`, and stays. Marks erase nothing: what to do about them is
#   yours to say (`quality.mask` in the recipe turns marked cells into no data).
# - The copy is refused, too: its time has a frame, and it holds the same bytes.
#
# The calendar shows all that at a glance, and which part of the archive trains, validates and tests. Shares
# of frames are of all times of the clock, shares of splits of the frames that are there.

# %%
from nowcast.plotting import plot_calendar

plot_calendar("knmi.zarr")

# %% [markdown]
# The archive is one Zarr group that any xarray opens.

# %%
radar = nowcast.open_radar("knmi.zarr")
radar

# %% [markdown]
# ## Quality
#
# Group `frames` tells of each frame which file it came from, how much of it is observed and wet, and its
# marks.

# %%
from data_prep.quality import CELL_MARKS, FRAME_MARKS
from data_prep.schema import open_frames

frames = open_frames("knmi.zarr")
table = frames[["wet", "mean", "largest", "marked", "marks"]].to_dataframe()
table.loc["2010-08-26T03:05":"2010-08-26T03:30"].round(3)

# %% [markdown]
# Cells have marks of their own. A wet cell without a wet neighbour is `speckle`, one far above its
# neighbours a `spike`: aircraft, ships, wind farms, interference. In this event they are few.

# %%
marks = frames["quality"].values
for name, bit in CELL_MARKS.items():
    print(f"{name}: {np.count_nonzero(marks & bit)} of {np.count_nonzero(radar >= 0.1)} wet cells")
print(Counter(name for code in frames["marks"].values for name, bit in FRAME_MARKS.items() if code & bit))

# %% [markdown]
# ## Splits and training windows
#
# Frames are dealt out to training, validation and test by calendar blocks, so that no storm is in two of
# them. (This archive is of one night, so its splits are of one storm. Of a longer one, take whole days and
# a guard of two hours.)
#
# Training windows are drawn in favour of rain, each with its probability, so that scores can weigh them
# back.

# %%
from data_prep.schema import SPLITS

samples = xr.open_zarr("knmi.zarr", group="samples", chunks=None, consolidated=False).load()
print(Counter(SPLITS[code] for code in radar["split"].values))
print(samples.sizes["sample"], "windows of", *(samples.attrs[name] for name in ("frames", "height", "width")))

# %% [markdown]
# Some of the windows that train, on the mean rain of the night:

# %%
from matplotlib.patches import Rectangle

mean = radar.mean("time", keep_attrs=True)
ax = mean.nowcast.plot_map(title="Mean rain of the night, and twelve training windows")
chosen = samples.isel(sample=np.flatnonzero(samples["split"] == SPLITS.index("train"))[:12])
for row, column in zip(chosen["y"].values, chosen["x"].values, strict=True):
    corner = radar["x"].values[column] - 500, radar["y"].values[row] + 500 - 128_000
    ax.add_patch(Rectangle(corner, 128_000, 128_000, fill=False, edgecolor="black", linewidth=1.2, zorder=3))
ax.figure

# %% [markdown]
# ## Another country
#
# The Finnish composite is reflectivity in dBZ, not an accumulation. `prepare` makes mm/h of it by the Z-R
# relation in the recipe. Below the weakest echo it is dry, out of range there is no data; the file has a
# code for each.

# %%
echo = read(next(Path(RADAR_DATA / "fmi/pgm").rglob("*1200_*.pgm.gz")))
print(f"{echo.attrs['units']}: {float(echo.max()):g} at most, dry is {float(echo.min()):g}")
print(f"Z = {fmi.z_r_a:g} R^{fmi.z_r_b:g}")

# %%
report = prepare(RADAR_DATA / "fmi", "fmi.zarr", fmi)
print(report.as_text().partition("\n")[2])

# %%
finland = nowcast.open_radar("fmi.zarr")
finland.sel(time="2017-05-09T12:00").nowcast.plot_map().figure

# %% [markdown]
# Both archives now hold the same thing, mm/h with the same names, and everything from here on takes either.
#
# ## Check
#
# `check_store` (`nowcast check`) reads every value once more. It finds the frozen frame, and in an archive
# of years it is what to read first.

# %%
from nowcast.checks import check_store

for store in ("knmi.zarr", "fmi.zarr"):
    facts, findings = check_store(store)
    print(*facts, *(f"FINDING: {finding}" for finding in findings), "", sep="\n")
