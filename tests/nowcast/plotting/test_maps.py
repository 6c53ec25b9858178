import socket
import urllib.request

import cartopy.crs as ccrs
import matplotlib.pyplot as plt
import numpy as np
import pyproj
import pytest
from drawing import (
    LOCAL,
    POLAR,
    START,
    colour,
    colours_in_the_middle,
    compared,
    ensemble,
    on_degrees,
    pixels,
    rain,
    showers,
)
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput, crs_variable, rain_array
from nowcast import plotting
from nowcast.plotting import PROBABILITY, RAIN, Palette, animate, plot_map, projection_of, save_figure
from nowcast.plotting.maps import range_edge
from nowcast.plotting.palettes import NO_DATA

ROTATED = pyproj.CRS.from_proj4("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18")
KILOMETRES = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=km")


def curvilinear(frames):
    """2-D longitude and latitude alone."""
    return frames[0].drop_vars(["x", "y", "crs"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.nan, NO_DATA),
        (np.inf, NO_DATA),
        (0.0, "#ffffff"),
        (3.0, RAIN.colours[4]),
        (100.0, RAIN.colours[-1]),
    ],
)
def test_a_uniform_map_has_one_colour(value, expected):
    assert colours_in_the_middle(rain(np.full((1, 9, 9), value))[0]) == colour(expected)


def test_a_probability_is_drawn_on_the_scale_of_probability():
    field = rain(np.full((1, 9, 9), 0.85))[0].assign_attrs(units="1")
    assert colours_in_the_middle(field) == colour(PROBABILITY.colours[8])


@pytest.mark.parametrize("southward", [True, False])
@pytest.mark.parametrize("crs", [LOCAL, POLAR], ids=["local", "polar"])
def test_a_bright_cell_is_drawn_where_cartopy_says_its_place_is(crs, southward):
    longitude, latitude = 5.6, 51.9
    field = rain(np.zeros((1, 121, 81)), crs, southward=southward)[0]
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude)
    field.loc[field.sel(x=x, y=y, method="nearest")["y"], field.sel(x=x, y=y, method="nearest")["x"]] = 100
    ax = plot_map(field, graticule=False)
    ax.figure.set_dpi(200)
    picture = pixels(ax.figure)
    place = ax.projection.transform_point(longitude, latitude, ccrs.PlateCarree())
    column, row = ax.transData.transform(place).astype(int)
    assert picture[row, column].tolist() == colour(RAIN.colours[-1])
    inside = ax.get_window_extent()
    rows, columns = np.nonzero((picture == colour(RAIN.colours[-1])).all(axis=-1))
    bright = columns[columns < inside.x1], rows[columns < inside.x1]
    cell = inside.width / field.sizes["x"]
    assert bright[0].size >= 0.7 * cell**2
    assert np.abs(bright[0] - column).max() <= cell + 1
    assert np.abs(bright[1] - row).max() <= cell + 1


def test_the_coast_is_drawn_at_den_helder_and_not_at_apeldoorn():
    ax = plot_map(rain(np.zeros((1, 200, 200)))[0], graticule=False)
    picture = pixels(ax.figure)
    reach = int(np.ceil(5 / 400 * ax.get_window_extent().width))
    darkest = {}
    for name, longitude, latitude in (("Den Helder", 4.74, 52.96), ("Apeldoorn", 5.97, 52.21)):
        place = ax.projection.transform_point(longitude, latitude, ccrs.PlateCarree())
        column, row = ax.transData.transform(place).astype(int)
        near = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
        darkest[name] = near.max(axis=-1).min()
    assert darkest["Den Helder"] < 80
    assert darkest["Apeldoorn"] == 255


def test_a_map_fills_its_grid_to_the_edges_of_the_outer_cells():
    field = rain(np.zeros((1, 20, 30)))[0]
    ax = plot_map(field)
    assert ax.get_xlim() == (field["x"].values[0] - 1000, field["x"].values[-1] + 1000)
    assert ax.get_ylim() == (field["y"].values[-1] - 1000, field["y"].values[0] + 1000)


def test_the_frame_is_labelled_in_degrees():
    ax = plot_map(rain(np.zeros((1, 80, 80)))[0])
    across = {label.get_text(): label.get_position()[0] for label in ax.get_xticklabels()}
    up = {label.get_text(): label.get_position()[1] for label in ax.get_yticklabels()}
    to_map = pyproj.Transformer.from_crs(4326, LOCAL, always_xy=True)
    assert {"4.5°E", "5°E", "5.5°E"} <= set(across)
    assert {"51.5°N", "52°N", "52.5°N"} <= set(up)
    assert across["5°E"] == pytest.approx(0, abs=200)
    assert up["52°N"] == pytest.approx(to_map.transform(3.84, 52.0)[1], abs=500)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"longitude": 0, "latitude": 5}, {"0°", "1°E", "1°W"}),
        ({"longitude": 180, "latitude": -17}, {"179°W"}),
    ],
)
def test_meridians_are_named_east_and_west(place, expected):
    crs = pyproj.CRS.from_proj4(
        f"+proj=laea +lat_0={place['latitude']} +lon_0={place['longitude']} +datum=WGS84"
    )
    ax = plot_map(rain(np.zeros((1, 150, 150)), crs, **place)[0])
    assert expected <= {label.get_text() for label in ax.get_xticklabels()}


def test_a_map_says_which_time_it_shows():
    assert plot_map(rain(np.zeros((2, 9, 9)))[1]).get_title("left") == "Valid 2026-06-01 12:15 UTC"
    forecast = ensemble(np.zeros((1, 4, 9, 9)))[0, 1]
    assert (
        plot_map(forecast).get_title("left")
        == "Valid 2026-06-01 12:30 UTC\n30 min after 2026-06-01 12:00 UTC"
    )
    assert plot_map(forecast, title="Mine").get_title("left") == "Mine"


def test_a_map_can_be_drawn_in_axes_of_ones_own():
    field = rain(np.zeros((1, 9, 9)))[0]
    figure = Figure()
    ax = figure.add_subplot(1, 2, 1, projection=projection_of(field))
    assert plot_map(field, ax=ax, colour_bar=False) is ax
    assert figure.axes == [ax]


@pytest.mark.parametrize("projection", [None, ccrs.PlateCarree()])
def test_axes_of_another_projection_are_refused(projection):
    ax = Figure().add_subplot(projection=projection)
    with pytest.raises(RefusedInput, match="projection_of"):
        plot_map(rain(np.zeros((1, 9, 9)))[0], ax=ax)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda frames: frames, "a map shows one field"),
        (lambda frames: frames[0].drop_vars("crs"), "carries its CRS"),
        (lambda frames: frames[0, :, :1], "two cells or more"),
        (lambda frames: frames[0].drop_vars("x"), "came: no coordinate x"),
        (lambda frames: frames[0].isel(x=[0, 1, 3]), "evenly spaced"),
        (lambda frames: frames[0].assign_coords(x=np.full(9, 7.0)), "evenly spaced"),
        (lambda frames: frames[0].assign_coords(x=[*range(8), np.nan]), "evenly spaced"),
        (lambda frames: frames[0].assign_coords(crs=crs_variable(ROTATED)), "degrees of longitude"),
        (lambda frames: frames[0].assign_coords(crs=crs_variable(KILOMETRES)), "came: unknown in kilometre"),
        (curvilinear, "carries its CRS"),
        (lambda frames: frames[0].values, "came: ndarray"),
        (lambda frames: frames[0] - 1, "0 or more; came: -1"),
        (lambda frames: (frames[0] + 80).assign_attrs(units="1"), "0 to 1; came: 80"),
        (
            lambda frames: on_degrees(frames[0].values, longitudes=range(9), latitudes=range(83, 92)),
            "90 degrees",
        ),
        (
            lambda frames: on_degrees(frames[0].values, longitudes=range(0, 450, 50), latitudes=range(9)),
            "go round the globe once",
        ),
        (
            lambda frames: on_degrees(
                frames[0].values, longitudes=range(9), latitudes=range(9)
            ).assign_coords(crs=crs_variable(LOCAL)),
            "degrees of longitude",
        ),
    ],
)
def test_what_is_no_field_on_a_grid_is_refused(change, match):
    with pytest.raises(RefusedInput, match=match):
        plot_map(change(rain(np.zeros((2, 9, 9)))))


@pytest.mark.parametrize("dims", [("x", "y"), ("y", "x")])
def test_the_order_of_the_dims_does_not_matter(dims):
    field = rain(showers((9, 12))[None])[0]
    np.testing.assert_array_equal(plot_map(field.transpose(*dims)).images[0].get_array(), field.values)


@pytest.mark.parametrize("units", ["mm h-1", "kg m-2 h-1", "mm/h", None])
def test_rain_rates_are_drawn_whatever_their_spelling_and_without_units(units):
    field = rain(np.full((1, 9, 9), 3.0))[0]
    field.attrs = {} if units is None else {"units": units}
    assert colours_in_the_middle(field) == colour(RAIN.colours[4])


@pytest.mark.parametrize(
    ("units", "do"),
    [("dBZ", "to_rain_rate"), ("mm", "hours"), ("m s-1", "3.6e6"), ("kg m-2 s-1", "3600"), ("K", "convert")],
)
def test_other_units_are_refused_with_the_way_to_mm_per_hour(units, do):
    field = rain(np.ones((2, 9, 9))).assign_attrs(units=units)
    with pytest.raises(RefusedInput, match=f"came: units {units}; .*{do}"):
        plot_map(field[0])
    with pytest.raises(RefusedInput, match=do):
        animate(field, "never.gif")


def test_a_palette_of_ones_own_may_be_of_other_units():
    palette = Palette((1.0, 10.0), ("#0000ff", "#ff0000"), "rain amount (mm)")
    field = rain(np.full((1, 9, 9), 30.0))[0].assign_attrs(units="mm")
    assert colours_in_the_middle(field, palette=palette) == [255, 0, 0]


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, ["no data"]), (0.0, ["no rain of 0.1 mm/h or more"]), (0.1, [""])]
)
def test_a_map_with_nothing_to_see_says_why(value, words):
    field = rain(np.full((1, 9, 9), value))[0]
    assert [text.get_text() for text in plot_map(field, colour_bar=False).texts] == words
    shared = Figure().add_subplot(projection=projection_of(field))
    assert not plot_map(field, ax=shared, colour_bar=False).texts


def test_infinite_rain_is_not_called_dry():
    field = rain(np.zeros((1, 9, 9)))[0]
    field[4, 4] = np.inf
    assert not any("no rain" in text.get_text() for text in plot_map(field).texts)


def test_dry_is_white_in_a_dark_style():
    with plt.style.context("dark_background"):
        assert colours_in_the_middle(rain(np.zeros((1, 9, 9)))[0]) == [255, 255, 255]


@pytest.mark.parametrize("times", [{"time": np.datetime64("NaT", "ns")}, {"time": 5}, {"lead_time": 5}])
def test_what_is_no_time_is_not_told(times):
    field = rain(np.zeros((1, 9, 9)))[0].drop_vars("time")
    assert plot_map(field.assign_coords(times)).get_title("left") == ""


def test_a_title_is_no_mathematics(tmp_path):
    ax = plot_map(rain(np.zeros((1, 9, 9)))[0], title=r"a$b$ of 5 $\foo{$")
    save_figure(ax, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size


def test_a_line_runs_between_the_cells_with_and_without_data():
    values = np.zeros((1, 10, 12))
    values[:, :, 8:] = np.nan
    field = rain(values)[0]
    (edge,) = range_edge(field)
    np.testing.assert_allclose(edge[:, 0], (field["x"][7] + field["x"][8]) / 2)
    assert sorted(edge[[0, -1], 1]) == sorted(field["y"].values[[0, -1]])
    assert range_edge(rain(np.zeros((1, 9, 9)))[0]) == []


def test_a_map_names_whose_data_it_shows():
    field = rain(np.zeros((1, 9, 9)))[0]
    written = {"institution": "Institute $5$", "license": "LicenseRef-Own-terms"}
    told = [text.get_text() for text in plot_map(field.assign_attrs(written)).figure.texts]
    assert told == ["Data: Institute $5$, Own-terms · Map: Natural Earth"]
    assert [text.get_text() for text in plot_map(field).figure.texts] == ["Map: Natural Earth"]


def test_rivers_are_drawn_where_they_are_asked_for():
    field = rain(np.zeros((1, 60, 60)), longitude=7.0, latitude=50.9)[0]
    assert len(plot_map(field, rivers=True).collections) == len(plot_map(field).collections) + 1


# Longitude and latitude, the antimeridian, the pole


@pytest.mark.parametrize("names", [("lon", "lat"), ("longitude", "latitude")])
@pytest.mark.parametrize("westward", [False, True])
def test_a_cell_of_a_grid_in_degrees_is_drawn_at_its_longitude_and_latitude(names, westward):
    values = np.zeros((40, 60))
    values[10, 45] = 100.0
    longitudes, latitudes = np.linspace(0, 11.8, 60), np.linspace(56, 48.2, 40)
    field = on_degrees(values, longitudes=longitudes, latitudes=latitudes, names=names)
    ax = plot_map(field[:, ::-1] if westward else field, graticule=False)
    picture = pixels(ax.figure)
    place = ax.projection.transform_point(longitudes[45], latitudes[10], ccrs.PlateCarree())
    column, row = ax.transData.transform(place).astype(int)
    assert picture[row, column].tolist() == colour(RAIN.colours[-1])


def test_a_kilometre_of_a_grid_in_degrees_is_as_long_across_as_up():
    field = on_degrees(
        np.zeros((40, 60)), longitudes=np.linspace(0, 11.8, 60), latitudes=np.linspace(56, 48.2, 40)
    )
    box = plot_map(field).get_window_extent()
    cosine = np.cos(np.radians(52.1))
    assert box.width / box.height == pytest.approx(12 * cosine / 8, rel=0.01)


def test_a_field_on_a_geographic_crs_is_drawn_in_degrees_too():
    values = rain(np.ones((1, 20, 30)))[0]
    degrees = {
        "x": np.arange(30.0),
        "y": np.arange(40.0, 60.0),
        "crs": crs_variable(pyproj.CRS.from_epsg(4326)),
    }
    ax = plot_map(values.assign_coords(degrees))
    assert {"10°E", "20°E"} <= {label.get_text() for label in ax.get_xticklabels()}


@pytest.mark.parametrize("longitudes", [np.arange(170.0, 190.0), (np.arange(170.0, 190.0) + 180) % 360 - 180])
def test_a_grid_in_degrees_is_whole_across_the_antimeridian(longitudes):
    ax = plot_map(on_degrees(np.zeros((20, 20)), longitudes=longitudes, latitudes=np.arange(-28.0, -8.0)))
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["170°E", "175°E", "180°", "175°W"]
    assert np.ptp(ax.get_xlim()) == pytest.approx(20 * 111.195e3 * np.cos(np.radians(18.5)), rel=1e-3)


def test_all_meridians_meet_at_a_pole_within_the_map():
    ax = plot_map(over_the_pole())
    lines = next(part for part in ax.collections if part.get_zorder() == 1.5).get_segments()
    meridians = [line for line in lines if np.hypot(*line.T).min() < 1]
    assert len(meridians) == 12
    assert [label.get_text() for label in ax.get_xticklabels()] == ["30°W", "0°", "30°E"]


def test_the_middle_meridian_of_a_map_is_labelled():
    ax = plot_map(over_the_antimeridian())
    across = {label.get_text(): label.get_position()[0] for label in ax.get_xticklabels()}
    assert list(across) == ["176°E", "178°E", "180°", "178°W", "176°W"]
    assert across["180°"] == pytest.approx(0, abs=1)


# Pictures

picture = compared(dpi=32)


def over_the_pole():
    return square(POLAR, 1.5e6)


def over_the_antimeridian():
    return square(pyproj.CRS.from_proj4("+proj=laea +lat_0=-17 +lon_0=180 +datum=WGS84 +units=m"), 6e5)


def square(crs, half: float):
    """Showers on 80 by 80 cells round the origin of a projection."""
    axis = (np.arange(80) - 39.5) * half / 40
    return rain_array(showers((80, 80))[None], time=[START], x=axis, y=axis[::-1], crs=crs)[0]


@picture
def test_a_rain_map_looks_as_before():
    field = rain(showers((180, 160))[None])[0]
    return plot_map(field.assign_attrs(institution="An institute", license="CC-BY-4.0"), rivers=True).figure


@picture
def test_a_map_in_degrees_looks_as_before():
    return plot_map(on_degrees(showers((60, 100)), longitudes=np.linspace(-10, 9.8, 100),
                               latitudes=np.linspace(62, 50.2, 60))).figure  # fmt: skip


@picture
def test_a_map_over_the_pole_looks_as_before():
    return plot_map(over_the_pole()).figure


@picture
def test_a_map_over_the_antimeridian_looks_as_before():
    return plot_map(over_the_antimeridian()).figure


# Figures in files


def test_drawing_and_saving_need_no_network_and_pyplot_holds_nothing(monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise AssertionError(f"network used: {arguments} {options}")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    save_figure(plot_map(rain(np.ones((1, 40, 50)))[0]).figure, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert plt.get_fignums() == []


def test_a_figure_of_unknown_kind_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(RefusedInput, match="png"):
        save_figure(Figure(), tmp_path / "sub" / "map.docx")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    save_figure(Figure(), path, dpi=20)
    before = path.read_bytes()
    figure = Figure()

    def fail(partial, *, dpi, format):
        with open(partial, "w") as file:
            file.write(f"half a {format} of {dpi} dpi")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.png"]


def test_plotting_offers_what_it_promises():
    assert all(hasattr(plotting, name) for name in plotting.__all__)
