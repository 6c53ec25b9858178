# %% [markdown]
# # Quickstart: from radar frames to a verified forecast
#
# Four radar frames go in; an ensemble of the next 90 minutes comes out. This notebook makes one, looks at
# it, scores it against what then fell, and writes it to a file. It needs no data and no network: the radar
# is synthetic, and the model is the one that is shipped.

# %%
# %matplotlib inline
import os
import tempfile

import xarray as xr

import nowcast
from data_prep.synthetic import SyntheticRain, generate

_ = xr.set_options(display_expand_data=False)
os.chdir(tempfile.mkdtemp())  # what this notebook writes goes to a temporary folder

# %% [markdown]
# ## Radar
#
# Synthetic rain moves, grows and decays like real rain, on a grid of 256 x 256 km with the range rings of
# two radars. Four frames are the context, and the 18 after them are the truth of the next 90 minutes.

# %%
weather = SyntheticRain(start="2026-01-01T00:00", wet_fraction=0.35, growth=0.15)
radar = generate(weather, frames=22, seed=1)["rainfall_rate"]
radar.attrs |= {"institution": "nowcast, synthetic rain", "license": "Apache-2.0"}
context = radar.isel(time=slice(0, 4))
context

# %% [markdown]
# Rain is always a labelled array in mm/h (`kg m-2 h-1` is the same). It knows its times, its cells in
# metres and its map projection. NaN is no data, 0 is dry, and the two are never mixed up: on a map, grey is
# no data and white is dry.

# %%
nowcast.plot_map(context.isel(time=-1)).figure

# %% [markdown]
# ## Forecast
#
# `load_forecaster()` gives the network that is shipped; `"extrapolation"`, `"steps"`, the path of a
# checkpoint of your own and others give others. All of them forecast in the same way.

# %%
model = nowcast.load_forecaster()
ensemble = model.forecast(context, members=10, seed=1)
ensemble

# %% [markdown]
# Ten members, each a future that could come. They agree at first and part later. The panel shows the
# ensemble mean, two members, and the probability of 1 mm/h or more, beside what was observed.

# %%
ensemble.nowcast.plot_panel(radar)

# %% [markdown]
# The mean is smooth, because members disagree about where the cells will be. A member is not: look at
# members for the texture of the rain and at the probability for decisions.
#
# ## Was it any good?
#
# The truth is here, so let us score. Persistence, the last frame held, is the reference. The CRPS is the
# error of the whole ensemble in mm/h; less is better.

# %%
rivals = {
    "pretrained": ensemble,
    "extrapolation": nowcast.load_forecaster("extrapolation").forecast(context),
}
scores = nowcast.verify(rivals, truth=radar, reference="persistence")
leads = [f"{minutes}min" for minutes in (5, 15, 30, 60, 90)]
scores["crps"].sel(lead_time=leads).to_pandas().T.round(3)

# %%
scores.nowcast.plot_scores(variables=("crps", "csi"))

# %% [markdown]
# The rain is of the kind that the network was trained on, which flatters it; and yet in the cells of 1
# mm/h its mean is not better than extrapolation from half an hour to the last lead times. One forecast
# proves little; [05_verify](05_verify.ipynb) says what many can prove.
#
# ## Keep it
#
# A forecast file is CF NetCDF with all members, and says which model and which frames made it.

# %%
nowcast.write_forecast(ensemble, "forecast.nc")
kept = nowcast.read_forecast("forecast.nc")
for name in ("model", "checkpoint", "seed", "input_frames", "institution", "license"):
    print(f"{name}: {kept.attrs.get(name)}")

# %% [markdown]
# ## From here
#
# | notebook | what |
# |---|---|
# | [02](02_radar_to_zarr_and_quality.ipynb) | radar files become an archive, and what is doubtful in them |
# | [03](03_train_and_watch.ipynb) | train a network and watch it learn |
# | [04](04_forecast_maps.ipynb) | every picture of a forecast, on real rain |
# | [05](05_verify.ipynb) | many forecasts scored, and how sure one may be |
# | [06](06_operations_replay.ipynb) | a service that forecasts each new frame, and what goes wrong |
# | [07](07_your_own_archive.ipynb) | files that no reader knows |
