import socket
import urllib.request

import cartopy.crs as ccrs
import matplotlib.pyplot as plt
import numpy as np
import pyproj
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from data_prep.schema import RefusedInput, rain_array
from nowcast import plotting
from nowcast.plotting import (
    PROBABILITY,
    RAIN,
    RAIN_COLOURS,
    RAIN_LEVELS,
    animate,
    plot_map,
    plot_panel,
    projection_of,
    save_figure,
)
from nowcast.plotting.maps import NO_DATA

POLAR = pyproj.CRS.from_proj4("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +ellps=WGS84 +units=m")
LOCAL = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m")
START = np.datetime64("2026-06-01T12:00", "ns")
LEADS = np.arange(1, 5) * np.timedelta64(15, "m").astype("timedelta64[ns]")


def rain(values, crs=LOCAL, *, longitude=5.0, latitude=52.0, southward=True) -> xr.DataArray:
    """Frames every 15 minutes on a 2-km grid round a place."""
    values = np.asarray(values, dtype=float)
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude)
    columns = x + (np.arange(values.shape[2]) - values.shape[2] // 2) * 2000.0
    rows = y + (np.arange(values.shape[1]) - values.shape[1] // 2) * 2000.0
    times = START + np.arange(len(values)) * np.timedelta64(15, "m")
    return rain_array(values, time=times, x=columns, y=rows[::-1] if southward else rows, crs=crs)


def ensemble(values) -> xr.DataArray:
    """Forecast from START, (realization, lead_time, y, x)."""
    values = np.asarray(values, dtype=float)
    grid = rain(values[0])
    leads = LEADS[: values.shape[1]]
    return xr.DataArray(
        values,
        dims=("realization", "lead_time", "y", "x"),
        coords={
            "realization": np.arange(len(values)),
            "lead_time": leads,
            "time": ("lead_time", START + leads),
            "forecast_reference_time": START,
            **{name: grid[name] for name in ("x", "y", "lat", "lon", "crs")},
        },
        attrs={"units": "mm h-1"},
    )


def pixels(figure: Figure) -> np.ndarray:
    """Red, green, blue of the drawn figure, 0 to 255, from the bottom up as display units are."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(int)


def colour(name: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(name)]


def colours_in_the_middle(field: xr.DataArray) -> list[int]:
    """Colour of the central cell of a map without lines."""
    ax = plot_map(field, graticule=False)
    for collection in ax.collections:
        collection.set_visible(False)
    column, row = ax.transAxes.transform((0.5, 0.5)).round().astype(int)
    return pixels(ax.figure)[row, column].tolist()


def sheets(figure: Figure) -> list:
    """The maps of a panel, without its colour bars, row by row."""
    return sorted((ax for ax in figure.axes if hasattr(ax, "projection")),
                  key=lambda ax: (-ax.get_position().y0, ax.get_position().x0))  # fmt: skip


def shown(ax) -> np.ma.MaskedArray:
    return ax.images[0].get_array()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


# Colours


def test_dry_is_transparent_and_no_data_is_grey():
    drawn = RAIN.colour_map()(RAIN.norm()(np.ma.masked_invalid([0.0, 0.099, np.nan])))
    assert drawn[0, 3] == drawn[1, 3] == 0
    np.testing.assert_allclose(drawn[2], [*to_rgb(NO_DATA), 1])


def test_a_rate_on_a_level_has_the_colour_of_the_class_above():
    levels = np.array([*RAIN_LEVELS, 500.0])
    drawn = RAIN.colour_map()(RAIN.norm()(levels))[:, :3]
    np.testing.assert_allclose(drawn, [to_rgb(name) for name in (*RAIN_COLOURS, RAIN_COLOURS[-1])])
    below = RAIN.colour_map()(RAIN.norm()(levels[1:10] - 0.001))[:, :3]
    np.testing.assert_allclose(below, [to_rgb(name) for name in RAIN_COLOURS[:-1]])


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip


@pytest.mark.parametrize("sight", SIGHT)
def test_heavier_rain_is_darker_to_every_eye(sight):
    srgb = np.array([to_rgb(name) for name in ("#ffffff", *RAIN_COLOURS)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ SIGHT[sight].T
    luminance = linear.clip(0, 1) @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16
    assert (np.diff(lightness) < -4).all()


def test_certain_rain_has_the_last_colour_of_probability():
    drawn = PROBABILITY.colour_map()(PROBABILITY.norm()([0.0, 0.95, 1.0]))[:, :3]
    np.testing.assert_allclose(drawn, [to_rgb(PROBABILITY.colours[n]) for n in (0, -1, -1)])


# Maps


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.nan, NO_DATA),
        (np.inf, NO_DATA),
        (0.0, "#ffffff"),
        (3.0, RAIN_COLOURS[4]),
        (100.0, RAIN_COLOURS[-1]),
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
    assert picture[row, column].tolist() == colour(RAIN_COLOURS[-1])
    inside = ax.get_window_extent()
    rows, columns = np.nonzero((picture == colour(RAIN_COLOURS[-1])).all(axis=-1))
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


# Panels


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


# Loops and files


@pytest.fixture
def moving() -> xr.DataArray:
    """A square of 3 mm/h that moves east, four frames."""
    values = np.zeros((4, 40, 40))
    for number in range(4):
        values[number, 10:30, 8 * number : 8 * number + 8] = 3
    return rain(values)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_loop_has_all_frames_and_never_ends(moving, tmp_path, suffix):
    path = tmp_path / f"loop{suffix}"
    animate(moving, path, frames_per_second=5)
    with Image.open(path) as loop:
        assert loop.n_frames == 4
        assert loop.info["loop"] == 0
        durations = []
        for number in range(4):
            loop.seek(number)
            loop.load()
            durations.append(loop.info["duration"])
    assert durations == [200, 200, 200, 1200]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_rain_of_a_loop_moves_and_has_the_colour_of_its_class(moving, tmp_path):
    animate(moving, tmp_path / "loop.gif", title="Rain")
    middles = []
    with Image.open(tmp_path / "loop.gif") as loop:
        for number in range(4):
            loop.seek(number)
            picture = np.asarray(loop.convert("RGB")).astype(int)[:, : int(0.85 * loop.width)]
            columns = np.nonzero((picture == colour(RAIN_COLOURS[4])).all(axis=-1))[1]
            assert columns.size > 5000
            middles.append(columns.mean())
    np.testing.assert_allclose(np.diff(middles), 8 / 40 * 650, atol=8)


def test_a_loop_of_a_forecast_runs_over_lead_time(tmp_path):
    animate(ensemble(np.ones((1, 4, 9, 9)))[0], tmp_path / "loop.gif")
    with Image.open(tmp_path / "loop.gif") as loop:
        assert loop.n_frames == 4


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_loop_without_rain_is_written(tmp_path, value):
    animate(rain(np.full((2, 9, 9), value)), tmp_path / "loop.gif")
    with Image.open(tmp_path / "loop.gif") as loop:
        assert loop.n_frames == 2


def test_a_loop_of_another_kind_is_refused_and_leaves_nothing(moving, tmp_path):
    with pytest.raises(RefusedInput, match=r"\.gif or a \.webp"):
        animate(moving, tmp_path / "sub" / "loop.mp4")
    with pytest.raises(RefusedInput, match="positive"):
        animate(moving, tmp_path / "loop.gif", frames_per_second=0)
    with pytest.raises(RefusedInput, match="a loop shows"):
        animate(moving[0], tmp_path / "loop.gif")
    with pytest.raises(RefusedInput, match="a loop shows"):
        animate(moving[:0], tmp_path / "loop.gif")
    assert list(tmp_path.iterdir()) == []


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
