import numpy as np
import pytest
import xarray as xr
from drawing import compared
from made_scores import STEP, lines_of, made_scores
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.schema import RefusedInput
from nowcast.evaluation.report_sections import sections
from nowcast.plotting.charts import COLOURS, REFERENCE_COLOUR, Undefined, looks_of
from nowcast.plotting.scores import plot_case_series, plot_fss_by_window, plot_scores, plot_spread

picture = compared(dpi=50)


@pytest.fixture(scope="module")
def scores():
    return made_scores()


def names_in(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@picture
def test_curves_of_scores_look_as_before(scores):
    found = {"crps_low": scores["crps"] * 0.8, "crps_high": scores["crps"] * 1.2}
    return plot_scores(scores.assign(found), variables=("crps", "csi_skill"))


def test_a_model_has_one_colour_and_the_reference_is_grey(scores):
    looks = looks_of(scores)
    assert [look.colour for look in looks.values()] == [REFERENCE_COLOUR, *COLOURS[:2]]


def test_ten_models_can_still_be_told_apart():
    names = [f"model {number}" for number in range(10)]
    looks = looks_of(xr.Dataset(coords={"model": names}))
    assert len({(look.colour, look.dashes) for look in looks.values()}) == 10


def test_a_curve_goes_through_the_values_by_minute_with_a_gap_where_undefined(scores):
    gap = scores.copy(deep=True)
    gap["crps"].loc[{"model": "ensemble", "lead_time": 2 * STEP}] = np.nan
    (line,) = lines_of(plot_scores(gap, variables="crps"), COLOURS[1])
    np.testing.assert_array_equal(line.get_xdata(), [15, 30, 45])
    np.testing.assert_array_equal(line.get_ydata(), gap["crps"].sel(model="ensemble"))
    assert np.isnan(line.get_ydata()[1])


def test_a_skill_is_in_percent_and_leaves_the_reference_out(scores):
    figure = plot_scores(scores, variables=("crps_skill",))
    (line,) = lines_of(figure, COLOURS[0])
    np.testing.assert_allclose(line.get_ydata(), 100.0)  # of the perfect forecast
    assert [line.get_ydata() for line in lines_of(figure, REFERENCE_COLOUR)] == [[0, 0]]


def test_spread_over_error_is_a_score_and_no_skill(scores):
    figure = plot_scores(scores, variables=("spread_skill",))
    (line,) = lines_of(figure, COLOURS[1])
    np.testing.assert_allclose(line.get_ydata(), scores["spread_skill"].sel(model="ensemble"))


def test_a_band_lies_between_the_bounds_of_the_interval(scores):
    found = xr.Dataset({"crps_low": scores["crps"] - 0.1, "crps_high": scores["crps"] + 0.2})
    for figure in (
        plot_scores(scores, found, variables=("crps",)),
        plot_scores(scores.assign(found), variables=("crps",)),  # as scores.nc has them
    ):
        assert len(figure.axes[0].collections) == 3
        heights = figure.axes[0].collections[2].get_paths()[0].vertices[:, 1]
        values = scores["crps"].sel(model="ensemble").values
        assert heights.min() == pytest.approx(values.min() - 0.1)
        assert heights.max() == pytest.approx(values.max() + 0.2)


def test_one_lead_time_is_drawn_with_bars_side_by_side():
    scores = made_scores(leads=1)
    found = xr.Dataset({"crps_low": scores["crps"] - 0.1, "crps_high": scores["crps"] + 0.1})
    figure = plot_scores(scores, found, variables=("crps",))
    places = [float(line.get_xdata()[0]) for line in figure.axes[0].lines]
    assert len(set(places)) == 3
    assert np.mean(places) == pytest.approx(15)
    assert len(figure.axes[0].collections) == 3


def test_a_model_or_a_lead_time_that_was_picked_before_is_drawn_alone(scores):
    one = plot_scores(scores.sel(model="ensemble"), variables=("crps",))
    assert names_in(one) == ["ensemble"]
    np.testing.assert_array_equal(one.axes[0].lines[0].get_ydata(), scores["crps"].sel(model="ensemble"))
    (point,) = lines_of(plot_scores(scores.isel(lead_time=1), variables=("crps",)), COLOURS[1])
    assert point.get_ydata() == [scores["crps"].sel(model="ensemble")[1]]


def test_the_nearest_threshold_is_named(scores):
    figure = plot_scores(scores, variables=("csi",), threshold=5.0)
    assert figure.axes[0].get_title(loc="left") == "CSI of the ensemble mean, ≥ 4 mm/h"


def test_the_legend_names_all_models_unless_it_is_left_out(scores):
    assert names_in(plot_scores(scores)) == ["persistence", "perfect", "ensemble"]
    assert not names_in(plot_scores(scores, legend=False))
    assert names_in(plot_spread(scores)) == ["ensemble"]


def test_a_score_that_is_not_there_or_no_curve_is_refused(scores):
    with pytest.raises(Undefined, match="came: crsp; choose of .*crps"):
        plot_scores(scores, variables=("crps", "crsp"))
    with pytest.raises(RefusedInput, match="came: rank_frequency by model, lead_time, rank"):
        plot_scores(scores, variables=("rank_frequency",))
    with pytest.raises(Undefined, match="came: no name"):
        plot_scores(scores, variables=())


@pytest.mark.parametrize("other", [xr.Dataset({"crps": ("model", [1.0])}), xr.DataArray(1.0), "scores.nc"])
def test_what_is_no_scores_is_refused(other):
    with pytest.raises(RefusedInput, match="scores are a Dataset by model and lead_time"):
        plot_scores(other)


def test_scores_of_several_regions_are_refused(scores):
    with pytest.raises(RefusedInput, match="one region"):
        plot_scores(xr.concat([scores, scores], "region"))


def test_without_rain_the_scores_of_events_are_undefined_and_errors_drawn():
    scores = made_scores(leads=1, observed_rain=0.0)
    with pytest.raises(Undefined, match="none of csi"):
        plot_scores(scores, variables=("csi",))
    errors, events = plot_scores(scores, variables=("crps", "csi")).axes
    assert not errors.texts
    assert [text.get_text() for text in events.texts] == ["undefined"]


def test_a_score_by_window_needs_two_windows(scores):
    (line,) = lines_of(plot_fss_by_window(scores, lead_time=STEP), COLOURS[1])
    assert line.get_xdata().tolist() == [2.0, 4.0]
    with pytest.raises(Undefined, match="two windows or more"):
        plot_fss_by_window(scores.isel(window=[0]))


def test_deterministic_models_alone_have_no_spread(scores):
    with pytest.raises(Undefined, match="rmse and spread of ensembles"):
        plot_spread(scores.sel(model=["persistence", "perfect"]))


def test_cases_come_in_the_order_of_their_times(scores):
    times = np.datetime64("2026-06-01T12:00", "ns") + STEP * np.array([1, 0])
    axes = {"reference_time": ("case", times), "model": ["perfect", "ensemble"]}
    crps = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("case", "model"), coords=axes)
    (line,) = lines_of(plot_case_series(crps, looks_of(scores)), COLOURS[0])
    assert line.get_ydata().tolist() == [3.0, 1.0]
    with pytest.raises(Undefined, match="a series of cases has a score"):
        plot_case_series(crps * np.nan, looks_of(scores))


def test_without_a_cell_no_panel_is_defined():
    scores = made_scores(leads=1, masked=True)
    panels = [panel for part in sections(scores, None, None) for panel in part.panels]
    assert len(panels) > 5
    for panel in panels:
        with pytest.raises(Undefined):
            panel()


def test_all_panels_are_drawn_where_all_is_defined(scores):
    assert all(panel().axes for part in sections(scores, None, None) for panel in part.panels)


def test_names_are_never_read_as_mathematics(scores):
    hostile = scores.assign_coords(model=["$\\frac{", "b$_^$", "c\n$"]).assign_attrs(reference="$\\frac{")
    FigureCanvasAgg(plot_scores(hostile, variables=("crps_skill", "csi"))).draw()
