import numpy as np
import pyproj
import pytest
from drawing import LOCAL, POLAR, compared, ensemble, rain
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.schema import RefusedInput, crs_variable
from nowcast.plotting import plot_plume

ROW, COLUMN = 12, 7


def at_cell(values) -> np.ndarray:
    """Members by lead time in the cell of ROW and COLUMN; elsewhere it rains 50 mm/h."""
    values = np.asarray(values, dtype=float)
    field = np.full((*values.shape, 20, 16), 50.0)
    field[:, :, ROW, COLUMN] = values
    return field


def place_of(field, row=ROW, column=COLUMN, *, east=0.0):
    """Longitude and latitude of a cell, some metres to the east of its centre."""
    to_earth = pyproj.Transformer.from_crs(LOCAL, 4326, always_xy=True)
    longitude, latitude = to_earth.transform(float(field["x"][column]) + east, float(field["y"][row]))
    return {"longitude": longitude, "latitude": latitude}


DRY = rain(np.zeros((5, 20, 16)))
STEREOGRAPHIC = crs_variable(POLAR)


def lines(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in ax.lines}


MEMBERS = [[0, 1, 2, 3], [0, 3, 4, 3], [0, 5, 6, 3], [0, 7, 8, 9], [0, 9, 10, 12]]


def test_the_median_and_the_members_are_those_of_the_cell_of_the_place():
    forecast = ensemble(at_cell(MEMBERS))
    upper, _ = reversed(plot_plume(forecast, **place_of(forecast)).axes)
    found = lines(upper)
    np.testing.assert_array_equal(found["median"], [0, 5, 6, 3])
    members = [line.get_ydata() for line in upper.lines if len(line.get_ydata()) == 4][:5]
    np.testing.assert_array_equal(members, MEMBERS)
    np.testing.assert_array_equal(upper.lines[0].get_xdata(), [15, 30, 45, 60])


def test_bands_hold_four_fifths_and_half_of_the_members():
    forecast = ensemble(at_cell(np.tile(np.arange(11.0)[:, None], 4)))
    upper = plot_plume(forecast, **place_of(forecast)).axes[1]
    heights = [np.unique(band.get_paths()[0].vertices[:, 1]) for band in upper.collections]
    np.testing.assert_allclose([(ends.min(), ends.max()) for ends in heights], [(1, 9), (2.5, 7.5)])


def test_probabilities_are_shares_of_the_members_in_percent():
    forecast = ensemble(at_cell(MEMBERS))
    lower = plot_plume(forecast, **place_of(forecast), thresholds=(8.0, 1.0)).axes[0]
    found = lines(lower)
    np.testing.assert_allclose(found["≥ 1 mm/h"], [0, 100, 100, 100])
    np.testing.assert_allclose(found["≥ 8 mm/h"], [0, 20, 40, 40])
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["≥ 1 mm/h", "≥ 8 mm/h"]


def test_a_member_without_data_is_left_out_and_a_time_without_any_is_a_gap():
    values = np.array(MEMBERS, dtype=float)
    values[4] = np.nan
    values[:, 2] = np.nan
    forecast = ensemble(at_cell(values))
    lower, upper = plot_plume(forecast, **place_of(forecast), thresholds=(5.0,)).axes
    np.testing.assert_array_equal(lines(upper)["median"], [0, 4, np.nan, 3])
    np.testing.assert_allclose(lines(lower)["≥ 5 mm/h"], [0, 50, np.nan, 25])


def test_what_was_observed_goes_from_before_the_forecast_to_the_last_known_time():
    forecast = ensemble(at_cell(MEMBERS))
    frames = np.arange(5.0)[:, None, None] * np.ones((5, 20, 16))
    observed = rain(frames)
    earlier = observed.assign_coords(time=observed["time"] - np.timedelta64(30, "m"))  # 11:30 to 12:30
    shuffled = earlier[[2, 4, 0, 3, 1]]
    upper = plot_plume(forecast, **place_of(forecast), observed=shuffled).axes[1]
    line = next(line for line in upper.lines if line.get_label() == "observed")
    np.testing.assert_array_equal(line.get_xdata(), [-15, 0, 15, 30])  # a third of an hour before
    np.testing.assert_array_equal(line.get_ydata(), [1, 2, 3, 4])
    assert any(not np.any(line.get_xdata()) for line in upper.lines)  # T+0


def test_lead_times_are_drawn_in_their_order_however_they_are_stored():
    forecast = ensemble(at_cell(MEMBERS))
    upper = plot_plume(forecast[:, [2, 0, 3, 1]], **place_of(forecast)).axes[1]
    np.testing.assert_array_equal(upper.lines[0].get_xdata(), [15, 30, 45, 60])
    np.testing.assert_array_equal(lines(upper)["median"], [0, 5, 6, 3])


def test_what_is_not_finite_is_no_data():
    values = np.array(MEMBERS, dtype=float)
    values[4] = np.inf
    forecast = ensemble(at_cell(values))
    observed = rain(np.full((5, 20, 16), np.inf))
    lower, upper = plot_plume(forecast, **place_of(forecast), observed=observed, thresholds=5.0).axes
    np.testing.assert_array_equal(lines(upper)["median"], [0, 4, 5, 3])
    np.testing.assert_allclose(lines(lower)["≥ 5 mm/h"], [0, 50, 50, 25])
    assert "observed" not in lines(upper)


def test_an_observation_without_data_in_the_cell_is_left_out():
    forecast = ensemble(at_cell(MEMBERS))
    upper = plot_plume(forecast, **place_of(forecast), observed=rain(np.full((5, 20, 16), np.nan))).axes[1]
    assert "observed" not in lines(upper)


def test_the_axis_of_time_has_lead_times_and_hours():
    forecast = ensemble(at_cell(MEMBERS))
    lower = plot_plume(forecast, **place_of(forecast)).axes[0]
    labels = [label.get_text() for label in lower.get_xticklabels()]
    assert labels[0] == "T+0\n12:00"
    assert labels[-1] == "+60\n13:00"
    assert lower.get_xlabel() == "lead time (min) and time on 2026-06-01 (UTC)"


@pytest.mark.parametrize(
    ("largest", "seen"), [(0.0, {"0", "0.1", "0.5", "1", "2"}), (80.0, {"0", "5", "50"})]
)
def test_drizzle_and_downpour_are_both_read_off_the_axis_of_rates(largest, seen):
    forecast = ensemble(at_cell(np.full((3, 4), largest)))
    upper = plot_plume(forecast, **place_of(forecast)).axes[1]
    assert seen <= {label.get_text() for label in upper.get_yticklabels()}
    half, top = upper.transData.transform([(0, largest / 4), (0, largest)])[:, 1] - upper.bbox.y0
    assert half == pytest.approx(top / 2, abs=1e-6)  # a quarter of the rain at half of the height


def test_the_title_tells_the_place_and_how_far_off_the_cell_is():
    forecast = ensemble(at_cell(MEMBERS)).assign_attrs(model="a $model_")
    figure = plot_plume(forecast, **place_of(forecast, east=600.0), place="Mill")
    first, second = figure.get_suptitle().split("\n")
    assert first == "Rain at Mill (51.95°N 4.98°E), the centre of its cell 0.6 km away"
    assert second == "Forecast of 2026-06-01 12:00 UTC, by a $model_, 5 members"
    figure.canvas.draw()


def test_long_names_are_broken_and_drawn_as_they_are():
    forecast = ensemble(at_cell(MEMBERS)).assign_attrs(model="$\\frac{$\n" + "a_b " * 40)
    figure = plot_plume(forecast, **place_of(forecast), place="$\\sqrt{$\n" + "Mill " * 40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    title = figure._suptitle.get_window_extent(canvas.get_renderer())
    assert "Rain at $\\sqrt{$ Mill Mill" in figure.get_suptitle()
    assert "by $\\frac{$ a_b a_b" in figure.get_suptitle().replace("\n", " ")
    assert title.x1 < figure.bbox.x1
    assert title.y0 > figure.axes[1].get_legend().get_window_extent().y1


def test_a_single_forecast_is_one_line_without_probabilities():
    forecast = ensemble(at_cell([[0, 1, 2, 3]]))
    (ax,) = plot_plume(forecast, **place_of(forecast)).axes
    np.testing.assert_array_equal(lines(ax)["forecast"], [0, 1, 2, 3])
    assert not ax.collections


def test_a_single_lead_time_is_seen_as_points():
    forecast = ensemble(at_cell([[1.0], [3.0]]))
    upper = plot_plume(forecast, **place_of(forecast)).axes[1]
    assert {line.get_marker() for line in upper.lines if len(line.get_ydata()) == 1} == {"o"}


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (lambda forecast: forecast[0], {}, "realization, lead_time, y, x"),
        (lambda forecast: forecast[:0], {}, "one or more of each"),
        (lambda forecast: forecast.drop_vars("forecast_reference_time"), {}, "forecast_reference_time"),
        (lambda forecast: forecast.assign_attrs(units="dBZ"), {}, "dBZ"),
        (lambda forecast: forecast.drop_vars("crs"), {}, "CRS"),
        (lambda forecast: forecast.where(False), {}, "no data at"),
        (lambda forecast: forecast, {"longitude": 7.0}, "on the grid of the forecast; came: 51.95°N 7°E"),
        (lambda forecast: forecast, {"thresholds": ()}, "above 0 mm/h"),
        (lambda forecast: forecast, {"thresholds": (0.0,)}, "above 0 mm/h"),
        (lambda forecast: forecast, {"thresholds": "1"}, "above 0 mm/h"),
        (lambda forecast: forecast, {"observed": rain(np.zeros((2, 20, 17)))}, "on the grid of the forecast"),
        (lambda forecast: forecast, {"observed": DRY.assign_coords(crs=STEREOGRAPHIC)}, "in the CRS of"),
        (lambda forecast: forecast, {"observed": DRY.assign_attrs(units="dBZ")}, "observation .* units dBZ"),
        (lambda forecast: forecast.assign_attrs(units="1"), {}, "units 1"),
        (lambda forecast: forecast, {"longitude": "5"}, "in degrees; came: '5'"),
        (lambda forecast: forecast, {"latitude": np.nan}, "in degrees; came: .* nan"),
        (lambda forecast: forecast[..., :1], {}, "two cells or more along x and y; came: 1 along x"),
    ],
    ids=["a member", "no member", "no time", "dBZ", "no CRS", "all missing", "outside", "no threshold",
         "threshold 0", "a text", "another grid", "another CRS", "observed dBZ", "probability", "no number",
         "NaN", "one cell wide"],
)  # fmt: skip
def test_a_plume_of_nothing_is_refused(change, options, match):
    forecast = ensemble(at_cell(MEMBERS))
    with pytest.raises(RefusedInput, match=match):
        plot_plume(change(forecast), **(place_of(forecast) | options))


@compared(dpi=50)
def test_a_plume_looks_as_before():
    leads = np.arange(1, 5)
    members = [[abs(8 * np.sin(0.4 * lead + 0.3 * member)) for lead in leads] for member in range(9)]
    forecast = ensemble(at_cell(members)).assign_attrs(
        model="made up", institution="Synthetic", license="CC0"
    )
    observed = rain(np.array([2.0, 4.0, 7.5])[:, None, None] * np.ones((3, 20, 16)))
    return plot_plume(forecast, **place_of(forecast), observed=observed, place="Mill")
