import socket
import urllib.request

import cartopy.crs as ccrs
import matplotlib.pyplot as plt
import numpy as np
import pyproj
import pytest
from drawing import LOCAL, POLAR, colour, colours_in_the_middle, ensemble, pixels, rain
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast import plotting
from nowcast.plotting import PROBABILITY, RAIN, plot_map, projection_of, save_figure
from nowcast.plotting.palettes import NO_DATA


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
    ],
)
def test_what_is_no_field_on_a_grid_is_refused(change, match):
    with pytest.raises(RefusedInput, match=match):
        plot_map(change(rain(np.zeros((2, 9, 9)))))


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
