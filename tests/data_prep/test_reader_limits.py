"""Files that announce or hold more than any radar does: refused in one line, before any memory is taken."""

import bz2
import gzip
import io
import os
import pickle
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import test_reader_deepmind_tfrecord
import test_reader_mrms_grib2
import test_reader_nimrod
from odim_files import write_odim
from test_reader_cf_grid import dataset, save
from test_reader_meteonet_npz import maps, npy_of_objects
from test_reader_meteonet_npz import write as write_meteonet
from test_reader_odim_hdf5 import add
from test_reader_radolan import composite, leads, tar
from test_readers import fmi_bytes, write_knmi

from data_prep.readers import BUILT_IN, find_reader, get_reader, limits
from data_prep.readers.cf_source import open_source
from data_prep.schema import RefusedInput

VAST = 200_000
"""Rows and columns that no radar has: 160 GB of float32."""
FLAT = 150 * 2**20
"""Bytes by which memory may grow while a file is refused, of which its search for damage takes 64 MB."""
MEBIBYTE = bytes(2**20)


def in_status(field: str) -> int:
    """Bytes of memory, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@contextmanager
def flat_memory() -> Iterator[None]:
    """The memory of this process does not grow, not even for a moment, by more than `FLAT`."""
    try:
        # Forgets the peak of what ran before.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the peak of this process's memory cannot be reset here (/proc/self/clear_refs)")
    before = in_status("VmRSS")
    yield
    assert in_status("VmHWM") - before < FLAT


def refused(path: Path, reader: str, match: str = "") -> None:
    """A reader refuses to read a file, by name, in one line and with flat memory."""
    with flat_memory(), pytest.raises(RefusedInput, match=f"{path.name}.*{match}") as refusal:
        list(get_reader(reader).read_frames(path, [0]))
    assert "\n" not in str(refusal.value)


def bomb(mebibytes: int, pack: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    """Zeros, compressed one mebibyte at a time: gzip and bzip2 read such parts on end."""
    return pack(MEBIBYTE) * mebibytes


def deflated(mebibytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(MEBIBYTE) for _ in range(mebibytes)), packer.flush()])


def vast_knmi(path: Path) -> None:
    write_knmi(path, np.zeros((2, 3)), geographic__geo_number_rows=VAST, geographic__geo_number_columns=VAST)
    replace_image(path, "image1/image_data", (VAST, VAST), chunks=(100, 100))


def replace_image(path: Path, name: str, shape: tuple[int, ...], **options: Any) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, shape, "u2", **options)


def vast_odim(path: Path) -> None:
    write_odim(path, [[1.0]], where__xsize=VAST, where__ysize=VAST)


def vast_quality(path: Path) -> None:
    add(write_odim(path, [[1.0]]), "dataset1/data1/quality1", [[1.0]], what__quantity="QIND")
    replace_image(path, "dataset1/data1/quality1/data", (VAST, VAST), chunks=(100, 100))


def vast_pgm(path: Path) -> None:
    path.write_bytes(fmi_bytes(np.zeros((4, 5))).replace(b"\n5 4\n", f"\n{VAST} {VAST}\n".encode()))


def vast_tiff(path: Path, size: int = VAST, tile: int = 256) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geotiff) is not installed")
    from test_reader_fmi_geotiff import EAST, NORTH, metadata

    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": size, "width": size, "tiled": True,
               "crs": "EPSG:3067", "transform": rasterio.Affine(250, 0, EAST, 0, -250, NORTH),
               "sparse_ok": True, "blockxsize": tile, "blockysize": tile}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.update_tags(GDAL_METADATA=metadata())


def vast_tile(path: Path) -> None:
    vast_tiff(path, 32, 2**14)


def vast_grib(path: Path) -> None:
    size = {"rows": VAST, "columns": VAST // 10, "points": VAST * VAST // 10, "values": VAST * VAST // 10}
    path.write_bytes(test_reader_mrms_grib2.grib([[1.0]], packing=0, bits=0, data=b"", **size))


def vast_nimrod(path: Path) -> None:
    test_reader_nimrod.write(path, [[1, 2]], integers={16: 32767, 17: 32767})


def vast_radolan(path: Path) -> None:
    path.write_bytes(composite(grid="GP9999x9999", size=2 * 9999**2 + 100))


def vast_record(path: Path) -> None:
    from test_reader_deepmind_tfrecord import features, ramp, write

    extent = {f"osgb_extent_{side}": (sign * 9_000_000, "int") for side, sign in
              (("top", 1), ("right", 1), ("bottom", -1), ("left", -1))}  # fmt: skip
    write(path, features(ramp(0), **extent))


def vast_netcdf(path: Path, kind: str) -> None:
    save(path, dataset(), kind)
    with netCDF4.Dataset(path, "w", format=kind) as file:
        source = dataset()
        for name, length in (("time", 1), ("y", VAST), ("x", VAST)):
            file.createDimension(name, length)
        chunks = {"chunksizes": (1, 100, 100), "zlib": True} if kind == "NETCDF4" else {}
        for name, options in (("time", {}), ("y", {}), ("x", {}), ("rain", chunks)):
            variable = file.createVariable(name, "f4", source[name].dims, **options)
            variable.setncatts(source[name].attrs)
        file["time"][:] = 0
        file.createVariable("crs", "i4").setncatts(source["crs"].attrs)


def vast_netcdf4(path: Path) -> None:
    vast_netcdf(path, "NETCDF4")


def vast_classic(path: Path) -> None:
    """The header of a file without its values."""
    content = save(path, dataset(), "NETCDF3_64BIT_OFFSET").read_bytes()
    for name, length in (("y", 2), ("x", 3)):
        before = len(name).to_bytes(4, "big") + name.encode().ljust(4, b"\0")
        assert before + length.to_bytes(4, "big") in content
        content = content.replace(before + length.to_bytes(4, "big"), before + VAST.to_bytes(4, "big"), 1)
    path.write_bytes(content)


def many_times(path: Path) -> None:
    """A netCDF4 file of a hundred million frames, none of which was written."""
    save(path, dataset())
    with netCDF4.Dataset(path, "w") as file:
        source = dataset()
        for name, length in (("time", 10**8), ("y", 2), ("x", 3)):
            file.createDimension(name, length)
        for name in ("time", "y", "x", "rain"):
            options = {"chunksizes": (1000, 2, 3)} if name == "rain" else {"chunksizes": (1000,)}
            variable = file.createVariable(name, "f4", source[name].dims, **(options if "time" in
                                           source[name].dims else {}))  # fmt: skip
            variable.setncatts(source[name].attrs)
        file["y"][:], file["x"][:] = source["y"].values, source["x"].values
        file.createVariable("crs", "i4").setncatts(source["crs"].attrs)


def vast_npz(path: Path) -> None:
    header = io.BytesIO()
    described = {"descr": "<i2", "fortran_order": False, "shape": (1, VAST, VAST)}
    np.lib.format.write_array_header_1_0(header, described)
    members(write_meteonet(path, maps([1])), **{"data.npy": header.getvalue()})


def members(path: Path, **contents: bytes) -> None:
    """Put other members in an archive, or in the place of those that it has."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()} | contents
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in found.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("make", "reader"),
    [(vast_knmi, "knmi_hdf5"), (vast_odim, "odim_hdf5"), (vast_quality, "odim_hdf5"), (vast_pgm, "fmi_pgm"),
     (vast_tiff, "fmi_geotiff"), (vast_tile, "fmi_geotiff"), (vast_grib, "mrms_grib2"),
     (vast_nimrod, "nimrod"), (vast_radolan, "radolan"), (vast_record, "deepmind_tfrecord"),
     (vast_netcdf4, "cf_grid"), (vast_classic, "cf_grid"), (many_times, "cf_grid"),
     (vast_npz, "meteonet_npz")],
)  # fmt: skip
def test_a_small_file_of_a_vast_grid_is_refused_with_flat_memory(
    tmp_path: Path, make: Callable[[Path], None], reader: str
) -> None:
    path = tmp_path / "vast"
    make(path)
    assert path.stat().st_size < 20_000_000
    refused(path, reader)
    path.with_name("packed").write_bytes(gzip.compress(path.read_bytes()))
    refused(path.with_name("packed"), reader)


@pytest.mark.parametrize(
    ("head", "reader"),
    [(b"\x89HDF\r\n\x1a\n", "knmi_hdf5"), (b"\x89HDF\r\n\x1a\n", "odim_hdf5"), (b"CDF\x01", "cf_grid"),
     (b"PK\x03\x04", "meteonet_npz"), (b"\x89HDF\r\n\x1a\n", "cf_grid")],
)  # fmt: skip
def test_a_gzip_bomb_is_refused_with_flat_memory(tmp_path: Path, head: bytes, reader: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(head) + bomb(600))
    assert path.stat().st_size < 10**6
    refused(path, reader, "more than 536870912 bytes, decompressed")


def test_a_gzip_bomb_of_a_format_that_is_read_as_a_stream_ends_at_the_largest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGEST_FILE", 2**24)
    from test_reader_deepmind_tfrecord import features, ramp

    plain = test_reader_deepmind_tfrecord.write(tmp_path / "a", features(ramp(0, (1, 64, 64))))
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(plain.read_bytes() * 100) * 30)
    with flat_memory(), pytest.raises(RefusedInput, match="bomb.*more than 16777216 bytes"):
        find_reader(path).read_times(path)


def test_a_file_beyond_the_largest_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    # Of holes: it takes no room on the disk.
    os.truncate(path, limits.LARGEST_FILE + 1)
    with flat_memory(), pytest.raises(RefusedInput, match="large.*more than 17179869184 bytes"):
        find_reader(path)


@pytest.mark.parametrize("reader", ["knmi_hdf5", "odim_hdf5"])
def test_a_chunk_of_hdf5_that_inflates_beyond_its_size_is_refused_with_flat_memory(
    tmp_path: Path, reader: str
) -> None:
    path, pixels = tmp_path / "bomb", np.zeros((1000, 1000))
    name = "image1/image_data" if reader == "knmi_hdf5" else "dataset1/data1/data"
    write_knmi(path, pixels) if reader == "knmi_hdf5" else write_odim(path, pixels)
    replace_image(path, name, pixels.shape, chunks=pixels.shape, compression="gzip")
    with h5py.File(path, "a") as file:
        file[name].id.write_direct_chunk((0, 0), deflated(1024))
    assert path.stat().st_size < 15 * 10**6
    refused(path, reader, "inflates to more than its 2000000 bytes")


def test_images_compressed_twice_or_in_other_ways_are_refused(tmp_path: Path) -> None:
    for filters in ("twice", "other"):
        path = write_knmi(tmp_path / filters, np.zeros((10, 10)))
        with h5py.File(path, "a") as file:
            del file["image1/image_data"]
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((10, 10))
            if filters == "twice":
                properties.set_deflate(9)
                properties.set_deflate(9)
            else:
                properties.set_scaleoffset(h5py.h5z.SO_INT, 0)
            h5py.h5d.create(
                file["image1"].id,
                b"image_data",
                h5py.h5t.NATIVE_UINT16,
                h5py.h5s.create_simple((10, 10)),
                properties,
            )
        refused(path, "knmi_hdf5", "store it with deflate, once")


def test_an_image_in_countless_chunks_is_refused_with_flat_memory(tmp_path: Path) -> None:
    path = write_knmi(
        tmp_path / "chunks",
        np.zeros((2, 3)),
        geographic__geo_number_rows=8000,
        geographic__geo_number_columns=8000,
    )
    replace_image(path, "image1/image_data", (8000, 8000), chunks=(1, 1))
    refused(path, "knmi_hdf5", "too many")


@pytest.mark.parametrize("how", ["link", "storage", "virtual"])
@pytest.mark.parametrize("reader", ["knmi_hdf5", "odim_hdf5", "cf_grid"])
def test_hdf5_that_takes_its_values_from_another_file_is_refused(
    tmp_path: Path, reader: str, how: str
) -> None:
    path, values = tmp_path / "refers", np.ones((2, 2, 3), "u2")
    if reader == "cf_grid":
        save(path, dataset())
        name = "rain"
    else:
        values = values[0]
        write_knmi(path, values) if reader == "knmi_hdf5" else write_odim(path, values)
        name = "image1/image_data" if reader == "knmi_hdf5" else "dataset1/data1/data"
    list(get_reader(reader).read_frames(path, [0]))
    (tmp_path / "secret.bin").write_bytes(values.tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = values
    with h5py.File(path, "a") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        if how == "link":
            file[name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/values")
        elif how == "storage":
            place = [(str(tmp_path / "secret.bin"), 0, values.nbytes)]
            file.create_dataset(name, values.shape, "u2", external=place)
        else:
            layout = h5py.VirtualLayout(values.shape, "u2")
            layout[...] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "values", values.shape)
            file.create_virtual_dataset(name, layout)
        for key in attributes if how != "link" else ():
            if key not in ("DIMENSION_LIST", "_Netcdf4Coordinates"):
                file[name].attrs[key] = attributes[key]
    refused(path, reader, "" if reader == "cf_grid" else "another file")


def test_an_archive_of_countless_entries_is_refused_unread(tmp_path: Path) -> None:
    path = write_meteonet(tmp_path / "crowd", maps([1]))
    members(path, **{f"{n}": b"" for n in range(200)})
    refused(path, "meteonet_npz", "203 entries|202 entries")


def test_maps_that_inflate_beyond_the_largest_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LARGEST_FILE", 2**20)
    path = write_meteonet(tmp_path / "swells", maps([1], [2]))
    assert path.stat().st_size < 20_000
    refused(path, "meteonet_npz", "more than 1048576 bytes")


def test_dates_whose_pickle_multiplies_a_text_are_refused_with_flat_memory(tmp_path: Path) -> None:
    # Half a megabyte of text, encoded a thousand times without being let go of.
    text = "x" * 500_000
    pickled = b"c_codecs\nencode\nq\x00X" + len(text).to_bytes(4, "little") + text.encode() + b"q\x01"
    pickled += b"h\x00h\x01X\x06\0\0\0latin1\x86R" * 1000 + b"."
    assert pickle.loads(pickled) == text.encode()
    path = write_meteonet(tmp_path / "copies", maps([1]))
    members(path, **{"dates.npy": npy_of_objects(pickled)})
    refused(path, "meteonet_npz", "a date of 500000 characters")


def test_a_bzip2_bomb_and_a_bundle_of_countless_members_are_refused(tmp_path: Path) -> None:
    content = tar(*leads(0))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as bundle:
        for number in range(200):
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            bundle.addfile(folder)
    crowd = stream.getvalue()[: 200 * 512] + content
    (tmp_path / "crowd").write_bytes(bz2.compress(crowd))
    refused(tmp_path / "crowd", "radolan", "more members")
    # A lead of a vast file, behind which there are zeros.
    header = tarfile.TarInfo("DE_RV_000")
    header.size = 2**33
    (tmp_path / "bomb").write_bytes(bz2.compress(header.tobuf()) + bomb(300, bz2.compress))
    refused(tmp_path / "bomb", "radolan")


@pytest.mark.parametrize("name", [entry.name for entry in BUILT_IN])
@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0), b"\0", b"\x1f\x8b", b"BZh"])
def test_every_reader_refuses_a_file_without_content(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "empty"
    path.write_bytes(content)
    for call in (get_reader(name).read_times, lambda path: list(get_reader(name).read_frames(path, [0]))):
        with pytest.raises(RefusedInput, match="empty"):
            call(path)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF4"])
def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tmp_path: Path, kind: str) -> None:
    # As when it is copied anew over itself; a file mapped into memory would end the process here.
    path = save(tmp_path / "cut", dataset(np.random.default_rng(1).random((100, 40, 50))), kind)

    def read() -> None:
        with open_source(path) as source:
            os.truncate(path, 1000)
            source.variables["rain"].read(99)

    with pytest.raises(RefusedInput, match="cut"):
        read()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[Any] = []

    def ask() -> None:
        with pytest.raises(RefusedInput, match="pipe.*no plain file"):
            find_reader(tmp_path / "pipe")
        found.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert found


@pytest.mark.parametrize("shape", [(765, 700), (2200, 1900), (3500, 7000), (7316, 4963)])
def test_the_grids_of_the_archives_are_within_the_limits(shape: tuple[int, int]) -> None:
    limits.refuse_large_grid(shape, Path("a"))
    # As float64, which is the largest that any of them is stored in.
    assert shape[0] * shape[1] * 8 <= limits.LARGEST_CONTENT


def test_no_reader_has_a_limit_of_its_own_on_grids_and_files() -> None:
    folder = Path(limits.__file__).parent
    for path in folder.glob("*.py"):
        if path.name != "limits.py":
            assert "LARGEST_GRID =" not in path.read_text(), path.name
            assert "LARGEST_CONTENT =" not in path.read_text(), path.name
