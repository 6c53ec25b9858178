import numpy as np
import pyproj
import pytest
import xarray as xr
from drawing import compared, rain, showers
from matplotlib.quiver import Quiver

from data_prep.schema import RefusedInput, map_coordinates
from nowcast.plotting import plot_motion


def blowing(field: xr.DataArray, x: float, y: float) -> xr.Dataset:
    """The same motion everywhere, m/s."""
    like = field.drop_attrs().assign_attrs(units="m s-1")
    return xr.Dataset({"motion_x": xr.full_like(like, x), "motion_y": xr.full_like(like, y)})


def arrows(figure) -> Quiver:
    (found,) = [artist for artist in figure.axes[0].collections if isinstance(artist, Quiver)]
    return found


@pytest.mark.parametrize("southward", [True, False])
def test_arrows_point_where_the_rain_goes_whichever_way_the_rows_are_stored(southward):
    field = rain(np.ones((1, 30, 40)), southward=southward)[0]
    found = arrows(plot_motion(field, blowing(field, 10.0, -5.0)))
    assert set(found.U) == {10.0}
    assert set(found.V) == {-5.0}
    assert (found.angles, found.scale_units) == ("xy", "xy")


def test_arrows_stand_where_there_is_data_and_nowhere_else():
    values = np.ones((1, 40, 40))
    values[:, :, :20] = np.nan  # the west
    field = rain(values)[0]
    offsets = arrows(plot_motion(field, blowing(field, 5.0, 0.0))).get_offsets()
    assert len(offsets) == 14 * 7
    assert offsets[:, 0].min() > float(field["x"][20]) - 1000


def test_motion_is_that_of_the_place_it_is_drawn_at():
    field = rain(np.ones((1, 40, 40)))[0]
    motion = blowing(field, 0.0, 0.0)
    motion["motion_x"][:20] = 8.0  # the north
    found = arrows(plot_motion(field, motion))
    north = found.get_offsets()[:, 1] > float(field["y"].mean())
    np.testing.assert_array_equal(found.U, np.where(north, 8.0, 0.0))


def test_the_spacing_of_arrows_is_in_kilometres_and_the_key_in_metres_per_second():
    field = rain(np.ones((1, 30, 40)))[0]  # 80 km by 60 km
    figure = plot_motion(field, blowing(field, 11.0, 0.0), spacing=20.0)
    offsets = arrows(figure).get_offsets()
    assert sorted(set(np.diff(sorted(set(offsets[:, 0]))))) == [20_000.0]
    assert len(offsets) == 4 * 3
    (key,) = [artist for artist in figure.axes[0].artists if hasattr(artist, "label")]
    assert key.label == "15 m/s"
    assert arrows(figure).scale == pytest.approx(15 / (0.95 * 20_000))


@pytest.mark.parametrize("speed", [130.0, 500.0])
def test_arrows_do_not_overlap_however_fast_the_motion(speed):
    field = rain(np.ones((1, 30, 40)))[0]
    figure = plot_motion(field, blowing(field, speed, 0.0), spacing=20.0)
    assert speed / arrows(figure).scale < 20_000
    (key,) = [artist for artist in figure.axes[0].artists if hasattr(artist, "label")]
    assert key.label == f"{np.ceil(speed / 100) * 100:g} m/s"


def test_a_title_is_drawn_as_it_is():
    field = rain(np.ones((1, 30, 40)))[0]
    figure = plot_motion(field, blowing(field, 3.0, 0.0), title="$\\frac{$ a_b")
    figure.canvas.draw()
    assert figure.axes[0].get_title("left") == "$\\frac{$ a_b"


def test_still_rain_and_a_field_without_data_are_drawn():
    field = rain(np.ones((1, 20, 20)))[0]
    assert (arrows(plot_motion(field, blowing(field, 0.0, 0.0))).U == 0).all()
    empty = field.where(False)
    assert len(arrows(plot_motion(empty, blowing(field, 3.0, 0.0))).get_offsets()) == 0


def test_motion_is_drawn_on_a_grid_of_degrees():
    grid = map_coordinates(np.arange(10.0, 40.0), np.arange(50.0, 70.0), pyproj.CRS.from_epsg(4326))
    coordinates = {name: grid[name] for name in ("x", "y", "crs")}
    field = xr.DataArray(showers((20, 30)), dims=("y", "x"), coords=coordinates, attrs={"units": "mm h-1"})
    assert (arrows(plot_motion(field, blowing(field, 10.0, 0.0))).U == 10).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda field, motion: (field, motion[["motion_x"]]), "motion_x and motion_y"),
        (lambda field, motion: (field, motion["motion_x"]), "a Dataset .* came: DataArray"),
        (lambda field, motion: (field, motion.drop_attrs()), "in m s-1"),
        (lambda field, motion: (field, motion.isel(x=slice(5))), "on the grid of the field"),
        (
            lambda field, motion: (field, motion.assign_coords(x=motion["x"] + 500)),
            "on the grid of the field",
        ),
        (lambda field, motion: (field.expand_dims("time"), motion), "one field"),
        (lambda field, motion: (field.drop_vars("crs"), motion), "CRS"),
    ],
    ids=["a component", "an array", "no unit", "another box", "shifted", "frames", "no CRS"],
)
def test_motion_that_does_not_fit_the_field_is_refused(change, match):
    field = rain(np.ones((1, 20, 20)))[0]
    with pytest.raises(RefusedInput, match=match):
        plot_motion(*change(field, blowing(field, 3.0, 0.0)))


@pytest.mark.parametrize("spacing", [0.0, -5.0, np.inf, np.nan, "25"])
def test_arrows_without_a_distance_are_refused(spacing):
    field = rain(np.ones((1, 20, 20)))[0]
    with pytest.raises(RefusedInput, match="above 0 km"):
        plot_motion(field, blowing(field, 3.0, 0.0), spacing=spacing)


@compared(dpi=40)
def test_rain_and_its_motion_look_as_before():
    field = rain(showers((60, 80))[None])[0].assign_attrs(
        units="mm h-1", institution="Synthetic", license="CC0"
    )
    turning = blowing(field, 0.0, 0.0)
    rows, columns = np.mgrid[-1:1:60j, -1:1:80j]
    turning["motion_x"].values[:] = 12 * rows
    turning["motion_y"].values[:] = 12 * columns
    return plot_motion(field, turning, spacing=20.0)
