import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stores import same_stores

from data_prep.pipeline import Recipe, prepare
from data_prep.sampling import Sampling
from data_prep.schema import RefusedInput, open_frames, open_radar, open_store, validate
from data_prep.splits import Splits
from data_prep.store import committed, lock

pytestmark = pytest.mark.radar

RECIPE = Recipe(
    pattern="**/RAD_NL25_RAP_5min_2010082600*.h5",
    reader="knmi_hdf5",
    sampling=Sampling(frames=4, height=256, width=256, stride=128, q_min=0.5),
    splits=Splits(cycle=("train",)),
)
FRAMES = 12
SHARD = 4
"""Frames in a shard here, so that a dozen frames are three commits."""
PROGRAM = f"""
import importlib, os, sys, time
sys.path.append('tests/data_prep')
import data_prep.store as store
store.SHARD_FRAMES, store.CHUNK_FRAMES = {SHARD}, {SHARD}
from data_prep.pipeline import prepare
from test_interruption import RECIPE

def disturb(place, number):
    module, name = place.split(':')
    module = importlib.import_module(module)
    original, calls = getattr(module, name), []
    def disturbed(*arguments, **named):
        calls.append(name)
        if len(calls) == number:
            os.kill(os.getpid(), 9)
        if number == 0:
            time.sleep(0.3)
        return original(*arguments, **named)
    setattr(module, name, disturbed)

for place, number in zip(sys.argv[3::2], sys.argv[4::2]):
    disturb(place, int(number))
print(prepare(sys.argv[1], sys.argv[2], RECIPE).written)
"""


def start(source: Path, store: Path, *disturbance: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(source), str(store), *disturbance],
        cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(radar_data, tmp_path_factory) -> Path:
    """The store that an undisturbed run makes."""
    store = tmp_path_factory.mktemp("whole") / "r.zarr"
    out, errors = start(radar_data / "knmi", store).communicate(timeout=120)
    assert out == f"{FRAMES}\n", errors
    return store


def seen(store: Path) -> int:
    return committed(store) if (store / "zarr.json").is_file() else 0


KILLS = {
    "while it reads the first frames": ("data_prep.pipeline:load 1", 0),
    "before the first shard": ("data_prep.assembly:write_rates 1", 0),
    "before a new store is moved to its place": ("data_prep.assembly:move_into_place 1", 0),
    "before the second shard": ("data_prep.assembly:write_rates 2", SHARD),
    "with a shard written and not committed": ("data_prep.assembly:commit 2", SHARD),
    "between the rates and the marks of a shard": ("data_prep.assembly:write_marks 2", SHARD),
    "between the small arrays and the metadata": ("data_prep.store:consolidate 3", 2 * SHARD),
    "before the metadata are replaced": ("data_prep.store:replace 3", SHARD),
    "before the sample index": ("data_prep.pipeline:write_samples 1", FRAMES),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_loses_what_was_under_way_and_the_next_completes_it_with_the_same_bytes(
    radar_data, tmp_path, whole, moment
):
    store = tmp_path / "r.zarr"
    place, count = KILLS[moment]
    run = start(radar_data / "knmi", store, *place.split())
    run.communicate(timeout=120)
    assert run.returncode == -9
    assert seen(store) == count
    if count:
        kept, expected = open_store(store), open_store(whole)
        assert validate(kept) == []
        np.testing.assert_array_equal(kept["rainfall_rate"], expected["rainfall_rate"][:count])
        np.testing.assert_array_equal(open_frames(store)["source"], open_frames(whole)["source"][:count])
    out, errors = start(radar_data / "knmi", store).communicate(timeout=120)
    assert out == f"{FRAMES - count}\n", errors
    assert same_stores(store, whole)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_readers_of_a_growing_store_see_whole_frames(radar_data, tmp_path, whole):
    store = tmp_path / "r.zarr"
    expected = open_radar(whole).values
    run = start(radar_data / "knmi", store, "data_prep.assembly:write_rates", "0")
    counts = []
    while run.poll() is None:
        if seen(store):
            values = open_radar(store).values
            np.testing.assert_array_equal(values, expected[: len(values)])
            counts.append(len(values))
    out, errors = run.communicate()
    assert out == f"{FRAMES}\n", errors
    assert SHARD in counts
    assert sorted(counts) == counts


def test_a_second_writer_is_refused_while_the_first_is_at_work(radar_data, tmp_path):
    with lock(tmp_path / "r.zarr"), pytest.raises(RefusedInput, match="one process writes to a store"):
        prepare(radar_data / "knmi", tmp_path / "r.zarr", RECIPE)
    assert prepare(radar_data / "knmi", tmp_path / "r.zarr", RECIPE).written == FRAMES


def test_a_cluster_and_threads_make_the_same_store(radar_data, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the package distributed is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        prepare(radar_data / "knmi", tmp_path / "c.zarr", RECIPE, scheduler=cluster.scheduler_address)
    prepare(radar_data / "knmi", tmp_path / "one.zarr", RECIPE, threads=1)
    prepare(radar_data / "knmi", tmp_path / "two.zarr", RECIPE, threads=2)
    assert same_stores(tmp_path / "one.zarr", tmp_path / "two.zarr")
    assert same_stores(tmp_path / "one.zarr", tmp_path / "c.zarr")


def test_a_scheduler_that_does_not_answer_is_refused(tmp_path, radar_data, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the package distributed is not installed")

    def no_answer(address, **_settings):
        raise OSError(f"timed out: {address}")

    monkeypatch.setattr(distributed, "Client", no_answer)
    with pytest.raises(RefusedInput, match="running dask scheduler"):
        prepare(radar_data / "knmi", tmp_path / "r.zarr", RECIPE, scheduler="tcp://127.0.0.1:9")
