import gzip
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest
import xarray as xr
from odim_files import LAEA, corners, write_odim, write_parts

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import find_reader, odim_hdf5
from data_prep.schema import RefusedInput, _grid_findings, crs_of, rain_array_on

NAN, INF = np.nan, np.inf


def add(path: Path, place: str, pixels: Any, **attributes: Any) -> Path:
    """Another field or quality field, with the attributes of its own groups."""
    named = {f"{place}/{key.replace('__', '/')}": value for key, value in attributes.items()}
    write_parts(path, {place: pixels}, named)
    return path


def read(path: Path) -> xr.DataArray:
    return next(odim_hdf5.READER.read_frames(path, [0]))


def test_a_rate_has_no_data_and_no_rain_told_apart(tmp_path: Path) -> None:
    frame = read(write_odim(tmp_path / "a", [[0.5, -9999000.0], [-8888000.0, 1205.22]]))
    np.testing.assert_allclose(frame.values, [[0.5, NAN], [0, 1205.22]], rtol=1e-6)
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "mm h-1"
    assert to_rain_rate(frame).values[0, 0] == 0.5


def test_reflectivity_in_bytes_is_calibrated_with_undetected_as_minus_infinity(tmp_path: Path) -> None:
    # 0.5 * 104 - 32 = 20 dBZ, 0.5 * 44 - 32 = -10 dBZ.
    coded = {"quantity": "DBZH", "gain": 0.5, "offset": -32.0, "nodata": 255.0, "undetect": 0.0}
    changed = {f"dataset1__data1__what__{name}": value for name, value in coded.items()}
    frame = read(write_odim(tmp_path / "a", np.array([[104, 44], [0, 255]], np.uint8), **changed))
    np.testing.assert_array_equal(frame.values, [[20, -10], [-INF, NAN]])
    assert frame.attrs["units"] == "dBZ"


def test_an_accumulation_ends_at_its_time_and_a_rate_holds_at_the_nominal_time(tmp_path: Path) -> None:
    rate = read(write_odim(tmp_path / "201001010000.h5", [[1.0]]))
    assert rate["time"].values == np.datetime64("2018-08-24T18:00", "ns")
    assert rate.attrs["accumulation_minutes"] == 15
    amount = write_odim(
        tmp_path / "b", [[6.0]], dataset1__data1__what__quantity="ACRR",
        dataset1__data1__what__startdate="20180823", dataset1__data1__what__starttime="233000",
        dataset1__data1__what__enddate="20180824", dataset1__data1__what__endtime="003000",
    )  # fmt: skip
    frame = read(amount)
    assert frame["time"].values == np.datetime64("2018-08-24T00:30", "ns")
    assert odim_hdf5.READER.read_times(amount) == np.datetime64("2018-08-24T00:30")
    assert (frame.attrs["units"], frame.attrs["accumulation_minutes"]) == ("mm", 60)
    assert to_rain_rate(frame).item() == pytest.approx(6)


def test_a_rate_of_an_instant_has_no_interval(tmp_path: Path) -> None:
    same = {"dataset1__data1__what__starttime": "180500"}
    assert "accumulation_minutes" not in read(write_odim(tmp_path / "a", [[1.0]], **same)).attrs
    none = {f"dataset1__data1__what__{name}": None for name in ("startdate", "starttime")}
    assert "accumulation_minutes" not in read(write_odim(tmp_path / "b", [[1.0]], **none)).attrs


@pytest.mark.parametrize("second", ["dataset1/data2", "dataset2/data1", "dataset10/data1"])
@pytest.mark.parametrize(
    ("better", "worse"), [("RATE", "ACRR"), ("ACRR", "DBZH"), ("DBZH", "TH"), ("TH", "DBZ")]
)
def test_of_several_quantities_the_best_for_rain_is_read(
    tmp_path: Path, second: str, better: str, worse: str
) -> None:
    for name, (here, there) in {"a": (better, worse), "b": (worse, better)}.items():
        path = write_odim(tmp_path / name, [[5.0]], dataset1__data1__what__quantity=here)
        times = {f"what__{which}date": "20180824" for which in ("start", "end")}
        times |= {"what__starttime": "175000", "what__endtime": "180500"}
        add(path, second, [[7.0]], what__quantity=there, **times)
        assert read(path).item() == (5.0 if name == "a" else 7.0)


@pytest.mark.parametrize("name", ["quantity", "gain", "nodata", "undetect", "starttime"])
@pytest.mark.parametrize("level", ["dataset1", ""])
def test_what_a_data_group_does_not_say_is_asked_of_its_dataset_and_of_the_root(
    tmp_path: Path, name: str, level: str
) -> None:
    values = {"quantity": "ACRR", "gain": 2.0, "nodata": -1.0, "undetect": -2.0, "starttime": "170500"}
    changed = {f"dataset1__data1__what__{key}": value for key, value in values.items()}
    moved = changed | {f"dataset1__data1__what__{name}": None, f"{level}__what__{name}": values[name]}
    pixels = [[3.0, -1.0, -2.0]]
    frame = read(write_odim(tmp_path / "b", pixels, **moved))
    np.testing.assert_array_equal(frame.values, [[6, NAN, 0]])
    assert frame.attrs["accumulation_minutes"] == 60
    assert frame.identical(read(write_odim(tmp_path / "a", pixels, **changed)))


def test_the_inner_level_wins_over_the_outer(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a", [[3.0]], dataset1__what__gain=100.0, what__gain=1000.0)
    assert read(path).item() == 3.0


CODED = ("gain", "offset", "nodata", "undetect")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[1.5, -9999000, -8888000, -9999, -8888, -1]]), [[1.5, NAN, 0, NAN, 0, NAN]]),
        (np.array([[1.5, -9999000, -8888000, NAN, INF, 1e300]]), [[1.5, NAN, 0, NAN, NAN, NAN]]),
        (np.array([[7, 0, 255]], np.uint8), [[7, 0, NAN]]),
        (np.array([[7, 0, 255, 65535]], np.uint16), [[7, 0, 255, NAN]]),
    ],
)
def test_without_calibration_the_usual_codes_hold(tmp_path: Path, pixels: np.ndarray, expected: list) -> None:
    bare = {f"dataset1__data1__what__{name}": None for name in CODED}
    np.testing.assert_array_equal(read(write_odim(tmp_path / "a", pixels, **bare)).values, expected)


def test_reflectivity_without_calibration_keeps_no_data_apart_from_no_echo(tmp_path: Path) -> None:
    bare = {f"dataset1__data1__what__{name}": None for name in CODED}
    bare["dataset1__data1__what__quantity"] = "DBZH"
    floats = write_odim(tmp_path / "a", [[-31.5, -9999000.0, -8888000.0, -12345.0]], **bare)
    np.testing.assert_array_equal(read(floats).values, [[-31.5, NAN, -INF, NAN]])
    codes = write_odim(tmp_path / "b", np.array([[30, 0, 255]], np.uint8), **bare)
    np.testing.assert_array_equal(read(codes).values, [[30, -INF, NAN]])


def test_signed_integers_must_say_what_no_data_is(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "mute", np.array([[7]], np.int16), dataset1__data1__what__nodata=None)
    with pytest.raises(RefusedInput, match=r"mute.*int16 without nodata"):
        read(path)


def test_a_code_for_both_no_data_and_undetected_is_no_data(tmp_path: Path) -> None:
    both = {"dataset1__data1__what__nodata": 0.0, "dataset1__data1__what__undetect": 0.0}
    np.testing.assert_array_equal(read(write_odim(tmp_path / "a", [[0.0, 2.0]], **both)), [[NAN, 2]])


def test_no_data_may_be_nan(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a", [[NAN, -8888000.0, 2.0]], dataset1__data1__what__nodata=NAN)
    np.testing.assert_array_equal(read(path).values, [[NAN, 0, 2]])


def test_a_rate_below_zero_that_nothing_explains_is_no_data_and_one_of_rounding_is_dry(
    tmp_path: Path,
) -> None:
    frame = read(write_odim(tmp_path / "a", np.array([[-1.0, -1e-6, 0.0, 1e-6]], np.float32)))
    np.testing.assert_array_equal(frame.values, np.array([[NAN, 0, 0, 1e-6]], np.float32))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: value if isinstance(value, str) else np.float32(value),
        lambda value: np.atleast_1d(np.bytes_(value) if isinstance(value, str) else value),
        lambda value: value + "\0 " if isinstance(value, str) else str(value),
        lambda value: np.array([[value]], dtype=h5py.string_dtype() if isinstance(value, str) else None),
    ],
)
def test_attributes_are_read_in_any_wrapping(tmp_path: Path, wrap: Any) -> None:
    names = ["quantity", "gain", "nodata", "undetect", "startdate", "starttime"]
    values = ["ACRR", 0.5, -9999000.0, -8888000.0, "20180824", "170500"]
    wrapped, plain = (
        {f"dataset1__data1__what__{name}": change(value) for name, value in zip(names, values, strict=True)}
        for change in (wrap, lambda value: value)
    )
    pixels = [[3.0, -9999000.0, -8888000.0]]
    frame = read(write_odim(tmp_path / "a", pixels, **wrapped, where__projdef=wrap(LAEA)))
    np.testing.assert_array_equal(frame.values, [[1.5, NAN, 0]])
    assert frame.identical(read(write_odim(tmp_path / "b", pixels, **plain)))


def test_an_empty_attribute_counts_as_absent(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a", [[3.0]], dataset1__data1__what__gain=h5py.Empty("f8"))
    assert read(path).item() == 3


def test_sizes_may_be_floats_and_times_numbers(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a", np.ones((3, 2)), where__xsize=2.0, where__ysize=np.array([3.0]),
                      what__date=20180824, what__time=3000)  # fmt: skip
    frame = read(path)
    assert frame.shape == (3, 2)
    assert frame["time"].values == np.datetime64("2018-08-24T00:30", "ns")


def test_cells_lie_round_the_centre_of_the_projection_with_north_first(tmp_path: Path) -> None:
    frame = read(write_odim(tmp_path / "a", [[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_array_equal(frame["x"], [1949000, 1951000])
    np.testing.assert_array_equal(frame["y"], [-2099000, -2101000])
    # At 55 N on WGS 84 a km is 1 / 111.33 degrees of latitude and 1 / 63.99 of longitude.
    np.testing.assert_allclose(frame["lat"][:, 0], [55 + 1 / 111.33, 55 - 1 / 111.33], atol=2e-5)
    np.testing.assert_allclose(frame["lon"][0], [10 - 1 / 63.99, 10 + 1 / 63.99], atol=2e-5)


STERE = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752"
EUROPE = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80"


@pytest.mark.parametrize(
    ("projdef", "metres"),
    [
        (LAEA + " +units=m", LAEA),
        (LAEA + " +units=km", LAEA),
        (LAEA.replace("+", ""), LAEA),
        (LAEA + " +no_defs +type=crs", LAEA),
        (LAEA + " +towgs84=100,100,100", LAEA),
        ("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.137 +b=6356.752 +x_0=5.5", STERE + " +x_0=5500"),
        ("EPSG:3035", EUROPE),
        ("+init=epsg:3035 +no_defs", EUROPE),
        (pyproj.CRS.from_epsg(3035).to_wkt(), EUROPE),
    ],
)  # fmt: skip
def test_a_projection_in_any_dialect_becomes_one_in_metres(tmp_path: Path, projdef: str, metres: str) -> None:
    west, north = (round(value, -3) for value in pyproj.Proj(metres)(12, 50))
    path = write_odim(tmp_path / "a", np.ones((3, 2)), where__projdef=projdef,
                      **corners(metres, west, north, 4000, 6000))  # fmt: skip
    frame = read(path)
    np.testing.assert_allclose(frame["x"], [west + 1000, west + 3000], atol=0.011)
    np.testing.assert_allclose(frame["y"], [north - 1000, north - 3000, north - 5000], atol=0.011)
    assert abs(frame["lat"][0, 0] - 50) < 0.03
    assert abs(frame["lon"][0, 0] - 12) < 0.03
    coordinates = {name: frame.coords[name] for name in ("y", "x", "lat", "lon", "crs")}
    times = np.array(["2018-08-24T18:00"], "datetime64[ns]")
    assert _grid_findings(rain_array_on(frame.values[None], time=times, coordinates=coordinates)) == []


def test_a_grid_of_degrees_stays_in_degrees(tmp_path: Path) -> None:
    edges = {f"where/{a}{b}_lat": 48.0 if a == "U" else 47.94 for a in "LU" for b in "LR"}
    edges |= {f"where/{a}{b}_lon": 9.0 if b == "L" else 9.04 for a in "LU" for b in "LR"}
    path = write_odim(tmp_path / "a", np.ones((3, 2)), where__projdef="+proj=longlat +datum=WGS84",
                      where__xscale=0.02, where__yscale=0.02, **edges)  # fmt: skip
    frame = read(path)
    np.testing.assert_allclose(frame["x"], [9.01, 9.03])
    np.testing.assert_allclose(frame["y"], [47.99, 47.97, 47.95])
    assert frame["x"].attrs["units"] == "degrees_east"


@pytest.mark.parametrize("scale", [2000, 2.0, None])
def test_the_size_of_cells_may_be_in_km_or_left_to_the_corners(tmp_path: Path, scale: float | None) -> None:
    path = write_odim(tmp_path / "a", np.ones((4, 4)), where__xscale=scale, where__yscale=scale)
    frame = read(path)
    np.testing.assert_allclose(frame["x"], [1947000, 1949000, 1951000, 1953000], atol=0.01)


def test_corners_of_few_decimals_give_cells_of_the_stated_size(tmp_path: Path) -> None:
    exact = corners(LAEA, 1950000 - 200000, -2100000 + 200000, 400000, 400000)
    rounded = {name: round(value, 3) for name, value in exact.items()}
    frame = read(write_odim(tmp_path / "a", np.ones((200, 200)), **rounded))
    np.testing.assert_allclose(np.diff(frame["x"]), 2000, atol=1e-6)
    np.testing.assert_allclose(np.diff(frame["y"]), -2000, atol=1e-6)
    assert frame["x"][0].item() == pytest.approx(1751000, abs=60)


def test_corners_that_are_centres_of_cells_are_refused(tmp_path: Path) -> None:
    inner = corners(LAEA, 1950000 - 9000, -2100000 + 9000, 18000, 18000)
    with pytest.raises(RefusedInput, match=r"centres.*misses the grid of 10 cells of 2000 by 0\.5 cells"):
        read(write_odim(tmp_path / "centres", np.ones((10, 10)), **inner))


def test_corners_that_are_turned_over_are_refused(tmp_path: Path) -> None:
    over = corners(LAEA, 1950000 - 2000, -2100000 - 2000, 4000, -4000)
    with pytest.raises(RefusedInput, match=r"over.*from north to south"):
        read(write_odim(tmp_path / "over", np.ones((2, 2)), **over))


@pytest.mark.parametrize(
    ("place", "own"),
    [
        ("dataset1/data1/quality1", {"what__quantity": "QIND"}),
        ("dataset1/quality1", {"what__quantity": "QIND"}),
        ("dataset1/quality2", {"what__quantity": "QIND"}),
        ("dataset1/data1/quality1", {"how__task": "pl.imgw.quality.qi_total"}),
        ("dataset1/data2", {"what__quantity": "QIND"}),
        ("dataset2/data1", {"what__quantity": "QIND"}),
    ],
)
def test_quality_is_found_wherever_it_stands_with_its_own_calibration(
    tmp_path: Path, place: str, own: dict[str, Any]
) -> None:
    # The rate's own gain must not reach the quality. 200 / 200 = 1, 0 = 0, 255 is no data.
    path = write_odim(tmp_path / "a", [[30.0, -9999000.0, 2.0]], dataset1__data1__what__gain=0.1)
    add(path, place, np.array([[200, 0, 255]], np.uint8), what__gain=0.005, what__offset=0.0,
        what__nodata=255.0, what__undetect=254.0, **own)  # fmt: skip
    frame = read(path)
    np.testing.assert_allclose(frame.values, [[3, NAN, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(frame["quality_index"].values, [[1, 0, NAN]])
    assert frame["quality_index"].dtype == np.float32
    assert to_rain_rate(frame)["quality_index"].identical(frame["quality_index"])


def test_quality_data_that_is_no_index_is_passed_over(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a", [[1.0, 2.0]])
    add(path, "dataset1/quality1", [[120.0, 80000.0]], how__task="se.smhi.composite.distance.radar")
    assert "quality_index" not in read(path).coords
    add(path, "dataset1/quality2", [[0.5, 1.0]], how__task="pl.imgw.quality.qi_total")
    np.testing.assert_array_equal(read(path)["quality_index"], [[0.5, 1]])


def test_a_quality_index_outside_its_range_is_unknown(tmp_path: Path) -> None:
    path = add(write_odim(tmp_path / "a", [[1.0, 2.0, 3.0]]), "dataset2/data1", [[-9999000.0, 0.9, 1.5]],
               what__quantity="QIND")  # fmt: skip
    np.testing.assert_allclose(read(path)["quality_index"], [[NAN, 0.9, NAN]], rtol=1e-6)


def test_quality_on_another_grid_is_refused(tmp_path: Path) -> None:
    path = add(
        write_odim(tmp_path / "odd", [[1.0, 2.0]]), "dataset1/quality1", [[1.0]], what__quantity="QIND"
    )
    with pytest.raises(RefusedInput, match=r"odd.*quality1/data is float64 of \(1, 1\) in a grid \(1, 2\)"):
        read(path)


@pytest.mark.parametrize("version", ["2_0", "2_1", "2_2", "2_3", "2_4"])
def test_every_version_is_found_by_content_with_or_without_gzip(tmp_path: Path, version: str) -> None:
    path = write_odim(tmp_path / "misleading.png", [[1.0]], **{"__Conventions": f"ODIM_H5/V{version}"})
    (tmp_path / "packed").write_bytes(gzip.compress(path.read_bytes()))
    assert find_reader(path).name == find_reader(tmp_path / "packed").name == "odim_hdf5"
    assert read(path).identical(read(tmp_path / "packed"))


def test_the_version_alone_tells_the_format(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a", [[1.0]], without="/Conventions")
    assert odim_hdf5.detect(odim_hdf5.MAGIC, path)
    other = write_odim(tmp_path / "b", [[1.0]], without="/Conventions", what__version=None)
    assert not odim_hdf5.detect(odim_hdf5.MAGIC, other)
    assert not odim_hdf5.detect(b"GIF89a", path)


@pytest.mark.parametrize("kind", ["PVOL", "SCAN"])
def test_polar_data_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    path = write_odim(tmp_path / "polar", [[1.0]], what__object=kind)
    assert find_reader(path).name == "odim_hdf5"
    for act in (read, odim_hdf5.READER.read_times):
        with pytest.raises(RefusedInput, match=f"polar.*object {kind} is polar radar data.*grid it first"):
            act(path)


def test_an_image_is_read_and_other_objects_are_not(tmp_path: Path) -> None:
    assert read(write_odim(tmp_path / "a", [[1.0]], what__object="IMAGE")).item() == 1
    with pytest.raises(RefusedInput, match="object VP, not one of COMP, IMAGE"):
        read(write_odim(tmp_path / "b", [[1.0]], what__object="VP"))


def test_a_file_of_several_times_is_refused(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "forecast", [[1.0]])
    add(path, "dataset2/data1", [[1.0]], what__quantity="RATE")
    with pytest.raises(RefusedInput, match="forecast.*RATE of 2 times"):
        read(path)


NEEDED = [
    "what/object", "what/date", "what/time", "where/projdef", "where/xsize", "where/ysize", "where/LL_lon",
    "where/LL_lat", "where/UL_lon", "where/UR_lat", "where/LR_lon",
]  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_a_header_that_lacks_a_needed_attribute_is_refused(tmp_path: Path, name: str) -> None:
    path = write_odim(tmp_path / "lacks", [[1.0, 2.0]], without=name)
    with pytest.raises(RefusedInput, match=f"lacks.*{name.split('/')[1]}"):
        read(path)


@pytest.mark.parametrize("which", ["startdate", "starttime", "enddate", "endtime"])
def test_an_accumulation_over_an_unknown_interval_is_refused(tmp_path: Path, which: str) -> None:
    path = write_odim(tmp_path / "vague", [[1.0]], without=f"dataset1/data1/what/{which}",
                      dataset1__data1__what__quantity="ACRR")  # fmt: skip
    with pytest.raises(RefusedInput, match="vague.*over which interval"):
        read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("what__date", "2018-13-24"),
        ("what__date", "00010824"),
        ("what__time", "256000"),
        ("what__time", "noon"),
        ("where__projdef", "+proj=nonsense"),
        ("where__projdef", "+proj=laea +a=big"),
        ("where__projdef", "EPSG:999999"),
        ("where__projdef", ""),
        ("where__projdef", 5),
        ("where__projdef", "+proj=merc +ellps=WGS84"),
        ("where__xsize", 3),
        ("where__xsize", 1e300),
        ("where__ysize", NAN),
        ("where__ysize", -1),
        ("where__xscale", 1000.0),
        ("where__xscale", 0.0),
        ("where__xscale", INF),
        ("where__yscale", NAN),
        ("where__LL_lat", 200.0),
        ("where__UR_lon", "east"),
        ("where__UR_lon", [1.0, 2.0]),
        ("dataset1__data1__what__quantity", "VRAD"),
        ("dataset1__data1__what__gain", 0.0),
        ("dataset1__data1__what__gain", "much"),
        ("dataset1__data1__what__offset", NAN),
        ("dataset1__data1__what__nodata", [1.0, 2.0]),
        ("dataset1__data1__what__endtime", "174500"),
        ("dataset1__data1__what__endtime", "1"),
    ],
)
def test_a_header_with_an_impossible_value_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(RefusedInput, match="strange"):
        read(write_odim(tmp_path / "strange", [[1.0, 2.0]], **{key: value}))


def test_a_file_without_its_image_or_with_one_of_text_is_refused(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "blank", [[1.0]])
    with h5py.File(path, "a") as file:
        del file["dataset1/data1/data"]
    with pytest.raises(RefusedInput, match="blank.*no dataset /dataset1/data1/data"):
        read(path)
    with h5py.File(path, "a") as file:
        file["dataset1/data1/data"] = np.array([[b"x"]])
    with pytest.raises(RefusedInput, match="blank.*data is .S1"):
        read(path)


def test_a_grid_of_an_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "vast", [[1.0]], where__xsize=10**6, where__ysize=10**6)
    with h5py.File(path, "a") as file:
        del file["dataset1/data1/data"]
        file.create_dataset("dataset1/data1/data", (10**6, 10**6), "f8", chunks=(100, 100))
    with pytest.raises(RefusedInput, match="vast.*1000000 x 1000000"):
        read(path)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, share: float) -> None:
    content = write_odim(tmp_path / "whole", np.random.default_rng(1).random((60, 50))).read_bytes()
    for name, data in (("plain", content), ("packed", gzip.compress(content))):
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(data[: int(len(data) * share)])
        for act in (read, odim_hdf5.READER.read_times, find_reader):
            with pytest.raises(RefusedInput, match=f"cut-{name}"):
                act(cut)


def test_wrong_bytes_are_read_or_refused_but_never_an_unnamed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = add(write_odim(tmp_path / "whole", rng.random((4, 3))), "dataset1/quality1", rng.random((4, 3)))
    content = np.fromfile(path, dtype=np.uint8)
    # Most of a small HDF5 file is empty; what is not empty is worth spoiling.
    filled = np.flatnonzero(content)
    outcomes = []
    for _ in range(200):
        spoilt = content.copy()
        spoilt[rng.choice(filled, size=3)] = rng.integers(256, size=3)
        (tmp_path / "flipped").write_bytes(spoilt.tobytes())
        try:
            outcomes.append(read(tmp_path / "flipped").attrs["units"])
        except RefusedInput as refusal:
            outcomes.append("refused" if "flipped" in str(refusal) else str(refusal))
    assert set(outcomes) == {"mm h-1", "refused"}


def test_frames_of_one_grid_share_their_coordinates_and_cannot_spoil_them(tmp_path: Path) -> None:
    first, second = (read(write_odim(tmp_path / name, np.ones((3, 2)))) for name in "ab")
    assert np.shares_memory(first["lat"].values, second["lat"].values)
    with pytest.raises(ValueError, match="read-only"):
        first["lat"].values[0, 0] = 0


@pytest.mark.radar
def test_the_european_event_has_its_known_times_wet_share_and_maximum(radar_data: Path) -> None:
    files = sorted((radar_data / "opera/20180824").glob("*.hdf"))
    times = np.array([odim_hdf5.read_time(path) for path in files])
    assert times[0] == np.datetime64("2018-08-24T18:00")
    assert len(times) == 24
    assert (np.diff(times) == np.timedelta64(15, "m")).all()
    frames = [read(path) for path in files[::6]]
    wet = sum(int((frame >= 0.1).sum()) for frame in frames) / sum(int(frame.count()) for frame in frames)
    assert wet == pytest.approx(0.12, abs=0.01)
    first = frames[0]
    assert first.max().item() == pytest.approx(1205.22)
    assert np.isnan(first).mean().item() == pytest.approx(0.499, abs=1e-3)
    assert {frame.attrs["accumulation_minutes"] for frame in frames} == {15}
    with h5py.File(files[0]) as file:
        raw = file["dataset1/data1/data"][()]
    np.testing.assert_array_equal(np.isnan(first), raw == -9999000)
    np.testing.assert_array_equal(first == 0, (raw == -8888000) | (raw == 0))


@pytest.mark.radar
def test_the_european_grid_begins_at_zero_and_carries_quality(radar_data: Path) -> None:
    frame = read(min((radar_data / "opera/20180824").glob("*.hdf")))
    assert frame.shape == (2200, 1900)
    np.testing.assert_array_equal(frame["x"][[0, 1, -1]], [1000, 3000, 3799000])
    np.testing.assert_array_equal(frame["y"][[0, 1, -1]], [-1000, -3000, -4399000])
    to_degrees = pyproj.Transformer.from_crs(crs_of(frame), crs_of(frame).geodetic_crs, always_xy=True)
    np.testing.assert_allclose(to_degrees.transform(0, 0), (-39.5357864, 67.0228328), atol=1e-6)
    np.testing.assert_allclose(to_degrees.transform(3.8e6, -4.4e6), (29.4210386, 31.9876503), atol=1e-6)
    quality = frame["quality_index"]
    assert (quality.min().item(), quality.max().item()) == (0, pytest.approx(0.9))
    assert np.isfinite(quality.values[frame.values > 0]).all()


@pytest.mark.radar
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_real_file_cut_short_is_refused_by_name(radar_data: Path, tmp_path: Path, share: float) -> None:
    cut = tmp_path / "cut"
    shutil.copyfile(min((radar_data / "opera/20180824").glob("*.hdf")), cut)
    with cut.open("r+b") as file:
        file.truncate(int(cut.stat().st_size * share))
    with pytest.raises(RefusedInput, match="cut"):
        read(cut)
