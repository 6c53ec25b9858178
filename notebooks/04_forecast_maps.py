# %% [markdown]
# # Every picture of a forecast: the night before a flood
#
# In the night to 26 August 2010 steady rain moved over the Netherlands, some millimetres of it; the flood in
# the east came of what fell later that day. This notebook makes an ensemble forecast from the radar of that
# night and draws it in every way that `nowcast.plotting` knows, from a single map to a loop.
#
# It needs the radar files of KNMI (`knmi/2010/08`), in the folder that `NOWCAST_RADAR_DATA` names.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

RADAR_DATA = Path(os.environ.get("NOWCAST_RADAR_DATA", "../../shared/data")).resolve()
if not (RADAR_DATA / "knmi").is_dir():
    raise SystemExit("no radar files: set NOWCAST_RADAR_DATA to the folder that holds knmi/2010/08")

# %%
import nowcast
from data_prep.pipeline import prepare
from nowcast.options import read_recipe

recipe = read_recipe("../configs/prep/knmi.yaml")
_ = xr.set_options(display_expand_data=False)
os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder

# %% [markdown]
# ## Radar
#
# The 92 files become an archive first ([02](02_radar_to_zarr_and_quality.ipynb) looks at that step). Three
# quarters of the grid are out of the radars' range, so the forecast is made in the box that holds data.

# %%
from nowcast.fields import box_of_data

prepare(RADAR_DATA / "knmi", "knmi.zarr", recipe)
radar = nowcast.open_radar("knmi.zarr")
radar = radar.isel(box_of_data(radar.isel(time=[0]), margin=10))
radar

# %% [markdown]
# What the radars saw at 05:00 UTC. Grey is no data, white is dry.

# %%
now = np.datetime64("2010-08-26T05:00")
radar.sel(time=now).nowcast.plot_map().figure

# %% [markdown]
# The same field in the colours of pysteps, for those whose eyes are used to them. The default is one in
# which every class is darker than the one before, also to the colour-blind and in grey print.

# %%
radar.sel(time=now).nowcast.plot_map(palette="pysteps").figure

# %% [markdown]
# ## Motion
#
# All models but persistence begin with the motion of the rain. It is estimated from the last four frames.

# %%
context = radar.sel(time=slice(now - np.timedelta64(15, "m"), now)).load()
context.nowcast.plot_motion()

# %% [markdown]
# ## The forecast
#
# Twelve members of the network that is shipped, 90 minutes ahead. It was trained on this very night until
# 05:00, but on nothing later (see the [model card](../docs/model-card.md)): what follows was new to it, the
# storm was not.

# %%
model = nowcast.load_forecaster()
ensemble = model.forecast(context, members=12, seed=0)
ensemble

# %% [markdown]
# ## Panel
#
# A row is a lead time. What was observed stands beside the ensemble mean, two members, and the probability
# of 1 mm/h or more.

# %%
ensemble.nowcast.plot_panel(radar)

# %% [markdown]
# The mean fades with lead time: where cells will be is less and less certain. A member keeps its small
# scales. The grey grows from the west: no radar has seen what will come from there, so there is no forecast
# of it.
#
# ## Postage stamps
#
# All members at one lead time. Look for what they agree on, and for the one that does not.

# %%
ensemble.nowcast.plot_stamps(lead_time=60, observed=radar)

# %% [markdown]
# ## Probability of exceedance
#
# How likely is it that it rains as much or more? That is what a warning is made of. With twelve members,
# probabilities come in steps of a twelfth. The dark streaks at the north-western rim are surer than they
# should be: there members differ too little ([model card](../docs/model-card.md), its limits).

# %%
ensemble.nowcast.plot_exceedance(thresholds=(1.0, 4.0), lead_times=[15, 30, 60, 90])

# %% [markdown]
# ## A place
#
# The plume at Enschede: every member, the median, the bands that hold half and four fifths of the members,
# and what then fell. The axis is a square root, so that drizzle and downpours both have room.

# %%
ensemble.nowcast.plot_plume(longitude=6.89, latitude=52.22, observed=radar, place="Enschede")

# %% [markdown]
# ## A loop
#
# The ensemble mean every ten minutes, as it would stand on a page. `animate` writes GIF, WebP and, where
# ffmpeg is, MP4. (Below it is declared to be PNG: not every viewer of notebooks shows what is declared GIF,
# and all of them look at what is in it.)

# %%
from IPython.display import Image

mean = ensemble.mean("realization", keep_attrs=True)[1::2]
mean.nowcast.animate("loop.gif", title="pretrained, ensemble mean")
Image("loop.gif", format="png")

# %% [markdown]
# ## Into a report
#
# Figures belong to you: `save_figure` writes one as PNG, PDF or SVG, whole or not at all. The forecast
# itself is a file of CF NetCDF, and `nowcast products` makes everything else of it.

# %%
from nowcast.plotting import save_figure

save_figure(ensemble.nowcast.plot_panel(radar), "panel.pdf")
nowcast.write_forecast(ensemble, "forecast.nc")
print(*sorted(path.name for path in Path().iterdir()), sep="\n")
