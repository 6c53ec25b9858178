import datetime
import gzip
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.rain_rate import to_rain_rate
from data_prep.readers import meteonet_npz
from data_prep.readers.meteonet_npz import read_frames, read_times
from data_prep.schema import RefusedInput

NW, SE = (565, 784), (515, 784)
TIMES = [datetime.datetime(2016, 8, 21, 0, 10), datetime.datetime(2016, 8, 21, 0, 15)]
RAIN, REFLECTIVITY, QUALITY = (
    "meteonet/rainfall_NW_2016_08.3.npz", "meteonet/reflectivity_old_NW_2016_08.3.npz",
    "meteonet/rainfall_mean_quality-code_NW_2016_08.3.npz",
)  # fmt: skip


def maps(*rows: list[int], shape: tuple[int, int] = NW, elsewhere: int = -1) -> np.ndarray:
    """Maps that begin with the given pixels in their north-west corner."""
    data = np.full((len(rows), *shape), elsewhere, dtype=np.int16)
    for pixels, row in zip(data, rows, strict=True):
        pixels[0, : len(row)] = row
    return data


def write(path: Path, data: np.ndarray, dates: Any = TIMES, **others: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, data=data, dates=np.array(dates[: len(data)], dtype=object), **others)
    return path


def rewrite(path: Path, name: str, content: bytes) -> Path:
    """Put other bytes in the place of one array of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w") as archive:
        for member, bytes_ in members.items():
            archive.writestr(member, bytes_)
    return path


def npy_of_objects(pickled: bytes, count: int = 1) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (count,)})
    return header.getvalue() + pickled


def test_rainfall_becomes_millimetres_in_5_minutes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", maps([0, 1, -1, 245]))
    (frame,) = read_frames(path, [0])
    np.testing.assert_allclose(frame.values[0, :4], [0, 0.01, np.nan, 2.45], rtol=1e-6)
    assert frame.dtype == np.float32
    assert (frame.attrs["units"], frame.attrs["accumulation_minutes"]) == ("mm", 5.0)
    # 0.01 mm in 5 minutes is 0.12 mm/h.
    assert to_rain_rate(frame).values[0, 1] == pytest.approx(0.12)


def test_reflectivity_becomes_dbz_with_what_is_below_8_dbz_dry(tmp_path: Path) -> None:
    path = write(tmp_path / "a", maps([0, 8, 16, 20, 70, 255], elsewhere=255))
    (frame,) = read_frames(path, [0])
    np.testing.assert_array_equal(frame.values[0, :6], [-np.inf, 8, 16, 20, 70, np.nan])
    assert frame.attrs["units"] == "dBZ"


def test_what_a_file_holds_is_found_by_its_numbers_and_not_by_its_name(tmp_path: Path) -> None:
    rain = write(tmp_path / "reflectivity_old_SE_2016_08.3.npz", maps([20, 0]))
    echo = write(tmp_path / "rainfall_SE_2016_08.3.npz", maps([20, 0], elsewhere=255))
    assert next(read_frames(rain, [0])).attrs["units"] == "mm"
    assert next(read_frames(echo, [0])).attrs["units"] == "dBZ"


def test_a_first_map_without_gaps_leaves_the_question_to_the_next(tmp_path: Path) -> None:
    data = maps([20, 0], [0, 0])
    data[0] = 0
    assert next(read_frames(write(tmp_path / "a", data), [0])).attrs["units"] == "mm"
    data[:] = 20
    with pytest.raises(RefusedInput, match="undecided.*no frame has cells without data"):
        next(read_frames(write(tmp_path / "undecided", data), [0]))


@pytest.mark.parametrize(
    ("shape", "first", "last"),
    [(NW, (51.891, -5.837), (46.251, 1.993)), (SE, (46.245, 2.005), (41.105, 9.835))],
)
def test_the_region_is_known_by_its_shape(tmp_path: Path, shape: Any, first: Any, last: Any) -> None:
    (frame,) = read_frames(write(tmp_path / "rainfall_XX", maps([0], shape=shape)), [0])
    assert frame.shape == shape
    assert (frame["lat"].values[0, 0], frame["lon"].values[0, 0]) == pytest.approx(first, abs=1e-9)
    assert (frame["lat"].values[-1, -1], frame["lon"].values[-1, -1]) == pytest.approx(last, abs=1e-9)
    assert frame["x"].attrs["units"] == "degrees_east"


def test_frames_come_in_the_order_asked_for_with_their_own_times(tmp_path: Path) -> None:
    dates = [datetime.datetime(2016, 8, 21, 0, 5 * n) for n in range(4)]
    path = write(tmp_path / "a", maps([0], [10], [20], [30]), dates, miss_dates=np.zeros(0))
    assert list(read_times(path)) == [np.datetime64(date) for date in dates]
    frames = list(read_frames(path, [2, 0, 3]))
    np.testing.assert_allclose([frame.values[0, 0] for frame in frames], [0.2, 0, 0.3], rtol=1e-6)
    assert [frame["time"].values for frame in frames] == [np.datetime64(dates[n], "ns") for n in (2, 0, 3)]
    assert np.shares_memory(frames[0]["lat"].values, frames[1]["lat"].values)
    with pytest.raises(RefusedInput, match=r"4 frame\(s\), none of number 4"):
        next(read_frames(path, [4]))


def test_the_format_is_found_by_content_with_or_without_gzip(tmp_path: Path) -> None:
    plain = write(tmp_path / "misleading.png", maps([3]))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    head = plain.read_bytes()[:4096]
    assert meteonet_npz.detect(head, plain)
    assert meteonet_npz.detect(head, packed)
    assert next(read_frames(plain, [0])).identical(next(read_frames(packed, [0])))
    np.savez(tmp_path / "coords.npz", lats=np.zeros(3), lons=np.zeros(3))
    assert not meteonet_npz.detect((tmp_path / "coords.npz").read_bytes(), tmp_path / "coords.npz")
    (tmp_path / "other.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    assert not meteonet_npz.detect(b"PK\x03\x04" + bytes(100), tmp_path / "other.zip")
    assert not meteonet_npz.detect(b"\x89HDF", plain)


def test_the_quality_of_the_day_comes_with_the_rainfall_of_that_day(tmp_path: Path) -> None:
    day, next_day = datetime.date(2016, 8, 21), datetime.date(2016, 8, 22)
    quality = maps([100, 0, 37, 255], [50], elsewhere=255)
    write(tmp_path / "rainfall_mean_quality-code_NW.npz", quality, [day, next_day])
    dates = [TIMES[0], datetime.datetime(2016, 8, 23, 0, 5)]
    path = write(tmp_path / "rainfall_NW.npz", maps([1], [2]), dates)
    first, second = read_frames(path, [0, 1])
    np.testing.assert_allclose(first["quality_index"].values[0, :4], [1, 0, 0.37, np.nan], rtol=1e-6)
    assert first["quality_index"].dims == ("y", "x")
    assert "quality_index" not in second.coords
    south_east = write(tmp_path / "rainfall_SE.npz", maps([1], shape=SE))
    assert "quality_index" not in next(read_frames(south_east, [0])).coords
    echo = write(tmp_path / "reflectivity_old_NW.npz", maps([8], elsewhere=255))
    assert "quality_index" not in next(read_frames(echo, [0])).coords


def test_a_file_of_daily_quality_is_refused_as_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "daily", maps([100], elsewhere=255), [datetime.date(2016, 8, 21)])
    with pytest.raises(RefusedInput, match="daily.*quality code"):
        read_times(path)


def test_a_quality_above_100_percent_is_refused_by_its_own_name(tmp_path: Path) -> None:
    write(tmp_path / "rainfall_mean_quality.npz", maps([101]), [datetime.date(2016, 8, 21)])
    with pytest.raises(RefusedInput, match="rainfall_mean_quality"):
        next(read_frames(write(tmp_path / "rainfall.npz", maps([1])), [0]))


class Malicious:
    """Writes a file when it is unpickled in good faith."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_anything_else_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "written"
    hostile = pickle.dumps(Malicious(target), protocol=protocol)
    path = rewrite(write(tmp_path / "hostile", maps([1])), "dates.npy", npy_of_objects(hostile))
    with pytest.raises(RefusedInput, match=r"hostile.*refer to \w+\.open"):
        read_times(path)
    array = np.empty(1, dtype=object)
    array[0] = Malicious(target)
    rewrite(path, "dates.npy", npy_of_objects(pickle.dumps(array, protocol=protocol)))
    with pytest.raises(RefusedInput, match=r"hostile.*refer to \w+\.open"):
        read_times(path)
    assert not target.exists()
    pickle.loads(hostile).close()
    assert target.exists()


@pytest.mark.parametrize(
    "pickled",
    [b"", b".", b"N.", b"I1\n.", b"]\x94.", b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(["2016-08-21"]),
     pickle.dumps(np.array([1, 2], dtype=object)), pickle.dumps(np.array([1.0])), pickle.dumps({1: 2}),
     b"r\xff\xff\xff\x7f.", b"Np2000000000\n.", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
     b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fN.", b"(" * 90_000 + b"t" * 90_000 + b".",
     pickle.dumps(np.array([datetime.datetime(1, 1, 1)], dtype=object))],
)  # fmt: skip
def test_a_pickle_of_anything_but_dates_is_refused(tmp_path: Path, pickled: bytes) -> None:
    path = rewrite(write(tmp_path / "strange", maps([1])), "dates.npy", npy_of_objects(pickled))
    with pytest.raises(RefusedInput, match="strange"):
        read_times(path)


@pytest.mark.parametrize("protocol", range(6))
def test_dates_are_read_from_every_protocol_of_pickle(tmp_path: Path, protocol: int) -> None:
    pickled = pickle.dumps(np.array(TIMES[:1], dtype=object), protocol=protocol)
    path = rewrite(write(tmp_path / "a", maps([1])), "dates.npy", npy_of_objects(pickled))
    assert read_times(path) == np.datetime64(TIMES[0])


@pytest.mark.parametrize(
    ("data", "finding"),
    [(maps([1])[:, :5], "not maps of"), (maps([1])[:, 0], "not maps of"),
     (maps([1]).astype(float), "not maps of"),
     (maps([-2]), "values down to -2"), (maps([9, 255], elsewhere=255), "without data"),
     (maps([256, 255], elsewhere=255), "without data"), (np.asfortranarray(maps([1])), "columns first")],
)  # fmt: skip
def test_values_or_shapes_of_something_else_are_refused(
    tmp_path: Path, data: np.ndarray, finding: str
) -> None:
    with pytest.raises(RefusedInput, match=f"strange.*{finding}"):
        next(read_frames(write(tmp_path / "strange", data), [0]))


def test_a_later_map_of_something_else_is_refused_too(tmp_path: Path) -> None:
    path = write(tmp_path / "strange", maps([8], [9], elsewhere=255))
    with pytest.raises(RefusedInput, match="strange.*no class of reflectivity"):
        list(read_frames(path, [0, 1]))


def test_fewer_dates_than_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="1 dates of 2 maps"):
        read_times(write(tmp_path / "a", maps([1], [2]), TIMES[:1]))


def test_a_huge_shape_in_the_header_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    header = io.BytesIO()
    described = {"descr": "<i2", "fortran_order": False, "shape": (10**12, *NW)}
    np.lib.format.write_array_header_1_0(header, described)
    path = rewrite(write(tmp_path / "huge", maps([1])), "data.npy", header.getvalue() + bytes(100))
    for count in (1, 10**12):
        dates = npy_of_objects(pickle.dumps(np.array(TIMES[:1], dtype=object)), count)
        rewrite(path, "dates.npy", dates)
        with pytest.raises(RefusedInput, match="huge"):
            next(read_frames(path, [0]))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, share: float) -> None:
    content = write(tmp_path / "whole", maps([1])).read_bytes()
    for name, data in (("plain", content), ("packed", gzip.compress(content))):
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(RefusedInput, match=f"cut-{name}"):
            next(read_frames(cut, [0]))
    if share > 0.1:
        with pytest.raises(RefusedInput, match="cut-plain"):
            meteonet_npz.detect(content[:4096], tmp_path / "cut-plain")


def test_wrong_bytes_are_read_or_refused_but_never_an_unnamed_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = rewrite(write(tmp_path / "whole", maps([1])), "unread", b"")
    content = np.fromfile(whole, dtype=np.uint8)
    # The headers, the dates and the directory: the pixels, not compressed here, are most of the file.
    marked = [*range(200), *range(content.size - 900, content.size)]
    outcomes = []
    for _ in range(300):
        spoilt = content.copy()
        spoilt[rng.choice(marked, size=2)] = rng.integers(256, size=2)
        (tmp_path / "flipped").write_bytes(spoilt.tobytes())
        try:
            outcomes.append(next(read_frames(tmp_path / "flipped", [0])).attrs["units"])
        except RefusedInput as refusal:
            outcomes.append("refused" if "flipped" in str(refusal) else str(refusal))
    assert set(outcomes) == {"mm", "refused"}


@pytest.mark.radar
@pytest.mark.parametrize("region", ["NW", "SE"])
def test_the_coordinates_are_those_of_the_provider(radar_data: Path, region: str) -> None:
    (frame,) = read_frames(radar_data / RAIN.replace("NW", region), [0])
    with np.load(radar_data / f"meteonet/radar_coords_{region}.npz") as coordinates:
        np.testing.assert_allclose(frame["lat"].values, coordinates["lats"], atol=1e-9)
        np.testing.assert_allclose(frame["lon"].values, coordinates["lons"], atol=1e-9)


@pytest.mark.radar
@pytest.mark.parametrize(("region", "wet", "largest"), [("NW", 0.00681, 30.48), ("SE", 0.01741, 60.0)])
def test_the_french_rain_has_its_known_times_wet_share_and_maximum(
    radar_data: Path, region: str, wet: float, largest: float
) -> None:
    path = radar_data / RAIN.replace("NW", region)
    times = read_times(path)
    assert times[0] == np.datetime64("2016-08-21T00:10")
    assert times[-1] == np.datetime64("2016-08-31T00:30")
    rate = np.stack([to_rain_rate(frame).values for frame in read_frames(path, range(45))])
    assert rate.shape[0] == len(times) == 45
    assert (rate >= 0.1).sum() / np.isfinite(rate).sum() == pytest.approx(wet, abs=1e-5)
    assert np.nanmax(rate) == pytest.approx(largest, abs=1e-3)


@pytest.mark.radar
def test_the_french_reflectivity_has_its_known_mask_and_classes(radar_data: Path) -> None:
    frames = [frame.values for frame in read_frames(radar_data / REFLECTIVITY, range(29))]
    assert np.isnan(frames).mean() == pytest.approx(0.13533, abs=1e-5)
    assert np.nanmax(frames) == 52
    assert np.sort(np.unique(frames))[:4].tolist() == [-np.inf, 8, 16, 20]


@pytest.mark.radar
def test_the_rainfall_of_the_first_days_has_the_quality_of_its_day(radar_data: Path) -> None:
    frames = list(read_frames(radar_data / RAIN, range(9)))
    # Seven maps are of 21 August; the quality there is ends on the 23rd, the next rainfall is of the 28th.
    assert ["quality_index" in frame.coords for frame in frames] == [True] * 7 + [False] * 2
    with np.load(radar_data / QUALITY) as quality:
        first = quality["data"][0]
    known = first != 255
    index = frames[0]["quality_index"].values
    np.testing.assert_allclose(index[known], first[known] / 100, rtol=1e-6)
    assert np.isnan(index[~known]).all()


@pytest.mark.radar
def test_rain_follows_the_reflectivity_of_the_five_minutes_before_its_date(radar_data: Path) -> None:
    """What the documentation leaves open: a date is the end of its accumulation."""
    rain, echo = radar_data / RAIN, radar_data / REFLECTIVITY
    rain_times, echo_times = read_times(rain).tolist(), read_times(echo).tolist()
    (now,) = read_frames(rain, [rain_times.index(np.datetime64("2016-08-21T00:55", "ns").item())])
    likeness = {}
    for clock in ("00:50", "01:00"):
        number = echo_times.index(np.datetime64(f"2016-08-21T{clock}", "ns").item())
        rate = to_rain_rate(next(read_frames(echo, [number]))).values
        both = np.isfinite(rate) & np.isfinite(now.values)
        likeness[clock] = np.corrcoef(np.log1p(rate[both]), np.log1p(now.values[both] * 12))[0, 1]
    assert likeness["00:50"] > likeness["01:00"] + 0.05
