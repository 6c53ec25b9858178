import numpy as np
import pyproj
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.schema import RefusedInput, rain_array
from nowcast.evaluation.report_sections import sections
from nowcast.forecaster import label
from nowcast.plotting import diagrams as score_diagrams
from nowcast.plotting.cases import draw_case
from nowcast.plotting.scores import COLOURS, REFERENCE_COLOUR, curves, looks_of, plot_scores
from nowcast.verification import ScoreSettings, label_sums, lead_sums, score, skill

STEP = np.timedelta64(15, "m").astype("timedelta64[ns]")
MODELS = {"persistence": 1, "perfect": 1, "ensemble": 4}


def made_scores(*, leads=3, observed_rain=1.0, masked=False) -> xr.Dataset:
    """Scores of a reference, a perfect forecast and an ensemble on random rain."""
    rng = np.random.default_rng(3)
    settings = ScoreSettings(thresholds=(1.0, 4.0), scales=(1.0, 4.0), windows=(2.0, 4.0))
    observed = observed_rain * rng.gamma(0.5, 3.0, (leads, 16, 16)).astype(np.float32)
    mask = np.full((16, 16), not masked)
    by_model = {}
    for name, members in MODELS.items():
        spread = rng.gamma(4.0, 0.25, (members, leads, 16, 16)).astype(np.float32)
        values = observed[None] if name == "perfect" else observed * spread
        by_model[name] = [
            lead_sums(np.ascontiguousarray(values[:, lead]), observed[lead], mask, settings, spacing=1.0)
            for lead in range(leads)
        ]
    sums = label_sums(
        by_model, lead_times=STEP * np.arange(1, leads + 1), settings=settings, shape=(16, 16), spacing=1.0
    )
    scores = score(sums, settings)
    spectra = sums[["power", "observed_power"]]
    return xr.merge([scores, skill(scores, "persistence"), spectra]).assign_attrs(reference="persistence")


@pytest.fixture(scope="module")
def scores():
    return made_scores()


def lines_of(figure, colour):
    return [line for line in figure.axes[0].lines if line.get_color() == colour]


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
    (line,) = lines_of(curves(gap, "crps", looks_of(gap)), COLOURS[1])
    np.testing.assert_array_equal(line.get_xdata(), [15, 30, 45])
    np.testing.assert_array_equal(line.get_ydata(), gap["crps"].sel(model="ensemble"))
    assert np.isnan(line.get_ydata()[1])


def test_a_skill_is_in_percent_and_leaves_the_reference_out(scores):
    figure = curves(scores, "crps_skill", looks_of(scores))
    (line,) = lines_of(figure, COLOURS[0])
    np.testing.assert_allclose(line.get_ydata(), 100.0)  # of the perfect forecast
    assert [line.get_ydata() for line in lines_of(figure, REFERENCE_COLOUR)] == [[0, 0]]


def test_spread_over_error_is_a_score_and_no_skill(scores):
    figure = curves(scores, "spread_skill", looks_of(scores))
    (line,) = lines_of(figure, COLOURS[1])
    np.testing.assert_allclose(line.get_ydata(), scores["spread_skill"].sel(model="ensemble"))


def test_a_band_lies_between_the_bounds_of_the_interval(scores):
    found = xr.Dataset({"crps_low": scores["crps"] - 0.1, "crps_high": scores["crps"] + 0.2})
    figure = curves(scores, "crps", looks_of(scores), found)
    assert len(figure.axes[0].collections) == 3
    heights = figure.axes[0].collections[2].get_paths()[0].vertices[:, 1]
    values = scores["crps"].sel(model="ensemble").values
    assert heights.min() == pytest.approx(values.min() - 0.1)
    assert heights.max() == pytest.approx(values.max() + 0.2)


def test_one_lead_time_is_drawn_with_bars_side_by_side():
    scores = made_scores(leads=1)
    found = xr.Dataset({"crps_low": scores["crps"] - 0.1, "crps_high": scores["crps"] + 0.1})
    figure = curves(scores, "crps", looks_of(scores), found)
    places = [float(line.get_xdata()[0]) for line in figure.axes[0].lines]
    assert len(set(places)) == 3
    assert np.mean(places) == pytest.approx(15)
    assert len(figure.axes[0].collections) == 3


def test_the_nearest_threshold_is_named(scores):
    figure = curves(scores, "csi", looks_of(scores), threshold=5.0)
    assert figure.axes[0].get_title(loc="left") == "CSI of the ensemble mean, ≥ 4 mm/h"


def test_deterministic_models_are_in_no_reliability_diagram(scores):
    figure = score_diagrams.reliability(scores, looks_of(scores), threshold=1.0, lead_time=30.0)
    assert not lines_of(figure, COLOURS[0])
    (line,) = lines_of(figure, COLOURS[1])
    np.testing.assert_allclose(line.get_xdata(), [0, 0.25, 0.5, 0.75, 1])  # of 4 members


def test_ranks_are_multiples_of_a_flat_histogram(scores):
    figure = score_diagrams.ranks(scores, looks_of(scores), lead_time=30.0)
    (stairs,) = figure.axes[0].patches
    assert stairs.get_data().values.mean() == pytest.approx(1.0)


def test_a_roc_curve_starts_and_ends_in_the_corners(scores):
    figure = score_diagrams.roc(scores, looks_of(scores), threshold=1.0, lead_time=30.0)
    (line,) = lines_of(figure, COLOURS[0])
    points = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (points[0], points[-1]) == ((0, 0), (1, 1))
    assert (0, 1) in points  # the perfect forecast
    assert any(text.get_text() == "1.000" for text in figure.axes[0].texts)


def test_without_rain_the_scores_of_events_are_left_out_and_errors_drawn():
    scores = made_scores(leads=1, observed_rain=0.0)
    assert curves(scores, "csi", looks_of(scores), threshold=1.0) is None
    assert curves(scores, "crps", looks_of(scores)) is not None


def test_without_a_cell_no_panel_is_drawn():
    scores = made_scores(leads=1, masked=True)
    parts = list(sections(scores, None, None, looks_of(scores)))
    assert len(parts) > 5
    assert not any(panel() for part in parts for panel in part.panels)


def test_all_panels_are_drawn_where_all_is_defined(scores):
    parts = sections(scores, None, None, looks_of(scores))
    assert all(panel() is not None for part in parts for panel in part.panels)


def test_names_are_never_read_as_mathematics(scores):
    hostile = scores.assign_coords(model=["$\\frac{", "b$_^$", "c\n$"]).assign_attrs(reference="$\\frac{")
    FigureCanvasAgg(plot_scores(hostile, variables=("crps_skill", "csi"))).draw()


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
