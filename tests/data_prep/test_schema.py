import numpy as np
import pyproj
import pytest

from data_prep.schema import (
    RefusedInput,
    crs_of,
    map_coordinates,
    missing_from_clock,
    open_radar,
    open_store,
    rain_array,
    time_step,
    validate,
)

DUTCH = pyproj.CRS.from_proj4(
    "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +x_0=0 +y_0=0 +units=m"
)


def test_a_refusal_is_one_line_with_rule_what_came_and_what_to_do():
    text = str(RefusedInput("a rule", came="two\nlines", do="do this"))
    assert text == "a rule; came: two lines; do this"


def test_the_pole_of_a_stereographic_grid_lies_at_the_pole():
    grid = map_coordinates(np.array([0.0, 1000.0]), np.array([1000.0, 0.0]), DUTCH)
    assert grid["lat"].values[1, 0] == pytest.approx(90)
    assert grid["crs"].attrs["grid_mapping_name"] == "polar_stereographic"


def test_a_grid_in_kilometres_is_refused():
    crs = pyproj.CRS.from_user_input("+proj=stere +lat_0=90 +units=km +type=crs")
    with pytest.raises(RefusedInput, match="projected and in metres"):
        map_coordinates(np.arange(3.0), np.arange(3.0), crs)


def test_a_frame_may_lie_on_a_grid_in_degrees_but_a_rain_array_may_not():
    crs, x, y = pyproj.CRS.from_epsg(4326), np.array([5.0, 5.1]), np.array([52.0, 51.9, 51.8])
    grid = map_coordinates(x, y, crs)
    assert grid["lon"].values[2, 1] == pytest.approx(5.1)
    assert grid["x"].attrs["units"] == "degrees_east"
    with pytest.raises(RefusedInput, match="regrid"):
        rain_array(np.zeros((1, 3, 2)), time=np.array([np.datetime64("2020-01-01")]), x=x, y=y, crs=crs)


def test_the_step_of_a_clock_with_gaps_is_its_smallest_difference():
    times = np.datetime64("2020-01-01", "ns") + np.array([0, 5, 20, 25]) * np.timedelta64(60, "s")
    assert time_step(times) == np.timedelta64(5, "m")
    expected = times[1] + np.array([5, 10]) * np.timedelta64(60, "s")
    np.testing.assert_array_equal(missing_from_clock(times, time_step(times)), expected)


@pytest.mark.parametrize("seconds", [[0], [0, 0], [300, 0]])
def test_a_clock_needs_two_increasing_times(seconds):
    with pytest.raises(RefusedInput, match="strictly increasing"):
        time_step(np.datetime64("2020-01-01", "ns") + np.array(seconds) * np.timedelta64(1, "s"))


def test_a_frame_off_the_clock_is_refused():
    times = np.datetime64("2020-01-01", "ns") + np.array([0, 300, 720]) * np.timedelta64(1, "s")
    with pytest.raises(RefusedInput, match="off it, first 2020-01-01T00:12"):
        missing_from_clock(times, np.timedelta64(300, "s"))


def test_a_store_of_ours_has_no_finding(store):
    assert validate(open_store(store)) == []


def test_opening_anything_but_a_store_is_refused(tmp_path):
    with pytest.raises(RefusedInput, match="does not exist"):
        open_radar(tmp_path / "nothing.zarr")
    with pytest.raises(RefusedInput, match=r"no zarr\.json"):
        open_radar(tmp_path)


def shifted_latitude(dataset):
    return dataset.assign_coords(lat=dataset["lat"] + 0.01)


def unnamed_gap(dataset):
    return dataset.isel(time=[n for n in range(dataset.sizes["time"]) if n != 5])


def gap_that_is_a_frame(dataset):
    return dataset.assign_coords(missing_times=dataset["time"].values[3:4])


def time_backwards(dataset):
    return dataset.isel(time=slice(None, None, -1))


def uneven(dataset):
    return dataset.assign_coords(x=("x", dataset["x"].values ** 3, dataset["x"].attrs))


def other_units(dataset):
    return dataset.assign(rainfall_rate=dataset["rainfall_rate"].assign_attrs(units="m s-1"))


def no_license(dataset):
    return dataset.assign_attrs(license="")


def broken_wkt(dataset):
    crs = dataset["crs"].assign_attrs(crs_wkt="nonsense")
    return dataset.assign_coords(crs=crs)


def other_cf_mapping(dataset):
    crs = dataset["crs"].assign_attrs(latitude_of_projection_origin=50.0)
    return dataset.assign_coords(crs=crs)


def one_frame_of_unknown_step(dataset):
    del dataset.attrs["time_step_minutes"]
    return dataset.isel(time=[0])


def test_a_single_frame_is_a_store_if_it_says_its_step(store):
    dataset = open_store(store).isel(time=[3])
    assert validate(dataset.drop_vars("missing_times")) == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (shifted_latitude, "lat/lon differ from crs_wkt by 0.01 degrees"),
        (unnamed_gap, "no frame at 2020-06-01T00:25 and missing_times does not name it"),
        (gap_that_is_a_frame, "missing_times names 2020-06-01T00:15, for which there is a frame"),
        (time_backwards, "time does not strictly increase"),
        (uneven, "x is not evenly spaced"),
        (other_units, "rainfall_rate.units is 'm s-1'"),
        (no_license, "attribute license is absent"),
        (broken_wkt, "crs: crs_wkt is well-known text"),
        (other_cf_mapping, "lat/lon differ from CF grid mapping"),
        (lambda dataset: dataset.drop_vars("lat"), "coordinate lat is absent"),
        (lambda dataset: dataset.drop_vars("rainfall_rate"), "variable rainfall_rate is absent"),
        (lambda dataset: dataset.transpose("y", "x", "time", ...), "has dims ('y', 'x', 'time')"),
        (lambda dataset: dataset.isel(time=[]), "no frame"),
        (one_frame_of_unknown_step, "two or more frames"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_each_break_of_the_contract_is_found(store, damage, finding):
    findings = validate(damage(open_store(store).load()))
    assert any(finding in line for line in findings), findings


def test_an_array_without_crs_is_refused(make_rain):
    with pytest.raises(RefusedInput, match="scalar coordinate 'crs'"):
        crs_of(make_rain().drop_vars("crs"))
