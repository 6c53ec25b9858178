import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyproj
import pytest
from PIL import Image

from data_prep.schema import RefusedInput, crs_of, rain_array
from nowcast.forecaster import label
from nowcast.plotting import maps
from nowcast.plotting.palettes import PROBABILITY, RAIN
from nowcast.products import layers
from nowcast.products.forecast_file import read_forecast, write_forecast
from nowcast.products.layers import write_layers

DRY = (255, 255, 255, 0)
GREY = (0xD9, 0xD9, 0xD9, 255)


def rgba(colour: str) -> tuple[int, ...]:
    return (*bytes.fromhex(colour.removeprefix("#")), 255)


@pytest.fixture
def make(make_rain, tmp_path):
    """Draws a forecast of given rates, mm/h (realization, lead_time, y, x), and reads the pictures back."""

    def draw(rates, *, observed=None, context=None, **settings) -> Drawn:
        rates = np.asarray(rates, dtype=np.float32)
        if context is None:
            context = make_rain(4, size=max(rates.shape[2:])).isel(
                y=slice(rates.shape[2]), x=slice(rates.shape[3])
            )
        path = tmp_path / "forecast.nc"
        write_forecast(label(rates, context, attributes={"model": "known"}), path)
        folder = tmp_path / "layers"
        folder.mkdir(exist_ok=True)
        return Drawn(folder, path, write_layers(path, folder, observed=observed, **settings))

    return draw


class Drawn:
    """Files of `write_layers`, and the tiles in them."""

    def __init__(self, folder: Path, forecast: Path, files: list[Path]) -> None:
        self.folder, self.forecast, self.files = folder, forecast, files
        self.told = json.loads((folder / "layers.json").read_text(encoding="utf-8"))

    def tile(self, name: str, number: int = 0) -> np.ndarray:
        """Colours (height, width, 4) of one tile of a layer."""
        sheet = self.told["observed" if name == "observed" else "forecast"]
        picture = np.asarray(Image.open(self.folder / f"layer_{name}.png").convert("RGBA"))
        height, width = self.told["tile"]["height"], self.told["tile"]["width"]
        row, column = divmod(number, sheet["columns"])
        return picture[row * height : (row + 1) * height, column * width : (column + 1) * width]

    def classes(self, name: str, number: int = 0) -> np.ndarray:
        """The colours as numbers of classes: 0 transparent, 1 the first, -1 no data."""
        palette = PROBABILITY if name == "probability" else RAIN
        known = [DRY, *map(rgba, palette.colours), GREY]
        tile = self.tile(name, number)
        found = np.full(tile.shape[:2], 99)
        for index, colour in enumerate(known):
            found[(tile == colour).all(axis=2)] = -1 if index == len(known) - 1 else index
        return found


def rates_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Rain in half of the cells, from drizzle to cloudburst, float32."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, 0, rng.lognormal(0.5, 1.5, shape)).astype(np.float32)


def test_a_pixel_has_the_colour_of_the_class_of_its_cell(make):
    levels = [0.0, 0.09, 0.1, 0.49, 0.5, 7.99, 8.0, 64.0, 500.0, np.nan]
    drawn = make(np.tile(levels, (1, 2, 10, 1)))
    expected = [DRY, DRY, *(rgba(RAIN.colours[n]) for n in (0, 1, 2, 5, 6, 9, 9)), GREY]
    for lead in (0, 1):
        assert [tuple(pixel) for pixel in drawn.tile("member_00", lead)[5].tolist()] == expected


def test_every_cell_of_every_lead_time_and_member_is_in_its_place(make):
    rates = rates_of((3, 7, 21, 30))
    drawn = make(rates)
    for member, lead in np.ndindex(3, 7):
        expected = np.digitize(rates[member, lead], np.float32(RAIN.levels))
        np.testing.assert_array_equal(drawn.classes(f"member_{member:02d}", lead), expected)


def test_no_data_is_grey_and_dry_is_transparent(make):
    rates = np.zeros((1, 1, 12, 12))
    rates[..., 4:, :] = np.nan
    rates[..., 11, 11] = 0
    tile = make(rates).tile("member_00")
    assert (tile[:4] == DRY).all()
    assert (tile[4:11] == GREY).all()


def test_north_is_up_and_east_is_right_however_the_grid_is_stored(make, make_rain):
    rain = make_rain(4, size=16)
    rates = rates_of((1, 2, 16, 16))
    upright = make(rates, context=rain).classes("member_00", 1)
    turned = make(rates[..., ::-1, ::-1], context=rain.isel(y=slice(None, None, -1), x=slice(None, None, -1)))
    np.testing.assert_array_equal(turned.classes("member_00", 1), upright)


def test_the_first_layer_is_the_probability_matched_mean(make):
    rates = rates_of((5, 3, 25, 24))
    rates[:, :, 5:9, 3:10] = np.nan
    drawn = make(rates)
    assert [layer["id"] for layer in drawn.told["layers"]][:2] == ["mean", "probability"]
    assert "robability-matched mean" in drawn.told["layers"][0]["note"]
    matched = read_forecast(drawn.forecast, product="probability_matched_mean").values
    for lead, field in enumerate(matched):
        expected = np.digitize(field, np.float32(RAIN.levels))
        expected[np.isnan(field)] = -1
        np.testing.assert_array_equal(drawn.classes("mean", lead), expected)


def test_where_a_member_has_no_data_the_matched_mean_has_none(make):
    rates = np.full((4, 1, 12, 12), 3.0)
    rates[2, 0, :6] = np.nan
    classes = make(rates).classes("mean")
    assert (classes[:6] == -1).all()
    assert (classes[6:] == 5).all(), "3 mm/h is in the fifth class, 2 to 4"


def test_the_probability_is_the_share_of_the_members_with_a_value(make):
    rates = np.zeros((10, 1, 4, 12))
    for cell in range(11):
        rates[:cell, 0, :, cell] = 2.0
    rates[5:, 0, :, 11] = np.nan
    rates[:3, 0, :, 11] = 2.0
    rates[:, 0, 3, :] = np.nan
    drawn = make(rates, threshold=2.0)
    # 0 to 10 of 10 members, then 3 of 5: a probability on a level belongs to the class above, 1 to the last.
    assert drawn.classes("probability")[1].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 7]
    assert (drawn.classes("probability")[3] == -1).all()
    assert "2 mm/h" in drawn.told["layers"][1]["label"]


def test_one_member_has_neither_mean_nor_probability(make):
    drawn = make(rates_of((1, 2, 12, 12)))
    assert [layer["id"] for layer in drawn.told["layers"]] == ["member_00"]
    assert [path.name for path in drawn.files] == ["layer_member_00.png", "layer_lines.png", "layers.json"]


def test_lead_times_without_any_data_are_grey(make):
    rates = rates_of((2, 3, 12, 12))
    rates[:, 1:] = np.nan
    drawn = make(rates)
    for name in ("mean", "probability", "member_01"):
        assert (drawn.classes(name, 0) >= 0).all()
        assert (drawn.classes(name, 2) == -1).all()


def test_a_forecast_without_any_data_shows_the_whole_grid(make):
    drawn = make(np.full((2, 2, 12, 15), np.nan))
    assert drawn.told["tile"] == {"width": 15, "height": 12}
    assert (drawn.classes("mean") == -1).all()


def test_the_picture_is_cut_to_the_cells_with_data_and_a_margin(make, make_rain):
    rates = np.full((1, 1, 60, 60), np.nan)
    rates[..., 20:30, 5:45] = 1.0
    drawn = make(rates)
    # Two cells of margin: 2 % of 40, rounded, and one.
    assert drawn.told["tile"] == {"width": 44, "height": 14}
    west, east, south, north = maps.extent_of(make_rain(1, size=60).isel(y=slice(18, 32), x=slice(3, 47)))
    assert drawn.told["extent"] == {"west": west, "east": east, "south": south, "north": north}
    assert drawn.told["kilometres"]["across"] == pytest.approx(44, rel=1e-3)


def test_observed_frames_are_in_the_window_with_their_status(make, make_rain):
    context = make_rain(4, size=40)
    context[2] = np.nan
    context = context.assign_coords(input_frame_status=("time", np.int8([0, 1, 2, 0])))
    rates = np.full((1, 1, 40, 40), np.nan)
    rates[..., 10:12, 10:12] = 0
    drawn = make(rates, context=context, observed=context)
    assert drawn.told["tile"] == {"width": 40, "height": 40}
    frames = drawn.told["observed"]["frames"]
    assert [frame["status"] for frame in frames] == ["observed", "interpolated", "missing", "observed"]
    assert [frame["minutes"] for frame in frames] == [-15, -10, -5, 0]
    assert frames[-1]["time"] == drawn.told["reference_time"] == "2020-06-01T00:15:00Z"
    expected = np.digitize(context.values[3].astype(np.float32), np.float32(RAIN.levels))
    np.testing.assert_array_equal(drawn.classes("observed", 3), expected)
    assert (drawn.classes("observed", 2) == -1).all()


def test_observed_frames_of_another_grid_are_refused(make, make_rain):
    with pytest.raises(RefusedInput, match="on the grid of the forecast"):
        make(rates_of((1, 1, 12, 12)), observed=make_rain(4, size=13))


def test_a_large_grid_is_shown_in_blocks_which_are_missing_where_a_cell_is(make, monkeypatch):
    monkeypatch.setattr(layers, "LARGEST_TILE", 10)
    rates = np.zeros((1, 1, 22, 30))
    rates[0, 0, :3, :3] = np.arange(9).reshape(3, 3)
    rates[0, 0, 4, 4] = np.nan
    drawn = make(rates)
    assert drawn.told["tile"] == {"width": 10, "height": 7}
    assert drawn.told["block"] == 3
    assert drawn.classes("member_00")[0, 0] == 6, "the mean of 0 to 8 is 4, of the class 4 to 8"
    assert drawn.classes("member_00")[1, 1] == -1
    assert drawn.told["extent"]["south"] - drawn.told["extent"]["north"] == -21_000, "whole blocks alone"


def test_many_lead_times_make_the_pixels_larger_and_not_the_picture(make, monkeypatch):
    monkeypatch.setattr(layers, "LARGEST_PICTURE", 1500)
    drawn = make(rates_of((1, 13, 16, 20)))
    assert drawn.told["block"] == 2
    assert np.prod(Image.open(drawn.files[0]).size) <= 1500


def test_a_strip_of_cells_is_not_reduced_to_nothing(make, monkeypatch):
    monkeypatch.setattr(layers, "LARGEST_TILE", 10)
    drawn = make(np.full((1, 1, 3, 40), 1.0))
    assert drawn.told["tile"] == {"width": 20, "height": 1}
    assert (drawn.classes("member_00") == 4).all()


def test_layers_json_says_what_the_page_needs(make):
    drawn = make(rates_of((2, 3, 12, 12)))
    assert [frame["minutes"] for frame in drawn.told["forecast"]["frames"]] == [5, 10, 15]
    assert drawn.told["forecast"]["frames"][2]["time"] == "2020-06-01T00:30:00Z"
    assert drawn.told["scales"]["rain"]["levels"] == list(RAIN.levels)
    assert drawn.told["scales"]["rain"]["colours"] == list(RAIN.colours)
    for layer in drawn.told["layers"]:
        assert (drawn.folder / layer["file"]).is_file()
    assert [layer["label"] for layer in drawn.told["layers"]] == ["Mean", "Chance ≥ 1 mm/h", "1", "2"]


def test_the_same_forecast_gives_the_same_bytes(make):
    first = {path.name: path.read_bytes() for path in make(rates_of((2, 3, 20, 20))).files}
    layers.lines_picture.cache_clear()
    again = {path.name: path.read_bytes() for path in make(rates_of((2, 3, 20, 20))).files}
    assert first == again


def test_the_lines_are_drawn_once_for_a_grid(make):
    layers.lines_picture.cache_clear()
    for seed in range(3):
        make(rates_of((1, 1, 20, 20), seed) + 0.1)
    assert layers.lines_picture.cache_info().misses == 1


def test_lines_are_dark_on_nothing_and_degrees_stand_where_they_are(make):
    # 300 km round the middle of the Netherlands.
    axis = (np.arange(60) - 29.5) * 5000.0
    crs = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m")
    time = np.datetime64("2020-06-01", "ns") + np.arange(4) * np.timedelta64(5, "m")
    context = rain_array(np.zeros((4, 60, 60)), time=time, x=axis, y=axis[::-1], crs=crs)
    drawn = make(np.zeros((1, 1, 60, 60)), context=context)
    lines = np.asarray(Image.open(drawn.folder / "layer_lines.png").convert("RGBA"))
    assert max(lines.shape[:2]) == layers.LINES_SIDE
    drawn_share = (lines[..., 3] > 0).mean()
    assert 0.002 < drawn_share < 0.2
    assert lines[lines[..., 3] == 255][:, :3].mean() < 128
    to_ground = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    extent = drawn.told["extent"]
    for at, text in ((mark["at"], mark["label"]) for mark in drawn.told["degrees"]["west"]):
        y = extent["north"] + at * (extent["south"] - extent["north"])
        assert to_ground.transform(extent["west"], y)[1] == pytest.approx(float(text.rstrip("°N")), abs=0.01)
    south = drawn.told["degrees"]["south"]
    assert [mark["label"] for mark in south] == sorted(mark["label"] for mark in south)
    assert len(south) >= 2


def test_true_kilometres_are_those_on_the_ground(make):
    # A polar stereographic map true at 60°N is larger than the ground at 52°N, by a factor of 1.044.
    crs = pyproj.CRS.from_proj4("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=0 +a=6371000 +b=6371000 +units=m")
    x, y = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(5.0, 52.0)
    axis = (np.arange(20) - 9.5) * 1000.0
    time = np.datetime64("2020-06-01", "ns") + np.arange(4) * np.timedelta64(5, "m")
    context = rain_array(np.zeros((4, 20, 20)), time=time, x=x + axis, y=y + axis[::-1], crs=crs)
    factor = (1 + np.sin(np.radians(60))) / (1 + np.sin(np.radians(52)))
    told = make(np.zeros((1, 1, 20, 20)), context=context).told
    assert told["kilometres"]["across"] == pytest.approx(20 / factor, rel=1e-3)
    assert crs_of(context) == crs


def test_what_interrupts_between_pictures_comes_out(make):
    class Enough(Exception):
        pass

    calls = []

    def between():
        calls.append(1)
        if len(calls) == 3:
            raise Enough

    with pytest.raises(Enough):
        make(rates_of((5, 1, 12, 12)), between=between)
    assert len(calls) == 3


def test_memory_does_not_grow_with_the_ensemble(make):
    peaks = []
    for members in (2, 2, 12):
        rates = np.repeat(rates_of((1, 6, 120, 120)), members, axis=0)
        drawn = make(rates)
        tracemalloc.start()
        write_layers(drawn.forecast, drawn.folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one = rates[0].nbytes
    assert peaks[2] - peaks[1] < one
