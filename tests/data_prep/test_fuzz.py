"""Damaged files: each is refused by name, or read as far as its format cannot tell."""

import faulthandler
import gzip
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_prep.pipeline import Recipe, prepare, prepare_arrays
from data_prep.readers import Reader, find_reader, get_reader
from data_prep.schema import RefusedInput, open_frames

LONGEST = 30
"""Seconds after which a reader is taken to hang."""
EDGE = 2048
"""Bytes at either end of a file, of headers and indices, that are damaged as often as all between."""
TIGHT = settings(
    derandomize=True,
    deadline=None,
    database=None,
    # The damage is small as it comes, and to shrink a hang would take minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
RECIPE = Recipe(sampling=None, time_step_minutes=5)


class Hang(BaseException):
    """What no reader catches and takes for a damaged file."""


class Damage(NamedTuple):
    """What is done to a file: it is cut to a length, and some of its bytes are overwritten."""

    file: str
    length: int
    patches: tuple[tuple[int, bytes], ...]

    def apply(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for place, patch in self.patches:
            damaged[place : place + len(patch)] = patch
        return bytes(damaged[: self.length])


class Sample(NamedTuple):
    """A file (or a folder of files, Zarr) to be damaged.

    Attributes:
        path: What the reader is given.
        reader: Its name.
        contents: Files that may be damaged, with their content.
        covered: Whether a checksum covers the frame against some damage of some content.
        number: Of the frame that is read.
    """

    path: Path
    reader: str
    contents: dict[str, bytes]
    covered: Callable[[bytes, Damage], bool]
    number: int = 0


def always(_content: bytes, _damage: Damage) -> bool:
    return True


def never(_content: bytes, _damage: Damage) -> bool:
    return False


def in_picture(content: bytes, damage: Damage) -> bool:
    """Of GRIB only the PNG inside has checksums: not the header before it."""
    start = content.index(b"\x89PNG")
    return min((damage.length, *(place for place, _ in damage.patches))) >= start


def places(size: int) -> st.SearchStrategy[int]:
    edge = min(size, EDGE)
    return st.integers(0, edge - 1) | st.integers(size - edge, size - 1) | st.integers(0, size - 1)


def damages(contents: dict[str, bytes]) -> st.SearchStrategy[Damage]:
    """1 to 8 wrong bytes, a run of zeros or of anything, or an end too early."""

    def of_file(file: str) -> st.SearchStrategy[Damage]:
        size = len(contents[file])
        flips = st.lists(st.tuples(places(size), st.binary(min_size=1, max_size=1)), min_size=1, max_size=8)
        run = st.integers(1, 4096).map(bytes) | st.binary(min_size=2, max_size=256)
        runs = st.tuples(places(size), run).map(lambda patch: [patch])
        whole = (flips | runs).map(lambda patches: Damage(file, size, tuple(patches)))
        return whole | st.integers(0, size - 1).map(lambda length: Damage(file, length, ()))

    return st.sampled_from([name for name in contents if contents[name]]).flatmap(of_file)


@contextmanager
def without_hanging(seconds: int = LONGEST) -> Iterator[None]:
    """Stops what runs longer; where C code does not let it be stopped, the process ends with its stack."""

    def stop(*_: Any) -> None:
        raise Hang(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_or_refuse(read: Callable[[], Any], path: Path) -> Any:
    """What is read, nothing where the file is refused by name; any other error is let through."""
    try:
        return read()
    except RefusedInput as error:
        refusal = str(error)
    assert path.name in refusal
    return None


def frame_of(reader: Reader, sample: Sample) -> xr.DataArray:
    (frame,) = reader.read_frames(sample.path, [sample.number])
    return frame


def check(sample: Sample, whole: xr.DataArray, damage: Damage) -> None:
    """Damage a file, read it by its content and by the reader's name, and mend it."""
    file = sample.path / damage.file if sample.path.is_dir() else sample.path
    file.write_bytes(damage.apply(sample.contents[damage.file]))
    try:
        with without_hanging():
            found = read_or_refuse(lambda: find_reader(sample.path), sample.path)
            for reader in {r.name: r for r in (found, get_reader(sample.reader)) if r}.values():
                check_reader(reader, sample, whole, damage)
    finally:
        file.write_bytes(sample.contents[damage.file])


def check_reader(reader: Reader, sample: Sample, whole: xr.DataArray, damage: Damage) -> None:
    times = read_or_refuse(lambda: reader.read_times(sample.path), sample.path)
    assert times is None or (
        times.ndim == 1 and times.dtype == "datetime64[ns]" and not np.isnat(times).any()
    )
    frame = read_or_refuse(lambda: frame_of(reader, sample), sample.path)
    if frame is None:
        return
    assert frame.shape == whole.shape
    assert frame.dtype == np.float32
    # No echo is -inf dBZ; nothing else is infinite.
    assert not np.isposinf(frame.values).any()
    assert frame.attrs["units"] == "dBZ" or not np.isneginf(frame.values).any()
    # Without a checksum, too, a file that ends too early can be told.
    if not damage.patches or sample.covered(sample.contents[damage.file], damage):
        np.testing.assert_array_equal(frame.values, whole.values)
        for name in ("time", "y", "x"):
            np.testing.assert_array_equal(frame[name].values, whole[name].values)
        assert frame.attrs == whole.attrs


def fuzz(sample: Sample, examples: int, **changed: Any) -> None:
    """Read a file with many kinds of damage."""
    assert find_reader(sample.path).name == sample.reader
    whole = frame_of(get_reader(sample.reader), sample)
    assert np.isfinite(whole.values).any()

    @settings(TIGHT, max_examples=examples, **changed)
    @given(damages(sample.contents))
    def run(damage: Damage) -> None:
        check(sample, whole, damage)

    run()


def single(path: Path, reader: str, covered: Callable[..., bool] = never, number: int = 0) -> Sample:
    return Sample(path, reader, {path.name: path.read_bytes()}, covered, number)


REAL: dict[str, tuple[int, str, str, Callable[..., bool], int]] = {
    "KNMI": (20, "knmi/2010/08/RAD_NL25_RAP_5min_201008260000.h5", "knmi_hdf5", never, 0),
    "OPERA": (8, "opera/20180824/T_PAAH21_C_EUOC_20180824180000.hdf", "odim_hdf5", never, 0),
    "FMI PGM": (
        15, "fmi/pgm/20170509/201705091225_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz", "fmi_pgm", always, 0
    ),
    "FMI GeoTIFF": (3, "fmi/geotiff/20170509/201705091045_FINUTM.tif", "fmi_geotiff", never, 0),
    "MeteoSwiss": (20, "mch/20150515/AQC151351545F_00005.801.gif", "mch_gif", never, 0),
    "RADOLAN YW": (
        15, "dwd/radolan_yw/raa01-yw2017.002_10000-1708160055-dwd---bin.gz", "radolan", always, 0
    ),
    "RADOLAN RX": (
        15, "dwd/radolan_misc/raa01-rx_10000-1408102050-dwd---bin.gz", "radolan", always, 0
    ),
    "RADOLAN RW": (
        10, "dwd/radolan_misc/raa01-rw_10000-1408102050-dwd---bin.gz", "radolan", always, 0
    ),
    "RADOLAN RY": (
        10, "dwd/radolan_misc/raa01-ry_10000-1408102050-dwd---bin.gz", "radolan", always, 0
    ),
    "RADOLAN RV": (15, "dwd/radolan_misc/DE1200_RV2210180700.tar.bz2", "radolan", always, 0),
    "Nimrod": (20, "metoffice/input_preciprate.nimrod", "nimrod", never, 0),
    "MRMS": (3, "mrms/2019/06/10/PrecipRate_00.00_20190610-000000.grib2", "mrms_grib2", in_picture, 0),
    "MeteoNet": (15, "meteonet/rainfall_NW_2016_08.3.npz", "meteonet_npz", always, 3),
    "BoM": (20, "bom/prcp-c10/66/2020/10/31/66_20201031_000000.prcp-c10.nc", "cf_grid", never, 0),
    "BoM, older": (
        15, "bom/prcp-cscn/2/2018/06/16/2_20180616_100000.prcp-cscn.nc", "cf_grid", never, 0
    ),
    "Met Office": (15, "metoffice/kgo_preciprate.nc", "cf_grid", never, 0),
    "Met Office, UK": (
        15, "metoffice/20190101T0630Z-u1096_ng_radar_precip_ratecomposite_2km.nc", "cf_grid", never, 0
    ),
    "OpenMRG": (15, "openmrg/openMRG_Radar_180minutes.nc", "cf_grid", never, 2),
    "OpenMRG, example": (15, "openmrg/openmrg_rad_5min_2h.nc", "cf_grid", never, 2),
}  # fmt: skip
"""Examples, file, reader, what a checksum covers, number of the frame."""


def real(name: str, radar_data: Path, folder: Path) -> Sample:
    _, file, reader, covered, number = REAL[name]
    # Copied without its mode: the originals are read-only.
    path = Path(shutil.copyfile(radar_data / file, folder / Path(file).name))
    return single(path, reader, covered, number)


def small_tiff(folder: Path) -> Sample:
    from test_reader_fmi_geotiff import write

    return single(write(folder / "small.tif", np.arange(40 * 50).reshape(40, 50) % 256), "fmi_geotiff")


def small_grib(folder: Path) -> Sample:
    from test_reader_mrms_grib2 import grib, write

    rates = np.arange(60 * 70).reshape(60, 70) / 10 - 3
    return single(write(folder / "small.grib2", grib(rates)), "mrms_grib2", in_picture)


def small_tfrecord(folder: Path) -> Sample:
    from test_reader_deepmind_tfrecord import features, ramp, write

    path = write(folder / "small.tfrecord", *[features(ramp(n, (4, 16, 16))) for n in (0, 500)])
    return single(path, "deepmind_tfrecord", always, 5)


def small_gzipped_tfrecord(folder: Path) -> Sample:
    path = small_tfrecord(folder).path
    path.write_bytes(gzip.compress(path.read_bytes()))
    return single(path, "deepmind_tfrecord", always, 5)


def small_store(folder: Path, rain: xr.DataArray) -> Sample:
    path = folder / "small.zarr"
    prepare_arrays(iter([rain]), path, RECIPE)
    files = {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return Sample(path, "cf_grid", files, never, 2)


SMALL = {
    "FMI GeoTIFF": (20, small_tiff),
    "MRMS": (20, small_grib),
    "DeepMind": (20, small_tfrecord),
    "DeepMind, gzip": (15, small_gzipped_tfrecord),
}
"""Examples and what makes the file."""


@pytest.mark.radar
@pytest.mark.parametrize("name", REAL)
def test_a_damaged_real_file_is_refused_by_name_or_read_as_its_format_allows(
    name: str, radar_data: Path, tmp_path: Path
) -> None:
    fuzz(real(name, radar_data, tmp_path), REAL[name][0])


@pytest.mark.parametrize("name", SMALL)
def test_a_damaged_small_file_is_refused_by_name_or_read_as_its_format_allows(
    name: str, tmp_path: Path
) -> None:
    examples, make = SMALL[name]
    fuzz(make(tmp_path), examples)


def test_a_damaged_store_is_refused_by_name_or_read_as_its_format_allows(
    make_rain: Any, tmp_path: Path
) -> None:
    fuzz(small_store(tmp_path, make_rain(8, 32)), 30)


def test_a_time_beyond_the_reach_of_nanoseconds_is_refused_and_not_folded_into_this_century(
    tmp_path: Path,
) -> None:
    from test_reader_fmi_geotiff import metadata, write
    from test_reader_mrms_grib2 import grib

    # numpy folds 2910 into 1740, and 20190 into 2069.
    time = ('format="YYYYMMDDhhmm"', "291005091045")
    tiff = write(tmp_path / "a.tif", np.ones((4, 4)), metadata(Observation_time=time))
    message = tmp_path / "a.grib2"
    message.write_bytes(grib(np.ones((4, 4)), time=(20190, 6, 10, 0, 2, 30)))
    for path in (tiff, message):
        with pytest.raises(RefusedInput, match=path.name):
            find_reader(path).read_times(path)


@pytest.mark.radar
def test_damaged_files_never_stop_a_preparation_and_each_is_refused_by_name_or_kept(
    radar_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    originals = sorted((radar_data / "knmi").rglob("*.h5"))[:8]
    contents = {path.name: path.read_bytes() for path in originals}
    intact = set(list(contents)[::2])
    to_damage = {name: content for name, content in contents.items() if name not in intact}

    @settings(TIGHT, max_examples=4)
    @given(st.tuples(*(damages({name: to_damage[name]}) for name in to_damage)))
    def run(some: tuple[Damage, ...]) -> None:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        for damage in some:
            (folder / damage.file).write_bytes(damage.apply(contents[damage.file]))
        shutil.rmtree(tmp_path / "store.zarr", ignore_errors=True)
        with without_hanging():
            report = prepare(folder, tmp_path / "store.zarr", RECIPE, threads=2)
        kept = set(open_frames(tmp_path / "store.zarr")["source"].values.tolist())
        refused = {Path(refusal.file).name for refusal in report.refused}
        assert intact <= kept
        assert kept | refused == set(contents)
        assert not any("the reader failed" in refusal.reason for refusal in report.refused)

    run()
