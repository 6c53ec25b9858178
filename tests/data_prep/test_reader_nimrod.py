import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import find_reader, nimrod, read
from data_prep.schema import RefusedInput, crs_of

COMPOSITE = "metoffice/input_preciprate.nimrod"
NOT_SET = -32767
KINDS = {">i2": (1, 2), ">i4": (1, 4), ">f4": (0, 4)}


def nimrod_bytes(
    raw: np.ndarray,
    *,
    dtype: str = ">i2",
    units: str = "mm/h*32",
    integers: dict[int, int] | None = None,
    reals: dict[int, float] | None = None,
    corners: dict[int, float] | None = None,
) -> bytes:
    """A Nimrod file of 2018-08-03 22:45 on 2 km cells, the first one centred at 300 km E, 500 km N.

    Elements are changed by their numbers in the format description, counted from 1.
    """
    rows, columns = raw.shape
    whole = {1: 2018, 2: 8, 3: 3, 4: 22, 5: 45, 6: 0, 7: 2018, 8: 8, 9: 3, 10: 22, 11: 45,
             12: KINDS[dtype][0], 13: KINDS[dtype][1], 15: 0, 16: rows, 17: columns, 18: 2, 19: 213,
             24: 0, 25: -1}  # fmt: skip
    real = {34: 500_000.0, 35: 2000.0, 36: 300_000.0, 37: 2000.0, 38: -1.0, 39: 0.0, 40: 0.0}
    north, west = 501_000.0, 299_000.0
    south, east = north - 2000 * rows, west + 2000 * columns
    edges = dict(enumerate((north, west, north, east, south, east, south, west), start=60))
    whole, real, edges = whole | (integers or {}), real | (reals or {}), edges | (corners or {})
    header = b"".join(
        [
            struct.pack(">31h", *(whole.get(n, NOT_SET) for n in range(1, 32))),
            struct.pack(">28f", *(real.get(n, NOT_SET) for n in range(32, 60))),
            struct.pack(">45f", *(edges.get(n, NOT_SET) for n in range(60, 105))),
            units.encode().ljust(8, b"\0"),
            b"single site radars".ljust(24, b"\0"),
            b"Rainfall rate Composite".ljust(24, b"\0"),
            struct.pack(">51h", *[NOT_SET] * 51),
        ]
    )
    data = raw.astype(dtype).tobytes()
    mark, length = struct.pack(">I", 512), struct.pack(">I", len(data))
    return mark + header + mark + length + data + length


def write(path: Path, raw: Any, **changed: Any) -> Path:
    path.write_bytes(nimrod_bytes(np.asarray(raw), **changed))
    return path


@pytest.mark.parametrize("dtype", [">i2", ">i4"])
def test_integers_become_mm_per_hour_by_the_multiple_in_the_units(tmp_path: Path, dtype: str) -> None:
    # 32 / 32 = 1, 48 / 32 = 1.5, 1 / 32 = 0.03125; -1 is the missing value, -2 is not rain either.
    frame = read(write(tmp_path / "a", [[32, 48, 0], [-1, 1, -2]], dtype=dtype))
    np.testing.assert_array_equal(frame.values, [[1, 1.5, 0], [np.nan, 0.03125, np.nan]])
    assert frame.dtype == np.float32
    assert frame.attrs["units"] == "mm h-1"
    assert "accumulation_minutes" not in frame.attrs
    np.testing.assert_array_equal(to_rain_rate(frame).values, frame.values)


def test_floats_are_rain_rates_and_their_missing_value_is_the_real_one_of_the_header(tmp_path: Path) -> None:
    raw = [[0.25, 0.0], [-1.0, 3.5], [np.nan, np.inf], [9999.0, 7.0]]
    path = write(tmp_path / "a", raw, dtype=">f4", units="mm/hr", reals={38: 9999.0}, integers={25: 7})
    np.testing.assert_array_equal(
        read(path).values, [[0.25, 0], [np.nan, 3.5], [np.nan, np.nan], [np.nan, 7]]
    )


def test_the_missing_value_of_integers_is_that_of_the_header(tmp_path: Path) -> None:
    frame = read(write(tmp_path / "a", [[32, 9999, 0]], integers={25: 9999}))
    np.testing.assert_array_equal(frame.values, [[1, np.nan, 0]])


def test_an_accumulation_is_in_mm_in_its_period(tmp_path: Path) -> None:
    frame = read(write(tmp_path / "a", [[32, 0]], units="mm*32", integers={26: 15}))
    assert (frame.attrs["units"], frame.attrs["accumulation_minutes"]) == ("mm", 15.0)
    # 1 mm in 15 minutes
    np.testing.assert_array_equal(to_rain_rate(frame).values, [[4, 0]])


def test_a_rate_that_is_a_mean_over_a_period_says_so(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", [[1]], integers={26: 5})).attrs["accumulation_minutes"] == 5.0


def test_cells_lie_where_the_header_puts_their_centres_on_the_national_grid(tmp_path: Path) -> None:
    frame = read(write(tmp_path / "a", np.zeros((2, 3))))
    assert frame["x"].values.tolist() == [300_000, 302_000, 304_000]
    assert frame["y"].values.tolist() == [500_000, 498_000]
    assert crs_of(frame).to_epsg() == 27700


def test_the_national_grid_is_that_of_the_ordnance_survey(tmp_path: Path) -> None:
    # The worked example of Ordnance Survey, "A guide to coordinate systems in Great Britain", annexe C:
    # E 651409.903, N 313177.270 is 52 39 28.8282 N, 1 42 57.8663 E on ETRS89, hence on WGS 84. Without the
    # grid of shifts OSTN15 the change of datum is good to 5 m.
    edges = {60: 314_177.27, 61: 650_409.903, 62: 314_177.27, 63: 652_409.903, 64: 312_177.27,
             65: 652_409.903, 66: 312_177.27, 67: 650_409.903}  # fmt: skip
    frame = read(write(tmp_path / "a", [[0]], reals={34: 313_177.270, 36: 651_409.903}, corners=edges))
    assert frame["lat"].item() == pytest.approx(52 + 39 / 60 + 28.8282 / 3600, abs=7e-5)
    assert frame["lon"].item() == pytest.approx(1 + 42 / 60 + 57.8663 / 3600, abs=7e-5)


def test_time_is_the_validity_time_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "201901010000_nimrod", [[0]], integers={6: 30, 11: 0})
    with pytest.raises(RefusedInput, match=r"201901010000_nimrod \(a forecast for 2018-08-03 22:45:30"):
        nimrod.READER.read_times(path)
    path = write(tmp_path / "201901010000_nimrod", [[0]], integers={6: NOT_SET, 7: NOT_SET})
    assert nimrod.READER.read_times(path).tolist() == [np.datetime64("2018-08-03T22:45", "ns").astype(int)]


def test_an_accumulation_may_have_the_beginning_of_its_period_as_data_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [[0]], units="mm*32", integers={26: 15, 11: 30})
    assert read(path)["time"].values == np.datetime64("2018-08-03T22:45", "ns")


def test_files_are_read_through_gzip_and_their_frames_share_latitude_and_longitude(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", [[32, 0], [0, 0]])
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(plain.read_bytes()))
    first, second = read(plain), read(tmp_path / "zipped.gz")
    assert find_reader(tmp_path / "zipped.gz") is nimrod.READER
    assert first.identical(second)
    assert np.shares_memory(first["lat"].values, second["lat"].values)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"integers": {2: 13}}, "month must be in 1..12"),
        ({"integers": {1: 30000}}, "year is out of range|year 30000"),
        ({"integers": {12: 2}}, "type 2 in 2 bytes"),
        ({"integers": {13: 8}}, "type 1 in 8 bytes"),
        ({"integers": {15: 1}}, "grid type 1 on ellipsoid -32767"),
        ({"integers": {28: 1}}, "grid type 0 on ellipsoid 1"),
        ({"integers": {24: 1}}, "corner 1 of the grid"),
        ({"integers": {16: 0}}, "grid of 0 x 3"),
        ({"integers": {16: 32767, 17: 32767}}, "grid of 32767 x 32767"),
        ({"integers": {16: 3000, 17: 3000}}, "3000 x 3000 needs 18000000 bytes"),
        ({"integers": {17: 2}}, "no record of 8 bytes"),
        ({"reals": {35: 0.0}}, "in steps of 2000 and 0 m"),
        ({"reals": {36: np.nan}}, "a grid from nan, 500000"),
        ({"reals": {36: 301_000.0}}, "the grid ends at"),
        ({"corners": {60: 500_000.0}}, "the grid ends at"),
        ({"reals": {43: 50.0}}, "a projection of"),
        ({"reals": {40: 2.5}}, "an offset of 2.5"),
        ({"units": "K*10"}, "units 'K\\*10'"),
        ({"units": "mm*0"}, "units 'mm\\*0'"),
        ({"units": "mm*32"}, "without its period"),
    ],
)
def test_a_header_with_an_impossible_value_is_refused_by_it(
    tmp_path: Path, changed: dict[str, Any], finding: str
) -> None:
    with pytest.raises(RefusedInput, match=f"strange.*({finding})"):
        read(write(tmp_path / "strange", np.zeros((2, 3)), **changed))


@pytest.mark.parametrize("numbers", [(49.0, -2.0, 400000.0, -100000.0), (49.0, -2.0, 400.0, -100.0)])
def test_the_projection_of_the_national_grid_may_be_spelt_out_in_m_or_km(
    tmp_path: Path, numbers: tuple[float, ...]
) -> None:
    reals = dict(enumerate((*numbers, 0.9996012717), start=43))
    assert read(write(tmp_path / "a", [[32]], reals=reals)).item() == 1


def test_a_second_field_in_a_file_is_refused(tmp_path: Path) -> None:
    content = nimrod_bytes(np.zeros((2, 3)))
    (tmp_path / "two").write_bytes(content + content)
    with pytest.raises(RefusedInput, match="two.*more than one field"):
        read(tmp_path / "two")


@pytest.mark.parametrize("length", [5, 300, 519, 520, 523, 530, 535, 539])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_cut_short_is_refused_by_name(
    tmp_path: Path, length: int, pack: Callable[[bytes], bytes]
) -> None:
    content = nimrod_bytes(np.zeros((2, 3)))
    assert len(content) == 540
    (tmp_path / "cut").write_bytes(pack(content[:length]))
    with pytest.raises(RefusedInput, match="cut"):
        read(tmp_path / "cut")


def test_wrong_bytes_are_read_or_refused_but_never_an_unnamed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    content = np.frombuffer(nimrod_bytes(np.arange(6).reshape(2, 3)), dtype=np.uint8)
    outcomes = []
    for _ in range(400):
        spoilt = content.copy()
        spoilt[rng.integers(content.size, size=3)] = rng.integers(256, size=3)
        (tmp_path / "flipped").write_bytes(spoilt.tobytes())
        try:
            outcomes.append(read(tmp_path / "flipped").attrs["units"])
        except RefusedInput as refusal:
            outcomes.append("refused" if "flipped" in str(refusal) else str(refusal))
    assert set(outcomes) == {"mm h-1", "refused"}


@pytest.mark.radar
def test_the_real_composite_agrees_with_the_met_offices_own_netcdf_of_it(radar_data: Path) -> None:
    frame = read(radar_data / COMPOSITE)
    with netCDF4.Dataset(radar_data / "metoffice/kgo_preciprate.nc") as known:
        known.set_auto_mask(False)
        values = known["rainfall_rate_composite"][:]
        x, y = known["projection_x_coordinate"][:], known["projection_y_coordinate"][:]
        time = np.datetime64(int(known["time"][:]), "s")
    # The netCDF has the south first, and what netCDF puts where nothing was written for missing.
    np.testing.assert_array_equal(frame.values, np.where(values > 9e36, np.nan, values)[::-1])
    np.testing.assert_array_equal(frame["x"], x)
    np.testing.assert_array_equal(frame["y"], y[::-1])
    assert frame["time"].values == time == np.datetime64("2018-08-03T22:45")
    assert np.nanmax(frame) == 1259 / 32
    assert np.isnan(frame).mean() == pytest.approx(0.2908, abs=1e-4)


@pytest.mark.radar
def test_dry_and_missing_are_told_apart_in_the_real_composite(radar_data: Path) -> None:
    frame = read(radar_data / COMPOSITE)
    # London is dry that evening, the Atlantic north-west of the grid is out of radar range.
    assert frame.sel(x=530_000, y=180_000, method="nearest") == 0
    assert np.isnan(frame[0, 0])
