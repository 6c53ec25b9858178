import numpy as np
import pyproj
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.schema import RefusedInput, rain_array
from nowcast.forecaster import label
from nowcast.plotting.cases import draw_case

STEP = np.timedelta64(15, "m").astype("timedelta64[ns]")


def case(members_by_model):
    """Frames from 11:45 of a 20 x 20 grid of which 8 rows and 6 columns were observed; forecasts of 12:00."""
    values = np.full((4, 20, 20), np.nan, np.float32)
    values[:, 4:12, 10:16] = 2.0
    axis = np.arange(20) * 1000.0
    times = np.datetime64("2026-06-01T11:45", "ns") + STEP * np.arange(4)
    observed = rain_array(values, time=times, x=axis, y=axis[::-1], crs=pyproj.CRS("EPSG:28992"))
    made = {
        name: label(np.ones((count, 2, 20, 20), np.float32), observed[:2], attributes={})
        for name, count in members_by_model.items()
    }
    return observed, made


def test_a_case_shows_the_observed_box_in_every_map():
    observed, ensembles = case({"a": 1, "b": 3})
    figure = draw_case(observed, ensembles, STEP)
    shown = [ax.images[0].get_array().shape for ax in figure.axes if ax.images]
    assert shown == [(10, 8)] * 7  # a cell around 8 x 6; two maps of the one, five of the other
    assert figure.get_suptitle() == "Valid 2026-06-01 12:15 UTC, 15 min after 2026-06-01 12:00 UTC"


def test_deterministic_models_alone_have_two_columns():
    observed, ensembles = case({"a": 1, "$b_{": 1})
    figure = draw_case(observed, ensembles, STEP)
    FigureCanvasAgg(figure).draw()
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["Observed", "Forecast"]
    assert len([ax for ax in figure.axes if ax.images]) == 4


def test_a_case_that_was_not_observed_or_has_no_model_is_refused():
    observed, ensembles = case({"a": 1})
    with pytest.raises(RefusedInput, match="what is verified was observed"):
        draw_case(observed[:1], ensembles, STEP)
    with pytest.raises(RefusedInput, match="one model or more"):
        draw_case(observed, {}, STEP)
