from datetime import timedelta

import numpy as np
import pyproj
import pytest
import xarray as xr
from drawing import LEADS, POLAR, compared, ensemble, rain, showers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput, crs_variable
from nowcast.plotting import PALETTES, plot_exceedance, plot_panel, plot_stamps

picture = compared(dpi=40)


def sheets(figure: Figure) -> list:
    """The maps of a panel, without its colour bars, row by row."""
    return sorted((ax for ax in figure.axes if hasattr(ax, "projection")),
                  key=lambda ax: (-ax.get_position().y0, ax.get_position().x0))  # fmt: skip


def shown(ax) -> np.ma.MaskedArray:
    return ax.images[0].get_array()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_a_panel_shows_the_observation_of_the_valid_time():
    observed = rain(np.arange(5)[:, None, None] * np.ones((5, 9, 9)))
    panel = plot_panel(observed, ensemble(np.zeros((3, 4, 9, 9))))
    assert [float(shown(ax).mean()) for ax in sheets(panel)[::5]] == [1.0, 2.0, 4.0]


def test_a_time_without_observation_is_said_to_be_not_observed_yet():
    panel = plot_panel(rain(np.ones((3, 9, 9))), ensemble(np.zeros((2, 4, 9, 9))))
    assert [len(ax.images) for ax in sheets(panel)[::5]] == [1, 1, 0]
    assert texts(panel).count("not observed yet") == 1


def test_the_columns_of_a_panel_are_observed_mean_members_and_probability():
    values = np.array([0.0, 2.0, 4.0, 2.0])[:, None, None, None] * np.ones((4, 4, 9, 9))
    panel = plot_panel(rain(np.ones((5, 9, 9))), ensemble(values), threshold=2.0)
    first = sheets(panel)[:5]
    titles = ["Observed", "Ensemble mean", "Member 0", "Member 1", "P(≥ 2 mm/h)"]
    assert [ax.get_title("left") for ax in first] == titles
    assert [float(shown(ax).mean()) for ax in first] == [1.0, 2.0, 0.0, 2.0, 0.75]
    assert first[4].images[0].norm.boundaries[-1] == 1
    assert panel.get_suptitle() == "Forecast of 2026-06-01 12:00 UTC, 4 members"


def test_no_data_is_no_data_in_every_column():
    values = np.ones((2, 4, 9, 9))
    values[..., :3] = np.nan
    for ax in sheets(plot_panel(None, ensemble(values))):
        assert shown(ax).mask.sum() == 27


def test_a_single_forecast_has_no_mean_and_no_probability():
    panel = plot_panel(rain(np.zeros((5, 9, 9))), ensemble(np.ones((1, 4, 9, 9))))
    assert [ax.get_title("left") for ax in sheets(panel)[:2]] == ["Observed", "Forecast"]
    assert len(sheets(panel)) == 6
    assert len(sheets(plot_panel(None, ensemble(np.ones((1, 4, 9, 9)))))) == 3


def test_the_rows_of_a_panel_are_the_lead_times_asked_for():
    chosen = [np.timedelta64(45, "m"), np.timedelta64(60, "m")]
    panel = plot_panel(None, ensemble(np.zeros((1, 4, 9, 9))), lead_times=chosen)
    assert {"+45 min\n12:45 UTC", "+60 min\n13:00 UTC"} == set(texts(panel)) - {"no data", ""}


@pytest.mark.parametrize(("steps", "rows"), [(1, ["+15 min"]), (2, ["+15 min", "+30 min"]),
                                             (3, ["+15 min", "+30 min", "+45 min"])])  # fmt: skip
def test_a_short_forecast_has_the_rows_it_can_fill(steps, rows):
    panel = plot_panel(None, ensemble(np.zeros((1, steps, 9, 9))))
    assert [text.split("\n")[0] for text in texts(panel) if text.startswith("+")] == rows


def test_a_panel_refuses_what_does_not_fit():
    forecast = ensemble(np.zeros((2, 4, 9, 9)))
    with pytest.raises(RefusedInput, match="choose from 15 min to 60 min"):
        plot_panel(None, forecast, lead_times=[np.timedelta64(20, "m")])
    with pytest.raises(RefusedInput, match="on the grid of the forecast"):
        plot_panel(rain(np.zeros((5, 9, 10))), forecast)
    with pytest.raises(RefusedInput, match="on the grid of the forecast"):
        plot_panel(rain(np.zeros((5, 9, 9)), longitude=5.1), forecast)
    with pytest.raises(RefusedInput, match="realization, lead_time, y, x"):
        plot_panel(None, forecast[0])


@pytest.mark.parametrize("leads", [["45min", "1h"], [45, 60.0], [np.timedelta64(45, "m"), "60 min"],
                                   [timedelta(minutes=45), timedelta(hours=1)], LEADS[2:]])  # fmt: skip
def test_lead_times_are_given_in_minutes_as_texts_or_as_timedeltas(leads):
    panel = plot_panel(None, ensemble(np.zeros((1, 4, 9, 9))), lead_times=leads)
    assert {text.split("\n")[0] for text in texts(panel) if text.startswith("+")} == {"+45 min", "+60 min"}


@pytest.mark.parametrize("lead", [30, "30min", timedelta(minutes=30), np.timedelta64(30, "m")])
def test_a_lead_time_or_threshold_alone_is_taken_for_one_of_many(lead):
    figure = plot_exceedance(ensemble(np.zeros((2, 4, 9, 9))), thresholds=2.0, lead_times=lead)
    assert [ax.get_title("left") for ax in sheets(figure)] == ["+30 min, 12:30 UTC"]
    assert "≥ 2 mm/h" in texts(figure)


def test_lead_times_are_drawn_in_their_order_however_they_are_stored():
    values = np.arange(4.0)[:, None, None] * np.ones((2, 4, 9, 9))
    for order in ([3, 2, 1, 0], [2, 0, 3, 1]):
        panel = plot_panel(None, ensemble(values)[:, order])
        assert [float(shown(ax).mean()) for ax in sheets(panel)[::4]] == [0.0, 1.0, 3.0]
        assert [text[:3] for text in texts(panel) if text.startswith("+")] == ["+15", "+30", "+60"]


def test_members_without_numbers_are_numbered():
    forecast = ensemble(np.zeros((2, 4, 9, 9))).drop_vars("realization")
    titles = [ax.get_title("left") for ax in sheets(plot_stamps(forecast, lead_time=15))]
    assert titles == ["Member 0", "Member 1"]


def test_rates_below_zero_are_refused_as_on_every_map():
    with pytest.raises(RefusedInput, match="0 or more; came: -50"):
        plot_panel(None, ensemble(np.full((2, 4, 9, 9), -50.0)), palette="STEPS-BE")


def test_what_is_not_finite_is_no_data_for_means_and_probabilities_too():
    values = np.ones((3, 4, 9, 9))
    values[2] = np.inf
    first = sheets(plot_panel(None, ensemble(values), threshold=2.0))[:4]
    assert [float(shown(ax).mean()) for ax in first] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("units", ["mm/h", "mm h-1", "kg m-2 h-1", None])
def test_rain_is_in_millimetres_an_hour_whichever_way_it_is_written(units):
    forecast = ensemble(np.zeros((1, 4, 9, 9))).drop_attrs(deep=False)
    plot_panel(None, forecast.assign_attrs({} if units is None else {"units": units}))


def test_maps_of_a_mostly_empty_grid_show_the_box_with_data():
    values = np.full((2, 4, 40, 40), np.nan)
    values[:, :, 4:14, 20:32] = 1.0
    panel = plot_panel(rain(np.where(np.isnan(values[0]), np.nan, 2.0)), ensemble(values))
    assert {shown(ax).shape for ax in sheets(panel) if ax.images} == {(12, 14)}
    stamps = plot_stamps(ensemble(values), lead_time=15)
    assert {shown(ax).shape for ax in sheets(stamps)} == {(12, 14)}


def test_a_sheet_says_whose_data_it_shows_and_who_made_the_forecast():
    forecast = ensemble(np.zeros((2, 4, 9, 9))).assign_attrs(
        institution="A $service_", license="CC-BY-4.0", model="$\\frac{$\na_b"
    )
    for figure in (
        plot_panel(None, forecast),
        plot_exceedance(forecast),
        plot_stamps(forecast, lead_time=15),
    ):
        FigureCanvasAgg(figure).draw()
        assert [text.get_text() for text in figure.texts if "Data:" in text.get_text()] == [
            "Data: A $service_, CC-BY-4.0 · Map: Natural Earth"
        ]
        assert "by $\\frac{$ a_b" in figure.get_suptitle().replace("\n", " ")


def test_a_long_title_is_broken_and_stays_within_the_figure():
    forecast = ensemble(np.zeros((2, 4, 9, 9))).assign_attrs(model=" ".join(["a long name"] * 12))
    figure = plot_stamps(forecast, lead_time=15)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure._suptitle.get_window_extent(canvas.get_renderer())
    assert box.x1 < figure.bbox.x1
    assert box.y0 > sheets(figure)[0].get_window_extent().y1


def test_rain_is_drawn_in_the_palette_asked_for_and_probability_in_its_own():
    panel = plot_panel(None, ensemble(np.ones((2, 4, 9, 9))), palette="STEPS-BE")
    first = [ax.images[0].norm.boundaries[0] for ax in sheets(panel)[:4]]
    assert first == [0.1, 0.1, 0.1, 0.0]
    assert len(sheets(panel)[0].images[0].norm.boundaries) == len(PALETTES["STEPS-BE"].levels)


def test_a_forecast_without_data_is_grey_and_says_so():
    forecast = ensemble(np.full((2, 4, 9, 9), np.nan))
    assert texts(plot_panel(None, forecast)).count("no data") == 4 * 3 + 1  # and the key
    assert texts(plot_stamps(forecast, lead_time=15)).count("no data") == 2 + 1


def test_stamps_are_the_observation_and_all_members_at_the_lead_time():
    values = np.arange(5)[:, None, None, None] + np.zeros((5, 4, 9, 9))
    observed = rain(np.full((5, 9, 9), 7.0) + np.arange(5)[:, None, None])
    figure = plot_stamps(ensemble(values), lead_time="30min", observed=observed)
    stamps = [ax for ax in sheets(figure) if ax.images]
    assert [ax.get_title("left") for ax in stamps] == ["Observed", *(f"Member {n}" for n in range(5))]
    assert [float(shown(ax).mean()) for ax in stamps] == [9.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    assert figure.get_suptitle().replace("\n", " ") == (
        "Valid 2026-06-01 12:30 UTC, 30 min after 2026-06-01 12:00 UTC, 5 members"
    )


def test_a_stamp_of_the_future_is_not_observed_yet():
    figure = plot_stamps(ensemble(np.zeros((3, 4, 9, 9))), lead_time=60, observed=rain(np.zeros((2, 9, 9))))
    assert texts(figure).count("not observed yet") == 1


@pytest.mark.parametrize(("members", "columns"), [(1, 1), (6, 3), (21, 7)])
def test_stamps_of_a_square_grid_fill_a_sheet_with_few_empty_places(members, columns):
    figure = plot_stamps(ensemble(np.zeros((members, 1, 9, 9))), lead_time=15)
    tops = [round(ax.get_position().y0, 3) for ax in sheets(figure)]
    assert tops.count(tops[0]) == columns


def test_stamps_stand_in_as_many_columns_as_asked_for():
    figure = plot_stamps(ensemble(np.zeros((5, 1, 9, 9))), lead_time=15, columns=2)
    assert len({round(ax.get_position().x0, 3) for ax in sheets(figure)}) == 2
    assert sum(bool(ax.images) for ax in sheets(figure)) == 5


def test_exceedance_has_a_row_a_threshold_and_a_column_a_lead_time():
    values = np.array([0.0, 2.0, 4.0, 2.0])[:, None, None, None] * np.ones((4, 4, 9, 9))
    figure = plot_exceedance(ensemble(values), thresholds=(1.0, 3.0), lead_times=[15, 30])
    assert [float(shown(ax).mean()) for ax in sheets(figure)] == [0.75, 0.75, 0.25, 0.25]
    assert [ax.get_title("left") for ax in sheets(figure)[:2]] == ["+15 min, 12:15 UTC", "+30 min, 12:30 UTC"]
    assert {"≥ 1 mm/h", "≥ 3 mm/h"} <= set(texts(figure))


def test_dims_may_come_in_another_order():
    values = np.random.default_rng(2).gamma(0.5, 2.0, (3, 4, 9, 9))
    forecast = ensemble(values)
    turned = forecast.transpose("y", "lead_time", "x", "realization")
    for draw in (lambda given: plot_panel(None, given), plot_exceedance):
        for one, other in zip(sheets(draw(forecast)), sheets(draw(turned)), strict=True):
            np.testing.assert_array_equal(shown(one), shown(other))


NOT_NUMPY = xr.date_range("2026-06-01T12:00", periods=5, freq="15min", use_cftime=True)
"""Times of another calendar library."""
OBSERVED = rain(np.zeros((5, 9, 9)))
DRAWN = {
    "panel": lambda forecast, **options: plot_panel(options.pop("observed", None), forecast, **options),
    "stamps": lambda forecast, **options: plot_stamps(forecast, **{"lead_time": 15, **options}),
    "exceedance": plot_exceedance,
}
"""Each figure of an ensemble, with one signature."""


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda forecast: forecast[0], "realization, lead_time, y, x"),
        (lambda forecast: forecast[:0], "one or more of each"),
        (lambda forecast: forecast[:, :0], "one or more of each"),
        (lambda forecast: forecast.drop_vars("lead_time"), "lead_time as time differences"),
        (lambda forecast: forecast.assign_coords(lead_time=range(4)), "lead_time as time differences"),
        (lambda forecast: forecast.drop_vars("forecast_reference_time"), "forecast_reference_time"),
        (lambda forecast: forecast.drop_vars("crs"), "CRS"),
        (lambda forecast: forecast.assign_attrs(units="dBZ"), "in mm/h.*units dBZ"),
        (lambda forecast: forecast.assign_attrs(units="1"), "in mm/h.*units 1"),
        (lambda forecast: forecast.astype(object), "type object"),
        (lambda forecast: forecast.to_dataset(name="rain"), "came: Dataset"),
        (lambda forecast: forecast.values, "came: ndarray"),
        (lambda _: None, "came: NoneType"),
        (lambda forecast: forecast.assign_coords(lead_time=LEADS[[0, 1, 1, 3]]), "the same lead_time again"),
        (lambda forecast: forecast.assign_coords(lead_time=LEADS + np.timedelta64("NaT")), "NaT"),
        (lambda forecast: forecast.assign_coords(forecast_reference_time=np.datetime64("NaT", "ns")), "NaT"),
        (
            lambda forecast: forecast.assign_coords(forecast_reference_time=NOT_NUMPY[0]),
            "as datetime64; came: object",
        ),
    ],
    ids=["a member", "no member", "no lead time", "unlabelled", "numbers", "no reference time", "no CRS",
         "reflectivity", "probability", "objects", "a Dataset", "no labels", "nothing",
         "a lead time twice", "an unknown lead time", "an unknown time", "another calendar"],
)  # fmt: skip
def test_what_is_no_forecast_is_refused(draw, change, match):
    with pytest.raises(RefusedInput, match=match):
        draw(change(ensemble(np.zeros((2, 4, 9, 9)))))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("stamps", {"lead_time": "20min"}, "choose from 15 min to 60 min"),
        ("stamps", {"lead_time": "soon"}, "write 30min"),
        ("stamps", {"lead_time": None}, "came: None"),
        ("stamps", {"lead_time": np.nan}, "came: nan"),
        ("stamps", {"lead_time": [15]}, "write 30min"),
        ("stamps", {"columns": 0}, "columns are 1 or more"),
        ("stamps", {"columns": 2.5}, "whole; came: 2.5"),
        ("stamps", {"observed": rain(np.zeros((5, 9, 10)))}, "on the grid of the forecast"),
        ("stamps", {"observed": rain(np.zeros((5, 9, 9)))[0]}, r"rain array \(time, y, x\)"),
        ("panel", {"observed": rain(np.zeros((5, 9, 9)))[0]}, r"rain array \(time, y, x\)"),
        ("panel", {"threshold": 0.0}, "above 0 mm/h"),
        ("panel", {"threshold": "1"}, "above 0 mm/h"),
        ("panel", {"lead_times": []}, "one or more"),
        ("panel", {"lead_times": [None]}, "came: None"),
        ("panel", {"lead_times": [np.nan]}, "came: nan"),
        ("panel", {"lead_times": [np.timedelta64("NaT")]}, "came: NaT"),
        ("panel", {"palette": "rainbow"}, "known by name"),
        ("exceedance", {"thresholds": ()}, "above 0 mm/h"),
        ("exceedance", {"thresholds": (1.0, -1.0)}, "above 0 mm/h"),
        ("exceedance", {"thresholds": None}, "came: .None"),
        ("exceedance", {"thresholds": "1"}, "above 0 mm/h"),
        ("exceedance", {"thresholds": ("1",)}, "above 0 mm/h"),
        ("exceedance", {"thresholds": np.nan}, "above 0 mm/h"),
        ("exceedance", {"lead_times": [90]}, "90 min, absent"),
        ("exceedance", {"lead_times": [1e18]}, r"1e\+18 min, absent"),
    ],
)
def test_a_figure_of_what_is_not_there_is_refused(name, options, match):
    with pytest.raises(RefusedInput, match=match):
        DRAWN[name](ensemble(np.zeros((2, 4, 9, 9))), **options)


@pytest.mark.parametrize("name", ["panel", "stamps"])
@pytest.mark.parametrize(
    ("observed", "match"),
    [
        (OBSERVED.assign_attrs(units="dBZ"), "the observation .* units dBZ"),
        (OBSERVED.assign_attrs(units="1"), "the observation .* units 1"),
        (OBSERVED.astype(object), "type object"),
        (OBSERVED.to_dataset(name="rain"), "the observation .* came: Dataset"),
        (OBSERVED.values, "the observation .* came: ndarray"),
        (OBSERVED.assign_coords(crs=crs_variable(POLAR)), "the observation is in the CRS of the forecast"),
        (OBSERVED.assign_coords(time=OBSERVED["time"].values[[0, 1, 1, 3, 4]]), "the same time again"),
        (OBSERVED.assign_coords(time=NOT_NUMPY), "the observation says its time as datetime64"),
        (OBSERVED.drop_vars("time"), "the observation says its time as datetime64"),
    ],
    ids=["reflectivity", "probability", "objects", "a Dataset", "no labels", "another CRS", "a time twice",
         "another calendar", "no times"],
)  # fmt: skip
def test_an_observation_that_does_not_fit_the_forecast_is_refused(name, observed, match):
    with pytest.raises(RefusedInput, match=match):
        DRAWN[name](ensemble(np.zeros((2, 4, 9, 9))), observed=observed)


def test_an_observation_in_degrees_is_on_the_grid_of_the_forecast_to_a_thousandth_of_a_cell():
    degrees = {"x": np.linspace(4, 5, 9), "y": np.linspace(53, 52, 9), "crs": crs_variable(pyproj.CRS(4326))}
    forecast = ensemble(np.zeros((2, 4, 9, 9))).assign_coords(degrees)
    observed = OBSERVED.assign_coords(degrees)
    plot_panel(observed.assign_coords(x=observed["x"] + 1e-6), forecast)
    with pytest.raises(RefusedInput, match="on the grid of the forecast"):
        plot_panel(observed.assign_coords(x=observed["x"] + 0.1), forecast)


def test_probabilities_of_a_single_forecast_are_refused():
    with pytest.raises(RefusedInput, match="two members or more"):
        plot_exceedance(ensemble(np.zeros((1, 4, 9, 9))))


def storm(members: int) -> xr.DataArray:
    """Members of showers that drift apart with lead time."""
    field = showers((30, 36))
    values = [[np.roll(field, (lead, lead * (member - 1)), axis=(0, 1)) for lead in range(1, 5)]
              for member in range(members)]  # fmt: skip
    return ensemble(np.array(values)).assign_attrs(model="made up", institution="Synthetic", license="CC0")


@picture
def test_a_panel_looks_as_before():
    observed = rain(np.array([np.roll(showers((30, 36)), lead, axis=0) for lead in range(4)]))
    return plot_panel(observed, storm(4), lead_times=[15, 60])


@picture
def test_stamps_look_as_before():
    observed = rain(np.array([np.roll(showers((30, 36)), lead, axis=0) for lead in range(4)]))
    return plot_stamps(storm(6), lead_time=45, observed=observed)


@picture
def test_exceedance_looks_as_before():
    return plot_exceedance(storm(5), thresholds=(1.0, 8.0))
