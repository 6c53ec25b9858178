import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import get_reader, pysteps_bridge
from data_prep.readers.pysteps_bridge import pysteps_reader, time_of_name, to_frame
from data_prep.schema import RefusedInput, crs_of

KNMI_FRAME = "knmi/2010/08/RAD_NL25_RAP_5min_201008260500.h5"
MCH_FRAME = "mch/20150515/AQC151351545F_00005.801.gif"
TIME = np.datetime64("2020-06-01T00:05", "ns")
LAEA = "+proj=laea +lat_0=52 +lon_0=5 +ellps=WGS84 +units=m"


def described(**changed: Any) -> dict:
    """Metadata as an importer gives them, of 2 rows and 3 columns of 1 km."""
    return {
        "projection": LAEA, "x1": 10_000.0, "y1": -2_000.0, "x2": 13_000.0, "y2": 0.0, "xpixelsize": 1000.0,
        "ypixelsize": 1000.0, "cartesian_unit": "m", "yorigin": "upper", "unit": "mm/h", "transform": None,
        "accutime": 5.0, "zerovalue": 0.0, "threshold": 0.1,
    } | changed  # fmt: skip


FIELD = np.array([[0.0, 1.0, 2.0], [np.nan, 0.0, 4.0]])


def convert(field: Any = FIELD, quality: Any = None, without: str = "", **changed: Any) -> xr.DataArray:
    metadata = {key: value for key, value in described(**changed).items() if key != without}
    return to_frame((field, quality, metadata), time=TIME, path=Path("field.gif"))


@pytest.fixture
def no_pysteps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysteps", None)
    monkeypatch.setitem(sys.modules, "pysteps.io", None)
    pysteps_reader.cache_clear()


def test_a_field_in_mm_per_hour_is_a_frame_as_it_is() -> None:
    frame = convert()
    np.testing.assert_array_equal(frame.values, FIELD)
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "mm h-1"
    assert frame["time"].values == TIME


def test_a_field_in_mm_has_the_interval_of_its_accumulation() -> None:
    frame = convert(unit="mm", accutime=5.0)
    assert (frame.attrs["units"], frame.attrs["accumulation_minutes"]) == ("mm", 5.0)
    # 4 mm in 5 minutes is 48 mm/h.
    assert to_rain_rate(frame).values[1, 2] == 48


def test_reflectivity_at_the_zerovalue_is_dry() -> None:
    frame = convert([[-32, -31.5, 20], [np.nan, -32, 0]], unit="dBZ", transform="dB", zerovalue=-32)
    np.testing.assert_array_equal(frame.values, [[-np.inf, -31.5, 20], [np.nan, -np.inf, 0]])
    assert frame.attrs["units"] == "dBZ"


def test_rain_in_decibels_becomes_rain() -> None:
    # 10 dB is 10 mm/h, 0 dB is 1 mm/h, 3.0103 dB is 2 mm/h; -15 stands for dry.
    frame = convert([[-15, 10, 0], [np.nan, 3.0103, -15]], transform="dB", zerovalue=-15)
    np.testing.assert_allclose(frame.values, [[0, 10, 1], [np.nan, 2, 0]], rtol=1e-5)
    assert frame.attrs["units"] == "mm h-1"


@pytest.mark.parametrize(("zero", "first"), [(0.5, 0.5), (0.0, 0.5), (np.nan, 0.5), (-1.0, 0.5)])
def test_the_lightest_rain_of_a_field_that_is_wet_throughout_stays_rain(zero: float, first: float) -> None:
    # Some importers take the smallest value for zerovalue.
    assert convert([[0.5, 1, 2], [3, 4, 5]], zerovalue=zero).values[0, 0] == first


def test_a_negative_zerovalue_is_dry() -> None:
    frame = convert([[-1, 1, 2], [3, 4, -1]], zerovalue=-1)
    np.testing.assert_array_equal(frame.values, [[0, 1, 2], [3, 4, 0]])


def test_masked_cells_have_no_data() -> None:
    field = np.ma.masked_equal([[0.0, 9.0, 2.0], [1.0, 9.0, 0.0]], 9.0)
    np.testing.assert_array_equal(convert(field).values, [[0, np.nan, 2], [1, np.nan, 0]])


def test_cells_lie_between_the_edges_of_the_metadata() -> None:
    frame = convert()
    np.testing.assert_allclose(frame["x"], [10_500, 11_500, 12_500])
    np.testing.assert_allclose(frame["y"], [-500, -1500])
    longitude, latitude = pyproj.Proj(LAEA)(10_500, -500, inverse=True)
    assert (frame["lon"].values[0, 0], frame["lat"].values[0, 0]) == pytest.approx((longitude, latitude))


def test_a_field_written_from_the_south_is_turned_round_with_its_quality() -> None:
    quality = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 7.0]])
    upper, lower = convert(FIELD, quality), convert(FIELD[::-1], quality[::-1], yorigin="lower")
    assert upper.identical(lower)
    np.testing.assert_allclose(upper["quality_index"], [[0.1, 0.2, 0.3], [0.4, 0.5, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    "projection",
    ["+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.137 +b=6356.752 +x_0=1 y_0=2",
     "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +x_0=1000 +y_0=2000 +units=km"],
)  # fmt: skip
def test_a_grid_in_kilometres_becomes_one_in_metres(projection: str) -> None:
    kilometres = {"x1": 10, "x2": 13, "y1": -3652, "y2": -3650, "xpixelsize": 1, "ypixelsize": 1}
    frame = convert(projection=projection, cartesian_unit="km", **kilometres)
    np.testing.assert_allclose(frame["x"], [10_500, 11_500, 12_500])
    np.testing.assert_allclose(frame["y"], [-3_650_500, -3_651_500])
    metres = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378137 +b=6356752 +x_0=1000 +y_0=2000"
    expected = pyproj.Proj(metres)(10_500, -3_650_500, inverse=True)
    assert (frame["lon"].values[0, 0], frame["lat"].values[0, 0]) == pytest.approx(expected)
    assert crs_of(frame).ellipsoid.semi_major_metre == pytest.approx(6378137)


def test_a_grid_in_degrees_stays_in_degrees_with_western_longitudes() -> None:
    degrees = {"x1": 260, "x2": 260.03, "y1": 40, "y2": 40.02, "xpixelsize": 0.01, "ypixelsize": 0.01}
    frame = convert(projection="+proj=longlat +ellps=WGS84", cartesian_unit="degrees", **degrees)
    np.testing.assert_allclose(frame["x"], [-99.995, -99.985, -99.975], atol=1e-9)
    np.testing.assert_allclose(frame["lat"].values[:, 0], [40.015, 40.005], atol=1e-9)


@pytest.mark.parametrize(
    "key",
    ["projection", "x1", "y1", "x2", "y2", "cartesian_unit", "yorigin", "unit", "transform", "zerovalue"],
)
def test_metadata_that_lack_a_key_are_refused_by_that_key(key: str) -> None:
    with pytest.raises(RefusedInput, match=rf"field\.gif.*{key}"):
        convert(without=key)


def test_the_size_of_the_cells_may_be_absent() -> None:
    assert convert(without="xpixelsize").identical(convert(xpixelsize=None))
    assert convert(xpixelsize=None).identical(convert())


@pytest.mark.parametrize(
    ("changed", "finding"),
    [({"unit": "kg"}, "unit 'kg'"), ({"transform": "sqrt"}, "sqrt"), ({"unit": "dBZ"}, "unit 'dBZ'"),
     ({"unit": "mm", "accutime": 0}, "0.0 minutes"), ({"unit": "mm", "accutime": None}, "TypeError"),
     ({"yorigin": "left"}, "left"), ({"x2": 14_100}, "3 cells with xpixelsize"),
     ({"y2": -3000}, "2 cells with ypixelsize"), ({"x1": np.nan}, "xpixelsize"),
     ({"cartesian_unit": "miles"}, "miles"), ({"projection": "+proj=no"}, "proj"),
     ({"cartesian_unit": "km", "projection": "+proj=stere +a=big"}, "big"),
     ({"projection": "+proj=longlat"}, "cartesian_unit 'm'"), ({"cartesian_unit": "degrees"}, "'degrees' in"),
     ({"projection": "+proj=longlat", "cartesian_unit": "degrees"}, "-2000 to 0 N"),
     ({"field": np.zeros(3)}, "shape"), ({"field": np.zeros((0, 3))}, "shape"),
     ({"field": "rain"}, "ValueError"), ({"field": [[np.inf, 1, 2], [0, 0, 0]]}, "infinite")],
)  # fmt: skip
def test_metadata_or_a_field_that_make_no_frame_are_refused(changed: dict, finding: str) -> None:
    with pytest.raises(RefusedInput, match=rf"field\.gif.*{finding}"):
        convert(**changed)


@pytest.mark.parametrize(
    ("name", "pattern", "time"),
    [("RAD_NL25_RAP_5min_201008260500.h5", "", "2010-08-26T05:00"),
     ("AQC151351545F_00005.801.gif", "AQC%y%j%H%M", "2015-05-15T15:45"),
     ("2_20180616_100000.prcp-cscn.nc", "2_%Y%m%d_%H%M%S", "2018-06-16T10:00"),
     ("20170509104507_radar.pgm", "", "2017-05-09T10:45"), ("20200601", "%Y%m%d", "2020-06-01T00:00")],
)  # fmt: skip
def test_the_time_is_what_the_name_says(name: str, pattern: str, time: str) -> None:
    assert time_of_name(Path("/2001/200101010000") / name, pattern=pattern) == np.datetime64(time)


@pytest.mark.parametrize(
    ("name", "pattern"), [("radar.h5", ""), ("209913451200.h5", ""), ("AQC151351545F", "CPC%y%j"), ("a", "%")]
)
def test_a_name_without_its_time_is_refused(name: str, pattern: str) -> None:
    with pytest.raises(RefusedInput, match=name):
        time_of_name(Path(name), pattern=pattern)


@pytest.mark.usefixtures("no_pysteps")
def test_without_pysteps_the_refusal_says_what_to_install() -> None:
    with pytest.raises(RefusedInput, match=r"pysteps:knmi_hdf5.*'\.\[baselines\]'"):
        get_reader("pysteps:knmi_hdf5")


def stand_in(monkeypatch: pytest.MonkeyPatch, importer: Any) -> None:
    """Put an importer in the place of every one of pysteps."""
    monkeypatch.setattr(pysteps_bridge, "_importer", lambda _name: importer)
    pysteps_reader.cache_clear()


def test_an_importer_gets_the_file_and_its_own_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = []

    def importer(filename: str, product: str, accutime: float, *, gzipped: bool) -> tuple:
        called.append((filename, product, accutime, gzipped))
        return FIELD, None, described(unit="mm", accutime=accutime)

    stand_in(monkeypatch, importer)
    name = "pysteps:mch_gif?product=AQC&accutime=2.5&gzipped=True@AQC%y%j%H%M"
    reader, path = get_reader(name), tmp_path / "AQC151351545F.gif"
    assert reader.name == name
    assert reader.read_times(path) == np.datetime64("2015-05-15T15:45")
    assert called == []
    (frame,) = reader.read_frames(path, [0])
    assert called == [(str(path), "AQC", 2.5, True)]
    assert frame.attrs["accumulation_minutes"] == 2.5
    assert frame["time"].values == np.datetime64("2015-05-15T15:45", "ns")
    assert not reader.detect(b"GIF89a", path)


def test_an_importer_without_its_arguments_is_refused_with_an_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(monkeypatch, lambda filename, product: (filename, product))
    with pytest.raises(RefusedInput, match=r"'product'.*\?product=AQC"):
        pysteps_reader("pysteps:mch_gif")
    with pytest.raises(RefusedInput, match="'nonsense'"):
        pysteps_reader("pysteps:mch_gif?product=AQC&nonsense=1")


@pytest.mark.parametrize(
    "error", [OSError("no file"), KeyError("where"), ZeroDivisionError(), AssertionError()]
)
def test_whatever_an_importer_raises_is_a_refusal_by_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def importer(_filename: str) -> tuple:
        raise error

    stand_in(monkeypatch, importer)
    with pytest.raises(RefusedInput, match=rf"201008260500\.h5.*{type(error).__name__}"):
        list(pysteps_reader("pysteps:any").read_frames(Path("201008260500.h5"), [0]))


@pytest.fixture
def fake_pysteps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of that name that, like the real one, prints as it is imported."""
    package = tmp_path / "pysteps"
    (package / "io").mkdir(parents=True)
    (package / "__init__.py").write_text("print('Pysteps configuration file found at: /etc/pystepsrc')")
    (package / "io" / "__init__.py").write_text(
        "def get_method(name, kind):\n"
        "    if (name, kind) != ('good', 'importer'):\n"
        "        raise ValueError('Unknown importer method; the available methods are: good')\n"
        "    return lambda filename: (filename, None, {})\n"
    )
    for module in [name for name in sys.modules if name.split(".")[0] == "pysteps"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    pysteps_reader.cache_clear()
    yield package
    for module in ("pysteps", "pysteps.io"):
        sys.modules.pop(module, None)
    pysteps_reader.cache_clear()


@pytest.mark.usefixtures("fake_pysteps")
def test_pysteps_is_kept_quiet_as_it_is_loaded(capsys: pytest.CaptureFixture) -> None:
    assert get_reader("pysteps:good").name == "pysteps:good"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("fake_pysteps")
def test_an_importer_that_pysteps_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(RefusedInput, match="available methods are: good"):
        get_reader("pysteps:nonsense")


def test_pysteps_that_cannot_be_loaded_is_refused_with_its_reason(fake_pysteps: Path) -> None:
    (fake_pysteps / "__init__.py").write_text("raise RuntimeError('Error reading pystepsrc file.')")
    with pytest.raises(RefusedInput, match="Error reading pystepsrc file"):
        get_reader("pysteps:good")


@pytest.mark.radar
def test_pysteps_reads_the_dutch_frame_as_the_own_reader_does(radar_data: Path) -> None:
    pytest.importorskip("pysteps", reason="pysteps (extra baselines) is not installed")
    own, bridged = (
        next(iter(get_reader(name).read_frames(radar_data / KNMI_FRAME, [0])))
        for name in ("knmi_hdf5", "pysteps:knmi_hdf5")
    )
    np.testing.assert_array_equal(bridged.values, own.values)
    for name in ("time", "x", "y", "lat", "lon"):
        np.testing.assert_array_equal(bridged[name].values, own[name].values)
    assert bridged.attrs == own.attrs


@pytest.mark.radar
def test_pysteps_reads_the_swiss_frame_as_the_own_reader_does(radar_data: Path) -> None:
    pytest.importorskip("pysteps", reason="pysteps (extra baselines) is not installed")
    own, bridged = (
        next(iter(get_reader(name).read_frames(radar_data / MCH_FRAME, [0])))
        for name in ("mch_gif", "pysteps:mch_gif?product=AQC&unit=mm&accutime=5@AQC%y%j%H%M")
    )
    np.testing.assert_allclose(bridged.values, own.values, rtol=1e-6)
    assert bridged["time"].values == own["time"].values
    np.testing.assert_allclose(bridged["x"], own["x"])
    # pysteps leaves latitude in the Swiss datum, some 150 m from that of WGS 84.
    np.testing.assert_allclose(bridged["lat"], own["lat"], atol=2e-3)
