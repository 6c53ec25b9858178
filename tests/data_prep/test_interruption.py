import signal
from pathlib import Path

import dask
import forked
import numpy as np
import pytest
from interrupted_run import FRAMES, RECIPE, SHARD, Run
from stores import same_stores

from data_prep.pipeline import prepare
from data_prep.schema import RefusedInput, open_frames, open_radar, open_store, validate
from data_prep.store import committed, lock

pytestmark = pytest.mark.radar


@pytest.fixture(scope="module")
def whole(radar_data, tmp_path_factory) -> Path:
    """The store that an undisturbed run makes."""
    store = tmp_path_factory.mktemp("whole") / "r.zarr"
    assert Run(radar_data / "knmi", store).written() == FRAMES
    return store


def seen(store: Path) -> int:
    return committed(store) if (store / "zarr.json").is_file() else 0


KILLS = {
    "while it reads the first frames": ("data_prep.pipeline:load", 1, 0),
    "before the first shard": ("data_prep.assembly:write_rates", 1, 0),
    "before a new store is moved to its place": ("data_prep.assembly:move_into_place", 1, 0),
    "before the second shard": ("data_prep.assembly:write_rates", 2, SHARD),
    "with a shard written and not committed": ("data_prep.assembly:commit", 2, SHARD),
    "between the rates and the marks of a shard": ("data_prep.assembly:write_marks", 2, SHARD),
    "between the small arrays and the metadata": ("data_prep.store:consolidate", 3, 2 * SHARD),
    "before the metadata are replaced": ("data_prep.store:replace", 3, SHARD),
    "before the sample index": ("data_prep.pipeline:write_samples", 1, FRAMES),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_loses_what_was_under_way_and_the_next_completes_it_with_the_same_bytes(
    radar_data, tmp_path, whole, moment
):
    store = tmp_path / "r.zarr"
    place, number, count = KILLS[moment]
    assert Run(radar_data / "knmi", store, place, number).ends_with() == -signal.SIGKILL
    assert seen(store) == count
    if count:
        kept, expected = open_store(store), open_store(whole)
        assert validate(kept) == []
        np.testing.assert_array_equal(kept["rainfall_rate"], expected["rainfall_rate"][:count])
        np.testing.assert_array_equal(open_frames(store)["source"], open_frames(whole)["source"][:count])
    assert Run(radar_data / "knmi", store).written() == FRAMES - count
    assert same_stores(store, whole)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_readers_of_a_growing_store_see_whole_frames(radar_data, tmp_path, whole):
    store = tmp_path / "r.zarr"
    expected = open_radar(whole).values
    run = Run(radar_data / "knmi", store, "data_prep.assembly:write_rates")
    counts = []
    while run.process.is_alive():
        if seen(store):
            values = open_radar(store).values
            np.testing.assert_array_equal(values, expected[: len(values)])
            counts.append(len(values))
    assert run.written() == FRAMES
    assert SHARD in counts
    assert sorted(counts) == counts


def test_a_second_writer_is_refused_while_the_first_is_at_work(radar_data, tmp_path):
    with lock(tmp_path / "r.zarr"), pytest.raises(RefusedInput, match="one process writes to a store"):
        prepare(radar_data / "knmi", tmp_path / "r.zarr", RECIPE)
    assert prepare(radar_data / "knmi", tmp_path / "r.zarr", RECIPE).written == FRAMES


def test_a_cluster_and_threads_make_the_same_store(radar_data, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the package distributed is not installed")
    forked.warm()
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
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
