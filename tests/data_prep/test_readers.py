import gzip
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import readers
from data_prep.rain_rate import to_rain_rate
from data_prep.readers import find_reader, fmi_pgm, get_reader, knmi_hdf5, read
from data_prep.schema import RefusedInput, crs_of

KNMI_FRAME = "knmi/2010/08/RAD_NL25_RAP_5min_201008260500.h5"
FMI_FRAME = "fmi/pgm/20170509/201705091045_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz"


def fmi_bytes(pixels: np.ndarray, *, without: str = "", **changed: str) -> bytes:
    """A small FMI composite around 62 N 25 E with 1 km cells: header and pixels."""
    rows, columns = pixels.shape
    project = pyproj.Proj("+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +R=6371288")
    west, south = -1000.0 * columns / 2, -3e6
    corners = [
        project(west + dx, south + dy, inverse=True) for dx, dy in ((0, 0), (1000 * columns, 1000 * rows))
    ]
    comments = {
        "obstime": "201705091045",
        "param": "CorrectedReflectivity",
        "metersperpixel_x": "1000.0",
        "metersperpixel_y": "1000.0",
        "projection": "radar {",
        "type": "stereographic",
        "centrallongitude": "25",
        "centrallatitude": "90",
        "truelatitude": "60",
        "bottomleft": "{:.9f} {:.9f}".format(*corners[0]),
        "topright": "{:.9f} {:.9f}".format(*corners[1]),
    } | changed
    lines = [f"# {key} {value}" for key, value in comments.items() if key != without]
    header = "\n".join(["P5", *lines, "# }", f"{columns} {rows}", "255", ""])
    return header.encode() + pixels.astype(np.uint8).tobytes()


def write_fmi(path: Path, pixels: np.ndarray, **changed: str) -> Path:
    path.write_bytes(gzip.compress(fmi_bytes(pixels, **changed)))
    return path


def write_knmi(
    path: Path, pixels: np.ndarray, *, without: str = "", wrapped: bool = True, **changed: Any
) -> Path:
    """A small KNMI file, the upper left part of the Dutch grid."""
    rows, columns = pixels.shape
    proj4 = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"
    project = pyproj.Proj(proj4)
    edges = [(0, -3650 - rows), (0, -3650), (columns, -3650), (columns, -3650 - rows)]
    attributes = {
        "overview/product_datetime_start": "26-AUG-2010;04:55:00.000",
        "overview/product_datetime_end": "26-AUG-2010;05:00:00.000",
        "geographic/geo_number_rows": rows,
        "geographic/geo_number_columns": columns,
        "geographic/geo_row_offset": 3650.0,
        "geographic/geo_column_offset": 0.0,
        "geographic/geo_pixel_size_x": 1.0,
        "geographic/geo_pixel_size_y": -1.0,
        "geographic/geo_dim_pixel": "KM,KM",
        "geographic/geo_product_corners": np.ravel([project(*edge, inverse=True) for edge in edges]),
        "geographic/map_projection/projection_proj4_params": proj4,
        "image1/image_geo_parameter": "ACCUMULATED_PRECIPITATION_[MM]",
        "image1/calibration/calibration_formulas": "GEO=0.01*PV+0.0",
        "image1/calibration/calibration_missing_data": 65535,
        "image1/calibration/calibration_out_of_image": 65535,
    } | {key.replace("__", "/"): value for key, value in changed.items()}
    with h5py.File(path, "w") as file:
        file["image1/image_data"] = pixels.astype(np.uint16)
        for key, value in attributes.items():
            group, name = key.rsplit("/", 1)
            if name != without:
                value = value.encode() if isinstance(value, str) else value
                file.require_group(group).attrs[name] = np.atleast_1d(value) if wrapped else value
    return path


def test_fmi_values_become_dbz_with_no_echo_and_no_data_told_apart(tmp_path: Path) -> None:
    # (104 - 64) / 2 = 20 dBZ, (64 - 64) / 2 = 0 dBZ, (44 - 64) / 2 = -10 dBZ, 0 is no echo, 255 no data.
    pixels = np.array([[104, 64, 44], [0, 255, 254]])
    frame = read(write_fmi(tmp_path / "a", pixels))
    np.testing.assert_array_equal(frame.values, [[20, 0, -10], [-np.inf, np.nan, 95]])
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "dBZ"


def test_knmi_values_become_millimetres_in_their_interval(tmp_path: Path) -> None:
    frame = read(write_knmi(tmp_path / "a", np.array([[12, 0, 65535], [245, 1, 100]])))
    np.testing.assert_allclose(frame.values, [[0.12, 0, np.nan], [2.45, 0.01, 1]], rtol=1e-6)
    assert frame.attrs["units"] == "mm"
    assert frame.attrs["accumulation_minutes"] == 5.0
    assert to_rain_rate(frame).values[0, 0] == pytest.approx(1.44)


def test_knmi_attributes_are_read_wrapped_in_an_array_or_not(tmp_path: Path) -> None:
    pixels = np.array([[12, 0, 65535]])
    wrapped, plain = (read(write_knmi(tmp_path / f"{w}", pixels, wrapped=w)) for w in (True, False))
    assert wrapped.identical(plain)


def test_knmi_calibration_comes_from_the_header(tmp_path: Path) -> None:
    formula = {"image1__calibration__calibration_formulas": "GEO = 0.10 * PV + -1.0"}
    with pytest.raises(RefusedInput, match="calibration_formulas"):
        read(write_knmi(tmp_path / "a", np.array([[12]]), **formula))
    formula = {"image1__calibration__calibration_formulas": "GEO = 0.100000 * PV - 1.000000"}
    assert read(write_knmi(tmp_path / "b", np.array([[12]]), **formula)).item() == pytest.approx(0.2)


@pytest.mark.parametrize("write", [write_knmi, write_fmi])
def test_rows_run_from_north_to_south_and_cells_are_1_km(tmp_path: Path, write: Any) -> None:
    frame = read(write(tmp_path / "a", np.zeros((4, 3))))
    np.testing.assert_allclose(np.diff(frame["y"]), -1000, atol=1e-3)
    np.testing.assert_allclose(np.diff(frame["x"]), 1000, atol=1e-3)
    assert (np.diff(frame["lat"], axis=0) < 0).all()
    assert (np.diff(frame["lon"], axis=1) > 0).all()


@pytest.mark.parametrize(
    ("write", "time"), [(write_knmi, "2010-08-26T05:00"), (write_fmi, "2017-05-09T10:45")]
)
def test_the_time_is_that_of_the_header_whatever_the_file_is_called(
    tmp_path: Path, write: Any, time: str
) -> None:
    path = write(tmp_path / "199901010000.bin", np.zeros((2, 2)))
    assert find_reader(path).read_times(path) == np.datetime64(time)
    assert read(path)["time"].values == np.datetime64(time, "ns")


@pytest.mark.parametrize(("write", "name"), [(write_knmi, "knmi_hdf5"), (write_fmi, "fmi_pgm")])
def test_the_format_is_found_by_content_with_or_without_gzip(tmp_path: Path, write: Any, name: str) -> None:
    path = write(tmp_path / "misleading.png", np.zeros((2, 2)))
    content = path.read_bytes()
    other = tmp_path / "other"
    packed = content[:2] == b"\x1f\x8b"
    other.write_bytes(gzip.decompress(content) if packed else gzip.compress(content))
    assert find_reader(path).name == find_reader(other).name == name
    assert read(path).identical(read(other))
    assert next(get_reader(name).read_frames(path, [0])).identical(read(path))


def test_a_pgm_header_is_read_with_comments_anywhere_and_any_whitespace(tmp_path: Path) -> None:
    pixels = np.array([[10, 35, 13], [9, 32, 80]])  # bytes that are newline, '#', return, tab, space
    content = fmi_bytes(pixels)
    other = content.replace(b"\n3 2\n255\n", b"\n \t3\n# size\n#\n2\r\n#last 7\n 255 ").replace(
        b"# param ", b"#param   "
    )
    assert other != content
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(other)
    assert read(tmp_path / "a").identical(read(tmp_path / "b"))


def test_frames_of_one_grid_share_their_coordinates_and_cannot_spoil_them(tmp_path: Path) -> None:
    first, second = (read(write_knmi(tmp_path / name, np.zeros((3, 2)))) for name in "ab")
    assert np.shares_memory(first["lat"].values, second["lat"].values)
    assert np.shares_memory(to_rain_rate(first)["lon"].values, second["lon"].values)
    with pytest.raises(ValueError, match="read-only"):
        first["lat"].values[0, 0] = 0


def test_an_unknown_reader_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(RefusedInput, match="knmi_hdf5, odim_hdf5, fmi_pgm"):
        get_reader("odim")


@pytest.mark.parametrize("content", [b"hello", b"P5\n2 1\n255\n\x00\x00", b"GIF89a", b"\x00" * 100])
def test_a_file_of_unknown_format_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.dat"
    path.write_bytes(content)
    with pytest.raises(RefusedInput, match=r"known format.*strange\.dat.*leave it out"):
        read(path)


def test_hdf5_of_another_kind_is_of_unknown_format(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odim.h5", "w") as file:
        file["dataset1/data1/data"] = np.zeros((2, 2))
    with pytest.raises(RefusedInput, match=r"known format.*odim\.h5"):
        find_reader(tmp_path / "odim.h5")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_empty_file_is_refused(tmp_path: Path, compress: Any) -> None:
    (tmp_path / "empty").write_bytes(compress(b""))
    with pytest.raises(RefusedInput, match="empty is empty"):
        find_reader(tmp_path / "empty")


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="absent"):
        read(tmp_path / "absent")
    with pytest.raises(RefusedInput, match=tmp_path.name):
        read(tmp_path)


@pytest.mark.parametrize("write", [write_knmi, write_fmi])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, write: Any, share: float) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 50))
    content = write(tmp_path / "whole", pixels).read_bytes()
    for name, data in (("plain", content), ("packed", gzip.compress(content))):
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(RefusedInput, match=f"cut-{name}"):
            read(cut)
        for reader in (knmi_hdf5.READER, fmi_pgm.READER):
            with pytest.raises(RefusedInput, match=f"cut-{name}"):
                next(reader.read_frames(cut, [0]))


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_pixel_payload_of_the_wrong_length_is_refused(tmp_path: Path, extra: int) -> None:
    content = fmi_bytes(np.zeros((3, 4)))
    (tmp_path / "odd").write_bytes(content[:-1] if extra < 0 else content + b"\x00")
    with pytest.raises(RefusedInput, match=f"{12 + extra} pixels in a grid of 3 x 4"):
        read(tmp_path / "odd")


@pytest.mark.parametrize(
    "key",
    ["param", "metersperpixel_x", "metersperpixel_y", "type", "centrallongitude", "centrallatitude",
     "truelatitude", "bottomleft", "topright", "obstime"],
)  # fmt: skip
def test_an_fmi_header_that_lacks_a_key_is_refused_by_that_key(tmp_path: Path, key: str) -> None:
    path = write_fmi(tmp_path / "lacks", np.zeros((3, 4)), without=key)
    with pytest.raises(RefusedInput, match=f"lacks.*no comment {key}"):
        fmi_pgm.read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("obstime", "2017-05-09"),
        ("obstime", "201713091045"),
        ("param", "RainRate"),
        ("type", "lambert"),
        ("bottomleft", "18.6"),
        ("bottomleft", "18.6 north"),
        ("topright", "nan 60"),
        ("centrallatitude", "200"),
        ("metersperpixel_x", "500"),
    ],
)
def test_an_fmi_header_with_an_impossible_value_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(RefusedInput, match="strange"):
        read(write_fmi(tmp_path / "strange", np.zeros((3, 4)), **{key: value}))


def test_sixteen_bit_pixels_are_refused(tmp_path: Path) -> None:
    content = fmi_bytes(np.zeros((3, 4))).replace(b"\n255\n", b"\n65535\n")
    (tmp_path / "deep").write_bytes(content)
    with pytest.raises(RefusedInput, match=r"0\.\.65535"):
        read(tmp_path / "deep")


KNMI_KEYS = [
    "product_datetime_start", "product_datetime_end", "geo_number_rows", "geo_number_columns",
    "geo_row_offset", "geo_column_offset", "geo_pixel_size_x", "geo_pixel_size_y", "geo_dim_pixel",
    "geo_product_corners",
    "projection_proj4_params", "image_geo_parameter", "calibration_formulas", "calibration_missing_data",
    "calibration_out_of_image",
]  # fmt: skip


@pytest.mark.parametrize("key", KNMI_KEYS)
def test_a_knmi_header_that_lacks_a_key_is_refused_by_that_key(tmp_path: Path, key: str) -> None:
    path = write_knmi(tmp_path / "lacks", np.zeros((3, 4)), without=key)
    with pytest.raises(RefusedInput, match=f"lacks.*{key}"):
        knmi_hdf5.read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("overview__product_datetime_end", "26-XXX-2010;05:00:00.000"),
        ("overview__product_datetime_end", "31-FEB-2010;05:00:00.000"),
        ("overview__product_datetime_end", "26-AUG-2010;04:55:00.000"),
        ("geographic__geo_number_rows", 5),
        ("geographic__geo_number_rows", np.nan),
        ("geographic__geo_row_offset", 3660.0),
        ("geographic__geo_row_offset", [1.0, 2.0]),
        ("geographic__geo_pixel_size_y", 1.0),
        ("geographic__geo_dim_pixel", "DEG,DEG"),
        ("geographic__geo_product_corners", [1.0, 2.0]),
        ("geographic__map_projection__projection_proj4_params", "+proj=nonsense"),
        ("geographic__map_projection__projection_proj4_params", "+proj=stere +a=big"),
        ("image1__image_geo_parameter", "REFLECTIVITY_[DBZ]"),
        ("image1__calibration__calibration_formulas", "GEO=PV^2"),
    ],
)
def test_a_knmi_header_with_an_impossible_value_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(RefusedInput, match="strange"):
        read(write_knmi(tmp_path / "strange", np.zeros((3, 4)), **{key: value}))


def test_a_knmi_grid_that_misses_its_own_corners_is_refused_with_the_distance(tmp_path: Path) -> None:
    # One cell of 1 km is about 0.009 degrees of latitude.
    path = write_knmi(tmp_path / "moved", np.zeros((3, 4)), geographic__geo_row_offset=3651.0)
    with pytest.raises(RefusedInput, match=r"0\.00\d+ degrees away from geo_product_corners"):
        read(path)


def test_a_knmi_file_without_its_image_is_refused(tmp_path: Path) -> None:
    path = write_knmi(tmp_path / "blank", np.zeros((3, 4)))
    with h5py.File(path, "a") as file:
        del file["image1/image_data"]
    with pytest.raises(RefusedInput, match="blank.*no dataset image1/image_data"):
        read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 420), byte=st.integers(0, 255))
def test_a_wrong_byte_in_a_pgm_is_read_or_refused_but_never_an_unnamed_error(
    tmp_path: Path, position: int, byte: int
) -> None:
    content = bytearray(fmi_bytes(np.zeros((3, 4))))
    content[min(position, len(content) - 1)] = byte
    (tmp_path / "flipped").write_bytes(bytes(content))
    try:
        outcome = read(tmp_path / "flipped").attrs["units"]
    except RefusedInput as refusal:
        outcome = str(refusal)
    assert outcome == "dBZ" or "flipped" in outcome


def test_wrong_bytes_in_hdf5_are_read_or_refused_but_never_an_unnamed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    content = np.fromfile(write_knmi(tmp_path / "whole", rng.integers(0, 300, (4, 3))), dtype=np.uint8)
    outcomes = []
    for _ in range(400):
        spoilt = content.copy()
        spoilt[rng.integers(content.size, size=4)] = rng.integers(256, size=4)
        (tmp_path / "flipped").write_bytes(spoilt.tobytes())
        try:
            outcomes.append(read(tmp_path / "flipped").attrs["units"])
        except RefusedInput as refusal:
            outcomes.append("refused" if "flipped" in str(refusal) else str(refusal))
    assert set(outcomes) == {"mm", "refused"}


def test_a_plug_in_adds_a_reader_and_a_broken_one_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    extra = [
        EntryPoint("broken", "no_such_package:READER", readers.GROUP),
        EntryPoint("again", "data_prep.readers.fmi_pgm:READER", readers.GROUP),
    ]
    monkeypatch.setattr(readers, "entry_points", lambda *, group: extra if group == readers.GROUP else [])
    readers._readers.cache_clear()
    try:
        assert get_reader("again") is fmi_pgm.READER
        with pytest.raises(RefusedInput, match="deepmind_tfrecord, again"):
            get_reader("broken")
    finally:
        readers._readers.cache_clear()
    assert "broken (no_such_package:READER) cannot be loaded" in caplog.text


def test_a_reader_of_no_package_is_found_by_its_place_in_a_module() -> None:
    assert get_reader("data_prep.readers.fmi_pgm:READER") is fmi_pgm.READER


@pytest.mark.parametrize(
    ("place", "finding"),
    [
        ("no_such_module:READER", "No module named 'no_such_module'"),
        ("data_prep.readers.fmi_pgm:NOTHING", "has no attribute 'NOTHING'"),
        ("data_prep.readers:GROUP", "'nowcast.readers'"),
        ("no module:", "can be imported"),
    ],
)
def test_a_place_without_a_reader_is_refused(place: str, finding: str) -> None:
    with pytest.raises(RefusedInput, match=finding):
        get_reader(place)


@pytest.mark.radar
def test_the_dutch_flood_frame_has_its_known_time_mask_and_maximum(radar_data: Path) -> None:
    frame = read(radar_data / KNMI_FRAME)
    assert frame.shape == (765, 700)
    assert frame["time"].values == np.datetime64("2010-08-26T05:00", "ns")
    assert np.isnan(frame).mean() == pytest.approx(0.7437, abs=1e-4)
    # 1.11 mm in 5 minutes
    assert to_rain_rate(frame).max().item() == pytest.approx(13.32, abs=1e-3)
    assert (frame == 0).any()


@pytest.mark.radar
def test_the_dutch_grid_ends_at_the_corners_in_its_header(radar_data: Path) -> None:
    frame = read(radar_data / KNMI_FRAME)
    to_degrees = pyproj.Transformer.from_crs(crs_of(frame), crs_of(frame).geodetic_crs, always_xy=True)
    west, east = frame["x"].values[[0, -1]] + [-500, 500]
    north, south = frame["y"].values[[0, -1]] + [500, -500]
    corners = to_degrees.transform([west, west, east, east], [south, north, north, south])
    np.testing.assert_allclose(corners[0], [0, 0, 10.856, 9.009], atol=1e-3)
    np.testing.assert_allclose(corners[1], [49.362, 55.974, 55.389, 48.895], atol=1e-3)
    # De Bilt, 52.103 N 5.179 E, lies inside the radar range, the north-west corner does not.
    there = np.hypot(frame["lat"] - 52.103, (frame["lon"] - 5.179) * 0.614).argmin(...)
    assert np.isfinite(frame.isel(there))
    assert np.isnan(frame[0, 0])


@pytest.mark.radar
def test_half_of_the_observed_dutch_area_is_wet_over_the_event_and_the_mask_is_constant(
    radar_data: Path,
) -> None:
    files = sorted((radar_data / KNMI_FRAME).parent.glob("*.h5"))
    rate = np.stack([to_rain_rate(read(path)).values for path in files])
    assert rate.shape == (92, 765, 700)
    missing = np.isnan(rate)
    assert (missing == missing[0]).all()
    assert (rate > 0.1).sum() / (~missing).sum() == pytest.approx(0.53, abs=0.02)
    assert np.nanmax(rate) == pytest.approx(29.4, abs=0.01)


@pytest.mark.radar
def test_times_of_the_dutch_event_are_five_minutes_apart(radar_data: Path) -> None:
    files = sorted((radar_data / KNMI_FRAME).parent.glob("*.h5"))
    times = np.array([knmi_hdf5.read_time(path) for path in files])
    assert times[0] == np.datetime64("2010-08-26T00:00")
    assert (np.diff(times) == np.timedelta64(5, "m")).all()


@pytest.mark.radar
def test_the_finnish_event_has_its_known_shape_wet_share_and_maximum(radar_data: Path) -> None:
    files = sorted((radar_data / FMI_FRAME).parent.glob("*.pgm.gz"))
    rate = np.stack([to_rain_rate(read(path), z_r_a=223.0, z_r_b=1.53).values for path in files])
    assert rate.shape == (40, 1226, 760)
    assert (rate > 0.1).sum() / np.isfinite(rate).sum() == pytest.approx(0.09, abs=0.01)
    assert np.nanmax(rate) == pytest.approx(63, abs=0.5)
    assert np.isnan(rate).mean() == pytest.approx(0.243, abs=1e-3)


@pytest.mark.radar
def test_the_finnish_grid_has_the_spacing_and_the_corners_of_its_header(radar_data: Path) -> None:
    frame = read(radar_data / FMI_FRAME)
    assert frame["time"].values == np.datetime64("2017-05-09T10:45", "ns")
    dx, dy = 999.674053, 999.62859
    np.testing.assert_allclose(np.diff(frame["x"]), dx, atol=1e-5)
    np.testing.assert_allclose(np.diff(frame["y"]), -dy, atol=1e-5)
    to_degrees = pyproj.Transformer.from_crs(crs_of(frame), crs_of(frame).geodetic_crs, always_xy=True)
    x, y = frame["x"].values, frame["y"].values
    np.testing.assert_allclose(to_degrees.transform(x[0] - dx / 2, y[-1] - dy / 2), (18.6, 57.93), atol=1e-6)
    np.testing.assert_allclose(
        to_degrees.transform(x[-1] + dx / 2, y[0] + dy / 2), (34.903, 69.005), atol=1e-6
    )


@pytest.mark.radar
@pytest.mark.parametrize("name", [KNMI_FRAME, FMI_FRAME])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_real_file_cut_short_is_refused_by_name(
    radar_data: Path, tmp_path: Path, name: str, share: float
) -> None:
    cut = tmp_path / "cut"
    shutil.copy(radar_data / name, cut)
    with cut.open("r+b") as file:
        file.truncate(int(cut.stat().st_size * share))
    with pytest.raises(RefusedInput, match="cut"):
        read(cut)


@pytest.mark.radar
@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("knmi/2010/08/*.h5", "knmi_hdf5"),
        ("fmi/pgm/20170509/*", "fmi_pgm"),
        ("fmi/geotiff/20170509/*", "fmi_geotiff"),
        ("mch/*/*.gif", "mch_gif"),
        ("opera/20180824/*", "odim_hdf5"),
        ("bom/**/*.nc", "cf_grid"),
        ("mrms/**/*.grib2", "mrms_grib2"),
        ("meteonet/r*_NW_*.npz", "meteonet_npz"),
        ("openmrg/*", "cf_grid"),
        ("dwd/*/*", "radolan"),
        ("metoffice/*.nimrod", "nimrod"),
        ("metoffice/*.nc", "cf_grid"),
    ],
)
def test_the_content_of_every_file_tells_its_reader(
    radar_data: Path, tmp_path: Path, pattern: str, name: str
) -> None:
    paths = sorted(radar_data.glob(pattern))[:8]
    assert {find_reader(path).name for path in paths} == {name}
    disguised = tmp_path / "a.dat"
    shutil.copyfile(paths[0], disguised)
    assert find_reader(disguised).name == name
