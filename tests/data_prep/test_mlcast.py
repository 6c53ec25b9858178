import builtins
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
import xarray as xr
import zarr

from data_prep import mlcast
from data_prep.mlcast import export_samples, mlcast_findings, most_missing
from data_prep.pipeline import prepare
from data_prep.sampling import Sampling
from data_prep.schema import SPLITS, RefusedInput, open_store
from nowcast.options import read_recipe

pytest.importorskip("mlcast_dataset_validator")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def gapped(make_store):
    """A store without its frames 31 and 32, so that frames are not counted by the clock."""
    return make_store(90, leave_out=(31, 32))


def index_of(store):
    return xr.open_zarr(store, group="samples", chunks=None, consolidated=False).load()


def rows_of(path):
    header, *lines = path.read_text().splitlines()
    assert header == "t,x,y"
    return np.array([[int(word) for word in line.split(",")] for line in lines])


def test_a_csv_row_is_the_window_by_position(gapped, tmp_path):
    path, count = export_samples(gapped, tmp_path / "index.csv")
    rows, index, dataset = rows_of(path), index_of(gapped), open_store(gapped)
    assert path == tmp_path / "index.csv"
    assert count == len(rows) == index.sizes["sample"]
    assert (np.diff(rows[:, 0]) >= 0).all()
    starts = dataset["time"].values[rows[:, 0]]
    exported = sorted(zip(starts, rows[:, 1], rows[:, 2], strict=True))
    kept = sorted(zip(*(index[name].values for name in ("start_time", "x", "y")), strict=True))
    assert exported == kept
    assert (starts > np.datetime64("2020-06-01T03:30")).any()


@pytest.mark.parametrize("split", SPLITS[:3])
def test_one_split_can_be_exported(gapped, tmp_path, split):
    _, count = export_samples(gapped, tmp_path / "index.csv", split)
    assert count == int((index_of(gapped)["split"] == SPLITS.index(split)).sum())
    assert 0 < count < index_of(gapped).sizes["sample"]


def test_in_a_folder_the_name_of_a_csv_carries_the_parameters_for_the_sampler_of_mlcast(gapped, tmp_path):
    path, _ = export_samples(gapped, tmp_path / "new" / "folder")
    # valid_datacubes_START-END_DtxWxH_stepTxstepXxstepY_maxNan.csv, split at underscores by position.
    assert path.parent == tmp_path / "new" / "folder"
    _, _, dates, size, steps, missing = path.stem.split("_")
    assert dates == "2020-06-01-2020-06-01"
    assert size == "22x32x32"
    assert steps == "1x16x16"
    assert int(missing) == 20275  # of 22528 cells a tenth, 2252.8, must hold data


def test_parquet_has_the_columns_and_statistics_of_the_windows(gapped, tmp_path):
    path, count = export_samples(gapped, tmp_path / "index.parquet")
    table = pq.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds == {"t": "int32", "x": "int32", "y": "int32", "nan_count": "int32", "sum": "float",
                     "mean": "float", "frac_wet": "float"}  # fmt: skip
    assert table.num_rows == count
    assert len(set(table["nan_count"].to_pylist())) > 1
    rain = open_store(gapped)["rainfall_rate"].values
    for row in table.to_pylist()[:: max(1, count // 40)]:
        t, x, y = row["t"], row["x"], row["y"]
        cells = rain[t : t + 22, y : y + 32, x : x + 32]
        assert row["nan_count"] == np.isnan(cells).sum()
        assert row["sum"] == pytest.approx(np.nansum(cells), rel=1e-5, abs=1e-4)
        assert row["mean"] == pytest.approx(np.nanmean(cells), rel=1e-5, abs=1e-6)
        assert row["frac_wet"] == pytest.approx((np.nan_to_num(cells) > 0.105).sum() / cells.size)


def test_parquet_carries_the_sampling_parameters_of_mlcast(gapped, tmp_path):
    path, _ = export_samples(gapped, tmp_path / "index.parquet", "train")
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"mlcast.stats"]) == {
        "zarr_path": str(gapped), "data_var": "rainfall_rate", "time_var": "time",
        "start_date": "2020-06-01T00:00:00", "end_date": "2020-06-01T07:25:00", "time_step_minutes": 5,
        "time_depth": 22, "width": 32, "height": 32, "step_t": 1, "step_x": 16, "step_y": 16,
        "max_nan": 20275, "wet_threshold": 0.1, "data_kind": "rainrate", "units": "kg m-2 h-1",
        "schema_version": 1,
    }  # fmt: skip
    ours = json.loads(metadata[b"nowcast.samples"])
    assert ours["split"] == "train"
    assert ours["m"] == 1.0


def test_rows_are_written_in_batches_without_loss(gapped, tmp_path, monkeypatch):
    whole, _ = export_samples(gapped, tmp_path / "whole.parquet")
    monkeypatch.setattr(mlcast, "ROWS_AT_ONCE", 7)
    parts, _ = export_samples(gapped, tmp_path / "parts.parquet")
    assert pq.ParquetFile(parts).num_row_groups > 3
    assert pq.read_table(parts).equals(pq.read_table(whole))


def test_a_split_without_windows_gives_an_empty_file(make_store, tmp_path):
    store = make_store(30, sampling=Sampling(height=32, width=32, q_min=0, m=0))
    assert export_samples(store, tmp_path / "index.csv", "test")[1] == 0
    assert export_samples(store, tmp_path / "index.parquet", "test")[1] == 0
    assert pq.read_table(tmp_path / "index.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("share", "cells", "missing"),
    [(0.1, 10, 9), (0.7, 10, 3), (0.9, 10, 1), (0.5, 5, 2), (0, 4, 4), (1, 4, 0)],
)
def test_the_missing_cells_allowed_are_those_that_sampling_allows(share, cells, missing):
    sampling = Sampling(frames=cells, height=1, width=1, stride=1, min_observed=share)
    assert most_missing(sampling) == missing


def test_a_store_without_an_index_is_refused(make_store, tmp_path):
    store = make_store(30, sampling=None)
    with pytest.raises(RefusedInput, match="holds a sample index"):
        export_samples(store, tmp_path / "index.csv")
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_other_frames_is_refused(make_store, tmp_path):
    store = make_store(60)
    starts = zarr.open_array(store, path="samples/start_time", mode="r+")
    starts[0] = int(starts[0]) + 60
    with pytest.raises(RefusedInput, match="windows start at frames of the store"):
        export_samples(store, tmp_path / "index.csv")


@pytest.mark.parametrize(
    ("output", "split", "rule"), [("i.txt", None, r"\*.csv"), ("i.csv", "guard", "--split")]
)
def test_unknown_forms_and_splits_are_refused(gapped, tmp_path, output, split, rule):
    with pytest.raises(RefusedInput, match=rule):
        export_samples(gapped, tmp_path / output, split)


def test_steps_that_are_not_whole_minutes_are_refused_in_parquet_only(make_store, make_rain, tmp_path):
    store = make_store(rain=make_rain(60, step=np.timedelta64(150, "s")))
    assert export_samples(store, tmp_path / "index.csv")[1] > 0
    with pytest.raises(RefusedInput, match="whole minutes"):
        export_samples(store, tmp_path / "index.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["index.csv"]


@pytest.mark.parametrize("package", ["pyarrow", "mlcast_dataset_validator"])
def test_an_absent_package_is_named_with_what_to_install(gapped, tmp_path, monkeypatch, package):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    command = mlcast_findings if package == "mlcast_dataset_validator" else export_samples
    arguments = (tmp_path / "index.parquet",) if package == "pyarrow" else ()
    with pytest.raises(RefusedInput, match=r"pip install -e '.\[mlcast\]'"):
        command(gapped, *arguments)


@pytest.fixture(scope="module")
def archive(make_store, make_rain):
    """A store in the layout of MLCast: one frame in a chunk, 256 x 256 cells of 1 km."""
    store = make_store(rain=make_rain(8, 256), sampling=None, layout="archive")
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"] |= {
        "license": "CC-BY-4.0", "mlcast_created_on": "2020-06-01T00:00:00",
        "mlcast_created_by": "A Name <a@b.org>",
        "mlcast_created_with": "https://github.com/mlcast-community/mlcast-dataset-aa-bb@v0.1.0",
        "mlcast_dataset_version": "0.1.0", "mlcast_dataset_validator_version": "0.4.0",
        "mlcast_dataset_identifier": "NL-KNMI-rainfall_rate",
    }  # fmt: skip
    (store / "zarr.json").write_text(json.dumps(document))
    return store


def test_an_archive_of_eight_frames_fails_only_for_being_short(archive, monkeypatch):
    def offline(*_arguments, **_options):
        raise requests.ConnectionError("no network in a test")

    monkeypatch.setattr(requests, "get", offline)
    failures, warnings = mlcast_findings(archive)
    (failure,) = failures
    assert failure.startswith("MLCast 3.3 Minimum 3-year coverage")
    assert any("no network in a test" in line for line in warnings)


@pytest.mark.radar
@pytest.mark.parametrize(
    ("config", "source"), [("knmi", "knmi"), ("fmi", "fmi/pgm"), ("meteonet-se", "meteonet")]
)
def test_a_real_archive_as_its_configuration_prepares_it_fails_only_for_being_short(
    radar_data, tmp_path, monkeypatch, config, source
):
    def offline(*_arguments, **_options):
        raise requests.ConnectionError("no network in a test")

    monkeypatch.setattr(requests, "get", offline)
    recipe = read_recipe(str(Path(__file__).resolve().parents[2] / f"configs/prep/{config}.yaml"))
    about = replace(
        recipe.about,
        mlcast_created_by="Someone <someone@example.org>",
        mlcast_created_with="https://github.com/mlcast-community/mlcast-dataset-example-name@v0.1.0",
    )
    recipe = replace(recipe, about=about, layout="archive", sampling=None)
    prepare(radar_data / source, tmp_path / "r.zarr", recipe)
    failures, _ = mlcast_findings(tmp_path / "r.zarr")
    assert [failure[:37] for failure in failures] == ["MLCast 3.3 Minimum 3-year coverage: T"]


def test_the_layout_for_training_fails_for_its_chunks(gapped):
    failures, _ = mlcast_findings(gapped)
    assert any("Chunking strategy for rainfall_rate" in line for line in failures)


def test_a_validator_that_stops_is_a_failure(gapped, monkeypatch):
    from mlcast_dataset_validator.specs.source_data import radar_precipitation

    def stop(_dataset):
        raise IndexError("of its own")

    monkeypatch.setattr(radar_precipitation, "validate_dataset", stop)
    failures, warnings = mlcast_findings(gapped)
    assert failures == ["MLCast: its validator stopped (IndexError: of its own)"]
    assert warnings == []


def test_only_a_store_is_validated(tmp_path):
    with pytest.raises(RefusedInput, match="Zarr v3 directory"):
        mlcast_findings(tmp_path)


@pytest.mark.radar
def test_windows_of_real_radar_are_exported(radar_data, tmp_path):
    from data_prep.pipeline import Recipe, prepare

    sampling = Sampling(frames=4, height=128, width=128, stride=64, m=0.5, min_observed=0.5)
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted((radar_data / "knmi").rglob("*.h5"))[:8]:
        shutil.copyfile(path, source / path.name)
    prepare(source, tmp_path / "a.zarr", Recipe(sampling=sampling))
    path, count = export_samples(tmp_path / "a.zarr", tmp_path / "index.parquet")
    table = pq.read_table(path)
    assert table.num_rows == count > 5
    assert max(table["nan_count"].to_pylist()) <= 4 * 128 * 128 // 2
    assert 0 < min(table["frac_wet"].to_pylist()) < max(table["frac_wet"].to_pylist()) <= 1
