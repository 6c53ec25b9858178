import bz2
import gzip
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
import pytest

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import find_reader, radolan, read
from data_prep.schema import RefusedInput, crs_of

YW = "dwd/radolan_yw"
MISC = "dwd/radolan_misc"
BUNDLE = f"{MISC}/DE1200_RV2210180700.tar.bz2"
SHAPE = (900, 900)
DRY = np.zeros(SHAPE)


def composite(
    cells: np.ndarray = DRY,
    *,
    start: str = "RY102050100000814",
    tokens: str = "VS 3SW   2.13.1PR E-02INT   5",
    grid: str | None = None,
    lead: str = "",
    size: int | None = None,
) -> bytes:
    """A composite of 2014-08-10 20:50; the cells with the south first, as in the file."""
    data = cells.astype("u1" if start.startswith("RX") else "<u2").tobytes()
    grid = "GP{:4d}x{:4d}".format(*cells.shape) if grid is None else grid
    behind = f"{tokens}{grid}{lead}MS 26<boo,ros,INT  99,VV 060,GP> \x03"
    total = len(start) + 9 + len(behind) + len(data) if size is None else size
    return f"{start}BY{total:7d}{behind}".encode() + data


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def tar(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as bundle:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            bundle.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def leads(*minutes: int) -> list[tuple[str, bytes]]:
    """Composites of a nowcast in which every cell holds one step of 0.01 mm a minute of lead."""
    return [
        (
            f"DE_RV_{lead:03d}",
            composite(np.full(SHAPE, lead), start="RV102050100000814", lead=f"VV {lead:03d}MF 00000008"),
        )
        for lead in minutes
    ]


ALL_LEADS = range(0, 125, 5)


def test_cells_become_millimetres_north_first_by_the_precision_in_the_header(tmp_path: Path) -> None:
    cells = np.zeros(SHAPE)
    cells[0, :3], cells[-1, -1] = (1, 200, 4095), 7
    frame = read(write(tmp_path / "a", composite(cells)))
    np.testing.assert_allclose(frame.values[-1, :3], [0.01, 2.0, 40.95], rtol=1e-6)
    assert frame.values[0, -1] == pytest.approx(0.07)
    assert frame.dtype == np.float32
    assert (frame.attrs["units"], frame.attrs["accumulation_minutes"]) == ("mm", 5.0)
    # 2 mm in 5 minutes
    assert to_rain_rate(frame).values[-1, 1] == pytest.approx(24)


def test_the_hourly_product_counts_tenths_of_a_millimetre(tmp_path: Path) -> None:
    start, tokens = "RW102050100000814", "VS 3SW   2.13.1PR E-01INT  60"
    frame = read(write(tmp_path / "a", composite(DRY + 25, start=start, tokens=tokens)))
    assert frame.values[0, 0] == pytest.approx(2.5)
    assert frame.attrs["accumulation_minutes"] == 60.0
    assert frame["time"].values == np.datetime64("2014-08-10T20:50")


def test_an_interval_may_be_in_days(tmp_path: Path) -> None:
    frame = read(write(tmp_path / "a", composite(tokens="VS 3SW   2.18.3PR E-01INT   1U1")))
    assert frame.attrs["accumulation_minutes"] == 1440.0
    frame = read(write(tmp_path / "a", composite(tokens="VS 3SW   2.18.3PR E-01INT   1U0")))
    assert frame.attrs["accumulation_minutes"] == 1.0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x0000, 0.5),
        (0x1000, 0.5),
        (0x2000, np.nan),
        (0x3000, np.nan),
        (0x4000, np.nan),
        (0x8000, np.nan),
        (0x9000, np.nan),
    ],
)
def test_flags_of_no_data_negative_and_clutter_make_no_data_and_a_second_source_does_not(
    tmp_path: Path, flags: int, expected: float
) -> None:
    frame = read(write(tmp_path / "a", composite(DRY + (flags | 50))))
    np.testing.assert_allclose(frame.values[0, 0], expected)


def test_reflectivity_tells_no_echo_clutter_and_no_data_apart(tmp_path: Path) -> None:
    cells = np.zeros(SHAPE)
    # 1/2 - 32.5 = -32, 65/2 - 32.5 = 0, 178/2 - 32.5 = 56.5 dBZ; 249 is clutter, 250 no data.
    cells[-1, :7] = 0, 1, 65, 178, 249, 250, 255
    content = composite(cells, start="RX102050100000814", tokens="VS 3SW   2.13.1PR E+00INT   5")
    frame = read(write(tmp_path / "a", content))
    expected = [-np.inf, -32, 0, 56.5, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(frame.values[0, :7], expected)
    assert frame.attrs["units"] == "dBZ"
    assert "accumulation_minutes" not in frame.attrs


def test_the_header_has_day_hour_minute_then_month_and_year_and_wins_over_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "raa01-ry_10000-2001010000-dwd---bin", composite(start="RY030405100000607"))
    assert find_reader(path).read_times(path).tolist() == [
        np.datetime64("2007-06-03T04:05", "ns").astype(int)
    ]


@pytest.mark.parametrize(
    ("shape", "version", "corners"),
    [
        # Lower left and upper right in "RADOLAN/RADVOR-OP Kompositformat", degrees with four digits.
        ((900, 900), 3, ((3.5889, 46.9526), (15.7208, 54.7405))),
        ((1100, 900), 3, ((4.6759, 46.1929), (17.1128, 55.5342))),
        # And in DWD's description of RV on the ellipsoid.
        ((1200, 1100), 5, ((3.566994635, 45.69642538), (18.73161645, 55.84543856))),
    ],
)
def test_grids_end_at_the_corners_that_dwd_documents(
    tmp_path: Path, shape: tuple[int, int], version: int, corners: tuple[tuple[float, float], ...]
) -> None:
    content = composite(np.zeros(shape), tokens=f"VS {version}SW   2.13.1PR E-02INT   5")
    frame = read(write(tmp_path / "a", content))
    to_degrees = pyproj.Transformer.from_crs(crs_of(frame), crs_of(frame).geodetic_crs, always_xy=True)
    x, y = frame["x"].values, frame["y"].values
    tolerance = 1e-4 if version == 3 else 1e-8
    south_west = to_degrees.transform(x[0] - 500, y[-1] - 500)
    north_east = to_degrees.transform(x[-1] + 500, y[0] + 500)
    np.testing.assert_allclose([south_west, north_east], corners, atol=tolerance)
    np.testing.assert_allclose(np.diff(x), 1000)
    np.testing.assert_allclose(np.diff(y), -1000)


def test_up_to_format_version_4_the_large_grid_too_lies_on_the_sphere(tmp_path: Path) -> None:
    frame = read(
        write(tmp_path / "a", composite(np.zeros((1200, 1100)), tokens="VS 4SW   2.13.1PR E-02INT   5"))
    )
    # 470 cells west and 600 south of 9 E 51 N, which lies at -73.4622, -4208.6447 km on the sphere.
    assert frame["x"].values[0] == pytest.approx((-73.4622 - 470 + 0.5) * 1000, abs=0.1)
    assert frame["y"].values[-1] == pytest.approx((-4208.6447 - 600 + 0.5) * 1000, abs=0.1)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_files_are_read_plain_and_through_gzip_and_bzip2(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "a", pack(composite(DRY + 3)))
    assert find_reader(path) is radolan.READER
    assert read(path).values[5, 5] == pytest.approx(0.03)


def test_frames_of_a_grid_share_latitude_and_longitude(tmp_path: Path) -> None:
    first, second = (read(write(tmp_path / name, composite())) for name in "ab")
    assert np.shares_memory(first["lat"].values, second["lat"].values)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"start": "SF102050100000814"}, "product SF, not one of RX, RW"),
        ({"start": "RY322050100000814"}, "time: "),
        ({"start": "RY102050100001314"}, "time: "),
        ({"start": "RY102560100000814"}, "time: "),
        ({"tokens": "SW   2.13.1PR E-02INT   5"}, "no BY, VS in the header"),
        ({"tokens": "VS 3SW   2.13.1INT   5"}, "no PR in the header"),
        ({"tokens": "VS 3SW   2.13.1PR E-02"}, "no INT in the header"),
        ({"tokens": "VS 3SW   2.13.1PR E-02INT   0"}, "interval of 0 min"),
        ({"tokens": "VS 3SW   2.13.1PR E+99INT   5"}, "PR is not one of"),
        ({"grid": ""}, "no GP in the header"),
        ({"grid": "GP 900x 901"}, r"grid of \(900, 901\) cells"),
        ({"grid": "GP9999x9999"}, r"grid of \(9999, 9999\) cells"),
        ({"grid": "GP1100x 900"}, "bytes by the header"),
        ({"size": 1_620_000}, "1620000 bytes by the header"),
        ({"size": 9_999_999}, "9999999 bytes by the header"),
        ({"lead": "VV 005"}, "a forecast for 5 min ahead, which is no observation"),
    ],
)
def test_a_header_that_lacks_something_or_is_impossible_is_refused_by_it(
    tmp_path: Path, changed: dict[str, str], finding: str
) -> None:
    path = write(tmp_path / "strange", composite(**changed))
    for outcome in (read, lambda path: find_reader(path).read_times(path)):
        with pytest.raises(RefusedInput, match=f"strange.*{finding}"):
            outcome(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("length", [19, 60, 5000, 1_620_000])
def test_a_file_cut_short_is_refused_by_name(
    tmp_path: Path, length: int, pack: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(RefusedInput, match="cut"):
        read(write(tmp_path / "cut", pack(composite()[:length])))


@pytest.mark.parametrize("name", ["a.gz", "a.bz2"])
def test_compressed_content_that_is_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    cells = np.random.default_rng(1).integers(0, 4096, SHAPE)
    whole = {"a.gz": gzip.compress, "a.bz2": bz2.compress}[name](composite(cells))
    for length in (4, 100, len(whole) // 2, len(whole) - 8):
        with pytest.raises(RefusedInput, match=name):
            read(write(tmp_path / name, whole[:length]))


def test_bytes_behind_the_last_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="long.*not the 1620000 bytes of cells"):
        read(write(tmp_path / "long", composite() + b"\0"))


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    content = composite()[:90].replace(b"\x03", b" ") + b"x" * 5000
    with pytest.raises(RefusedInput, match="endless.*ends with 0x03"):
        read(write(tmp_path / "endless", content))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_of_a_bundle_only_the_analysis_is_a_frame_wherever_it_stands(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "bundle", pack(tar(*leads(10, 0, 5))))
    assert find_reader(path) is radolan.READER
    assert find_reader(path).read_times(path).tolist() == [
        np.datetime64("2014-08-10T20:50", "ns").astype(int)
    ]
    (frame,) = find_reader(path).read_frames(path, [0])
    assert (frame == 0).all()
    assert frame.dims == ("y", "x")


def test_a_forecast_has_all_leads_with_their_valid_times_in_the_unit_of_the_file(tmp_path: Path) -> None:
    minutes = list(ALL_LEADS)
    path = write(tmp_path / "bundle", tar(*leads(*minutes[::-1])))
    forecast = radolan.read_forecast(path)
    assert forecast.dims == ("lead_time", "y", "x")
    assert (forecast["lead_time"].values / np.timedelta64(1, "m")).tolist() == minutes
    np.testing.assert_allclose(forecast.values[:, 450, 450], np.array(minutes) / 100, rtol=1e-6)
    assert forecast["forecast_reference_time"].values == np.datetime64("2014-08-10T20:50")
    assert forecast["time"].values[-1] == np.datetime64("2014-08-10T22:50")
    assert (forecast.attrs["units"], forecast.attrs["accumulation_minutes"]) == ("mm", 5.0)
    assert forecast.dtype == np.float32


@pytest.mark.parametrize(
    ("minutes", "finding"),
    [((0, 5), "no lead of 10, 15"), ((0, 0), "lead 0 min is twice there"), ((0, 7), "a lead of 7 min")],
)
def test_a_forecast_with_leads_absent_twice_or_off_the_clock_is_refused(
    tmp_path: Path, minutes: tuple[int, ...], finding: str
) -> None:
    with pytest.raises(RefusedInput, match=f"bundle.*{finding}"):
        radolan.read_forecast(write(tmp_path / "bundle", tar(*leads(*minutes))))


def test_a_forecast_of_two_times_is_refused(tmp_path: Path) -> None:
    other = composite(start="RV102055100000814", lead="VV 005MF 00000008")
    path = write(tmp_path / "bundle", tar(*leads(0), ("other", other)))
    with pytest.raises(RefusedInput, match="bundle.*another time or grid"):
        radolan.read_forecast(path)


def test_a_bundle_without_an_analysis_is_no_observation(tmp_path: Path) -> None:
    path = write(tmp_path / "bundle", tar(*leads(5)))
    with pytest.raises(RefusedInput, match=r"bundle.*no analysis \(VV 000\)"):
        read(path)


def test_a_single_composite_is_no_forecast(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="single"):
        radolan.read_forecast(write(tmp_path / "single", composite()))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_wrong_bit_anywhere_in_a_compressed_analysis_is_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    rng = np.random.default_rng(1)
    # Hardly compressible, so that the analysis lies in the first half of the file.
    random = [rng.integers(0, 4096, SHAPE) for _ in range(2)]
    start = "RV102050100000814"
    members = [(str(n), composite(random[n], start=start, lead=f"VV 00{5 * n}")) for n in range(2)]
    whole = pack(tar(*members))
    for position in rng.integers(100, int(len(whole) * 0.48), 6):
        spoilt = bytearray(whole)
        spoilt[position] ^= 4
        with pytest.raises(RefusedInput, match="flipped"):
            read(write(tmp_path / "flipped", bytes(spoilt)))


def with_size(content: bytes, size: bytes) -> bytes:
    """A tar whose first member claims another size, its checksum put right."""
    head = bytearray(content[:512])
    head[124:136], head[148:156] = size, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content[512:]


@pytest.mark.parametrize("size", [b"00000000100\0", b"77777777777\0", b"\x80" + b"\0" * 3 + b"\x7f" * 8])
def test_a_tar_that_lies_about_the_size_of_a_member_is_refused(tmp_path: Path, size: bytes) -> None:
    content = tar(*leads(0))
    assert read(write(tmp_path / "true", with_size(content, content[124:136]))).values[0, 0] == 0
    began = time.monotonic()
    with pytest.raises(RefusedInput, match="lies"):
        read(write(tmp_path / "lies", with_size(content, size)))
    assert time.monotonic() - began < 5


def test_a_small_file_that_swells_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 20 MB of zeros, said to be the extended header of the next member, before the leads.
    monkeypatch.setattr(radolan, "LARGEST_BUNDLE", 2**22)
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 20_000_000
    content = header.tobuf(tarfile.USTAR_FORMAT) + bytes(20_000_256) + tar(*leads(0))
    path = write(tmp_path / "swells", bz2.compress(content))
    assert path.stat().st_size < 2000
    with pytest.raises(RefusedInput, match="swells.*more than a bundle"):
        radolan.read(path)


def test_a_link_in_a_tar_is_refused_and_a_folder_passed_over(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as bundle:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            bundle.addfile(member)
    with pytest.raises(RefusedInput, match="tar.*'link' in the tar is no plain file"):
        radolan.read(write(tmp_path / "tar", stream.getvalue()))


def test_wrong_bytes_in_header_or_tar_are_read_or_refused_but_never_an_unnamed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    outcomes = []
    for content, where in ((composite(), 130), (tar(*leads(0)), 650)):
        spoilt = np.frombuffer(content, dtype=np.uint8)
        for _ in range(150):
            flipped = spoilt.copy()
            flipped[rng.integers(where, size=2)] = rng.integers(256, size=2)
            path = write(tmp_path / "flipped", flipped.tobytes())
            try:
                outcomes.append(radolan.read(path).attrs["units"])
            except RefusedInput as refusal:
                outcomes.append("refused" if "flipped" in str(refusal) else str(refusal))
    assert set(outcomes) == {"mm", "refused"}


@pytest.mark.parametrize(
    "content", [b"BZh9 no bzip2 at all", bz2.compress(b"something else"), tar(("a", b"b"))]
)
def test_other_bzip2_and_tars_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RefusedInput, match="other"):
        find_reader(write(tmp_path / "other", content))


@pytest.mark.radar
def test_the_german_summer_night_has_its_known_times_mask_and_wet_share(radar_data: Path) -> None:
    files = sorted((radar_data / YW).iterdir())
    frames = [read(path) for path in files]
    times = np.array([frame["time"].values for frame in frames])
    assert times[0] == np.datetime64("2017-08-16T00:55")
    assert (np.diff(times) == np.timedelta64(5, "m")).all()
    assert {frame.attrs["accumulation_minutes"] for frame in frames} == {5.0}
    rate = np.stack([to_rain_rate(frame).values for frame in frames])
    assert rate.shape == (12, 1100, 900)
    assert (rate >= 0.1).sum() / np.isfinite(rate).sum() == pytest.approx(0.146, abs=0.005)
    # 11.91 mm in 5 minutes, at 01:00
    assert np.nanmax(rate) == pytest.approx(142.92)
    # 38.45 % have no data in every frame, some more are clutter.
    assert np.isnan(rate).all(axis=0).mean() >= 0.3845
    assert np.isnan(rate).mean() == pytest.approx(0.3885, abs=1e-3)


@pytest.mark.radar
def test_the_three_products_of_one_evening_agree(radar_data: Path) -> None:
    hour, dbz, rate = (
        read(next((radar_data / MISC).glob(f"raa01-{product}_*"))) for product in ("rw", "rx", "ry")
    )
    assert {frame["time"].values for frame in (hour, dbz, rate)} == {np.datetime64("2014-08-10T20:50")}
    assert (hour.attrs["accumulation_minutes"], rate.attrs["accumulation_minutes"]) == (60.0, 5.0)
    assert hour.max() == pytest.approx(38.6)
    assert rate.max() == pytest.approx(10.79)
    assert dbz.max() == 178 / 2 - 32.5
    # 0.1 mm in 5 minutes, 1.2 mm/h, is 24 dBZ by Z = 200 R^1.6: both see the same cells, and not upside down.
    wet, echo = (rate > 0.1).values, (dbz > 24).values
    both = np.isfinite(rate.values) & ~np.isnan(dbz.values)
    assert np.corrcoef(wet[both], echo[both])[0, 1] > 0.9
    assert np.corrcoef(wet.ravel(), echo[::-1].ravel())[0, 1] < 0.3


@pytest.mark.radar
def test_dwds_own_nowcast_is_read_with_all_its_leads_and_the_analysis_alone_as_a_frame(
    radar_data: Path,
) -> None:
    path = radar_data / BUNDLE
    frame, forecast = read(path), radolan.read_forecast(path)
    assert frame["time"].values == np.datetime64("2022-10-18T07:00")
    assert forecast.shape == (25, 1200, 1100)
    np.testing.assert_array_equal(forecast.isel(lead_time=0), frame)
    north_west = pyproj.Transformer.from_crs(crs_of(frame), 4326, always_xy=True).transform(
        frame["x"].values[0] - 500, frame["y"].values[0] + 500
    )
    np.testing.assert_allclose(north_west, (1.463301510, 55.86208711), atol=1e-8)
    # Rain moves: the analysis resembles the next lead more than the last.
    start, near, far = (np.nan_to_num(forecast.isel(lead_time=n).values).ravel() for n in (0, 1, 24))
    assert np.corrcoef(start, near)[0, 1] > np.corrcoef(start, far)[0, 1]


# Degrees north and east of DWD's weather radars.
RADARS = [
    (51.124, 13.768), (54.004, 10.047), (54.175, 12.058), (49.541, 12.403), (51.406, 6.967), (47.874, 8.004),
    (51.311, 8.802), (52.460, 9.694), (48.175, 12.102), (48.042, 10.219), (50.500, 11.135), (50.110, 6.548),
    (49.985, 8.713), (52.648, 13.858), (48.586, 9.783), (52.160, 11.176), (53.339, 7.024),
]  # fmt: skip


@pytest.mark.radar
def test_what_is_observed_lies_within_150_km_of_a_german_radar(radar_data: Path) -> None:
    frame = read(radar_data / BUNDLE)[::10, ::10]
    observed = np.isfinite(frame.values)
    near = np.zeros_like(observed)
    for latitude, longitude in RADARS:
        # Flat enough for 150 km: a degree of latitude has 111.2 km.
        east = (frame["lon"].values - longitude) * np.cos(np.radians((frame["lat"].values + latitude) / 2))
        near |= np.hypot(frame["lat"].values - latitude, east) * 111.2 < 150
    assert (observed == near).mean() > 0.98
    assert (observed[::-1] == near).mean() < 0.92
