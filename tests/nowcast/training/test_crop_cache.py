import errno
import os
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from data_prep.sampling import Sampling
from data_prep.schema import RefusedInput
from nowcast.training import crop_cache as module
from nowcast.training.crop_cache import Windows, _read
from nowcast.training.crops import RadarCrops


def caches(folder) -> list[str]:
    """Names of what would be taken for a cache."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def assert_same_samples(one: RadarCrops, other: RadarCrops) -> None:
    assert len(one) == len(other) > 0
    for number in range(len(one)):
        for name, value in one[number].items():
            assert torch.equal(value, other[number][name]), (number, name)


def test_the_cache_gives_what_the_store_holds(store, tmp_path):
    for size in (None, 16):
        cached = RadarCrops(store, "train", size=size, cache=tmp_path)
        assert cached.cache is not None
        assert_same_samples(cached, RadarCrops(store, "train", size=size))
    assert len(caches(tmp_path)) == 1  # windows are cached whole, whatever the crop
    assert torch.equal(cached[1, 5]["rain"], RadarCrops(store, "train", size=16)[1, 5]["rain"])


def test_a_cache_is_cut_once_and_says_how_it_was_made(store, tmp_path, monkeypatch):
    RadarCrops(store, "train", cache=tmp_path)
    about = (tmp_path / caches(tmp_path)[0] / "about.json").read_text()
    assert str(store) in about
    assert "scale_factor" in about
    monkeypatch.delattr(module, "_cut")
    RadarCrops(store, "train", cache=tmp_path)


def test_each_split_has_its_cache_and_an_empty_one_has_none(store, make_store, tmp_path):
    for split in ("train", "validation"):
        RadarCrops(store, split, cache=tmp_path)
    assert [name.split("-")[1] for name in caches(tmp_path)] == ["train", "validation"]
    empty = make_store(30, sampling=Sampling(height=32, width=32, q_min=0, m=0))
    assert RadarCrops(empty, "train", cache=tmp_path).cache is None


def test_other_windows_and_another_packing_have_a_cache_of_their_own(make_store, tmp_path):
    store = make_store(60)
    RadarCrops(store, "train", cache=tmp_path)
    rows = zarr.open_group(str(store / "samples"), mode="r+")["y"]
    rows[:] = rows[:] // 2
    assert_same_samples(RadarCrops(store, "train", cache=tmp_path), RadarCrops(store, "train"))
    assert len(caches(tmp_path)) == 2
    group = zarr.open_group(str(store), mode="r+", use_consolidated=False)
    group["rainfall_rate"].attrs["scale_factor"] = 0.02
    zarr.consolidate_metadata(str(store))
    assert_same_samples(RadarCrops(store, "train", cache=tmp_path), RadarCrops(store, "train"))
    assert len(caches(tmp_path)) == 3


def test_a_cache_of_other_rates_is_refused(make_store, tmp_path):
    store = make_store(60)
    RadarCrops(store, "train", cache=tmp_path)
    zarr.open_group(str(store), mode="r+")["rainfall_rate"][:] = 7
    with pytest.raises(RefusedInput, match="damaged or of other data; remove that folder"):
        RadarCrops(store, "train", cache=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "gone"])
def test_a_damaged_cache_is_refused(store, tmp_path, damage):
    cached = RadarCrops(store, "train", cache=tmp_path)
    file = cached.cache.file
    if damage == "gone":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 1000 if damage == "truncated" else 0)
    with pytest.raises(RefusedInput, match="damaged or of other data"):
        RadarCrops(store, "train", cache=tmp_path)


def test_a_full_disk_is_noticed_before_anything_is_written(store, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(RefusedInput, match=r"the cache of \d+ windows needs 0.0 GiB; came: 0.0 GiB free"):
        RadarCrops(store, "train", cache=tmp_path)
    assert caches(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(store, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RefusedInput, match="No space left on device"):
        RadarCrops(store, "train", cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_a_folder_that_cannot_be_made_is_refused(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedInput, match=r"data\.cache is a folder"):
        RadarCrops(store, "train", cache=tmp_path / "file")


def test_what_a_killed_process_left_is_not_taken_for_a_cache(store, tmp_path, monkeypatch):
    read = module._read

    def killed(*args):
        for number, window in enumerate(read(*args)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield window

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(module, "_read", killed)
        RadarCrops(store, "train", cache=tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert caches(tmp_path) == []
    assert any(path.name.endswith(".partial") for path in tmp_path.iterdir())
    assert_same_samples(RadarCrops(store, "train", cache=tmp_path), RadarCrops(store, "train"))
    assert not any(path.name.endswith(".partial") for path in tmp_path.iterdir())


def test_of_several_processes_one_cuts_and_the_others_wait(store, tmp_path, monkeypatch):
    cut, calls = module._cut, []

    def slow(*args, **kwargs):
        calls.append(args)
        time.sleep(0.3)
        cut(*args, **kwargs)

    monkeypatch.setattr(module, "_cut", slow)
    made: list[RadarCrops] = []
    # Locks are of open files: threads wait for each other as processes do.
    threads = [
        threading.Thread(target=lambda: made.append(RadarCrops(store, "train", cache=tmp_path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(made) == 3


class Counted:
    """An archive that counts what is read."""

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates
        self.cells: list[int] = []

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        self.cells.append(self.rates[box].size)
        return self.rates[box]


@pytest.mark.parametrize(
    ("rows", "columns", "cells"),
    [
        ([0, 2, 4], [0, 2, 0], [2 * 12 * 10]),  # they overlap: 12 x 10 cells instead of three times 8 x 8
        ([0, 24, 3], [0, 24, 0], [128] * 3),  # far apart: what lies between is not read
    ],
)
def test_neighbours_of_one_time_are_read_in_one_go(rows, columns, cells):
    archive = Counted(np.random.default_rng(0).integers(0, 999, (6, 32, 32)))
    windows = Windows(
        time=np.zeros(4), start=np.array([1, 1, 1, 3]), row=np.array([*rows, 5]),
        column=np.array([*columns, 6]), frames=2, height=8, width=8,
    )  # fmt: skip
    read = list(_read(archive, windows))
    for number, window in enumerate(read):
        np.testing.assert_array_equal(window, archive.rates[windows.box(number)])
    assert archive.cells == [*cells, 128]
