import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from drawing import ensemble, rain, showers
from matplotlib.quiver import Quiver

from data_prep.schema import RefusedInput
from nowcast import accessor, fields, plotting
from nowcast.accessor import OfArray, OfDataset

PUBLIC = {name: getattr(plotting, name) for name in plotting.__all__ if name.startswith(("plot_", "animate"))}
WITHOUT_ARRAY = {"plot_training"}
"""Figures of what is no array: the log of a training."""
REARRANGED = {"plot_panel", "plot_motion"}
"""Methods whose arguments are others than those of their functions but for the first."""


def methods_of(accessor_class) -> set[str]:
    return {name for name in dir(accessor_class) if not name.startswith("_")} - {"held"}


def parameters(function) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def names_and_defaults(function) -> list[tuple]:
    return [(name, one.kind, one.default) for name, one in parameters(function).items()]


def test_there_is_a_method_for_every_figure_of_an_array():
    offered = methods_of(OfArray) | methods_of(OfDataset)
    assert offered == set(PUBLIC) - WITHOUT_ARRAY | {"exceedance_probability"}


@pytest.mark.parametrize("name", sorted((methods_of(OfArray) | methods_of(OfDataset)) - REARRANGED))
def test_a_method_has_the_signature_and_the_docstring_of_its_function(name):
    held = xr.DataArray(0.0) if name in methods_of(OfArray) else xr.Dataset()
    method, function = getattr(held.nowcast, name), getattr(plotting, name, None) or getattr(fields, name)
    assert names_and_defaults(method) == names_and_defaults(function)[1:]
    assert method.__doc__ == function.__doc__
    assert method.__self__ is held


def test_the_panel_of_a_forecast_takes_what_plot_panel_takes():
    of_function, of_method = parameters(plotting.plot_panel), parameters(xr.DataArray(0.0).nowcast.plot_panel)
    assert of_method.pop("observed").default is None
    del of_function["observed"], of_function["ensemble"]
    assert [(name, one.default) for name, one in of_method.items()] == [
        (name, one.default) for name, one in of_function.items()
    ]
    assert "nowcast.plotting.plot_panel" in OfArray.plot_panel.__doc__


def test_the_motion_of_frames_takes_what_plot_motion_takes():
    of_function, of_method = (
        parameters(plotting.plot_motion),
        parameters(xr.DataArray(0.0).nowcast.plot_motion),
    )
    del of_function["field"], of_function["motion"]
    assert [(name, one.default) for name, one in of_method.items()] == [
        (name, one.default) for name, one in of_function.items()
    ]
    assert "nowcast.plotting.plot_motion" in OfArray.plot_motion.__doc__


def test_methods_of_a_forecast_draw_it():
    forecast = ensemble(np.ones((3, 4, 9, 9)))
    titles = {ax.get_title("left") for ax in forecast.nowcast.plot_panel(rain(np.ones((5, 9, 9)))).axes}
    assert {"Observed", "Ensemble mean"} <= titles
    assert "Observed" not in {ax.get_title("left") for ax in forecast.nowcast.plot_panel().axes}
    assert forecast[0, 0].nowcast.plot_map(title="Mine").get_title("left") == "Mine"
    xr.testing.assert_identical(
        forecast.nowcast.exceedance_probability(1.0), fields.exceedance_probability(forecast, 1.0)
    )


def test_the_motion_of_frames_is_estimated_and_drawn_with_the_last_one():
    field = showers((64, 64))
    frames = rain([np.roll(field, 2 * step, axis=1) for step in range(4)])  # 4 km in 15 minutes to the east
    frames = frames.fillna(0.0)
    figure = frames.nowcast.plot_motion(spacing=40.0)
    (arrows,) = [found for found in figure.axes[0].collections if isinstance(found, Quiver)]
    assert np.median(arrows.U) == pytest.approx(4000 / 900, abs=0.7)
    assert abs(np.median(arrows.V)) < 0.7
    assert figure.axes[0].get_title("left") == "Valid 2026-06-01 12:45 UTC"


def test_methods_refuse_what_their_functions_refuse():
    with pytest.raises(RefusedInput, match="realization, lead_time, y, x"):
        rain(np.ones((4, 9, 9))).nowcast.plot_stamps(lead_time=15)
    with pytest.raises(RefusedInput, match="scores are a Dataset"):
        xr.Dataset().nowcast.plot_roc()
    with pytest.raises(RefusedInput, match="2 frames or more"):
        rain(np.ones((1, 9, 9))).nowcast.plot_motion()
    with pytest.raises(RefusedInput, match=r"\(time, y, x\)"):
        rain(np.ones((1, 9, 9)))[0].nowcast.plot_motion()


@pytest.mark.parametrize("first", ["nowcast.open_radar", "import_module('nowcast.plotting')"])
def test_the_first_name_that_is_used_brings_the_methods_and_no_more(first):
    code = f"""
import sys
from importlib import import_module
import nowcast, xarray
assert not hasattr(xarray.DataArray, "nowcast")
{first}
assert xarray.DataArray(0.0).nowcast.held == 0.0
assert xarray.Dataset().nowcast.held.sizes == {{}}
assert "torch" not in sys.modules
assert "matplotlib" not in sys.modules or "plotting" in {first!r}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(accessor.__file__).parents[1])
