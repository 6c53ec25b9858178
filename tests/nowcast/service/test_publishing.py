import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from replay import manifest_of

from data_prep.schema import RefusedInput
from nowcast.service.publishing import Publisher, differences, name_of, read_manifest, time_of
from nowcast.service.settings import Retention

TIME = np.datetime64("2024-06-01T12:00", "ns")
KEEP = Retention(hours=48, gigabytes=1, free_gigabytes=0)


def publish(publisher: Publisher, time: np.datetime64 = TIME, **told) -> dict:
    with publisher.made(time) as folder:
        (folder / "a.nc").write_bytes(b"rain")
        (folder / "a.zarr").mkdir()
        (folder / "a.zarr" / "chunk").write_bytes(b"0")
        roles = {"a.nc": "members", "a.zarr": "mean"}
        return publisher.publish(folder, {"roles": roles, **manifest_of(time), **told})


@pytest.mark.parametrize(
    ("time", "name"),
    [("2010-08-26T05:00", "20100826T0500Z"), ("2010-08-26T05:00:30", "20100826T050030Z"),
     ("2010-08-26T00:00", "20100826T0000Z")],
)  # fmt: skip
def test_a_folder_is_named_for_its_reference_time(time, name):
    assert name_of(np.datetime64(time, "ns")) == name
    assert time_of(name) == np.datetime64(time, "ns")


def test_a_forecast_appears_with_a_manifest_of_its_files(tmp_path):
    manifest = publish(Publisher(tmp_path, KEEP), model="extrapolation")
    folder = tmp_path / "forecasts" / "20240601T1200Z"
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert json.loads((tmp_path / "latest.json").read_text()) == manifest
    assert [(f["name"], f["role"], f["bytes"]) for f in manifest["files"]] == [
        ("a.nc", "members", 4), ("a.zarr/chunk", "mean", 1)
    ]  # fmt: skip
    assert differences(folder) == []


def test_what_is_not_published_is_gone(tmp_path):
    publisher = Publisher(tmp_path, KEEP)
    with publisher.made(TIME) as folder:
        (folder / "a.nc").write_bytes(b"rain")
    assert list((tmp_path / ".making").iterdir()) == []


def test_a_forecast_that_is_there_is_never_replaced(tmp_path):
    publisher = Publisher(tmp_path, KEEP)
    first = publish(publisher, model="a")
    with pytest.raises(OSError, match="not empty"):
        publish(publisher, model="b")
    assert read_manifest(tmp_path / "forecasts" / "20240601T1200Z") == first


def test_the_latest_forecast_is_that_of_the_newest_time_whatever_the_order(tmp_path):
    publisher = Publisher(tmp_path, KEEP)
    publish(publisher, TIME, run_id="new")
    publish(publisher, TIME - np.timedelta64(5, "m"), run_id="old")
    assert json.loads((tmp_path / "latest.json").read_text())["run_id"] == "new"
    assert publisher.latest["run_id"] == "new"


def test_a_start_clears_what_a_crash_left_and_mends_latest(tmp_path):
    publish(Publisher(tmp_path, KEEP))
    (tmp_path / "latest.json").unlink()
    for place in (".making/20240601T1205Z", ".removed/20240601T1100Z"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "part.nc").touch()
    (tmp_path / ".latest.json.abc.partial").touch()
    (tmp_path / "forecasts" / "20240601T1210Z").mkdir()  # not ours: it has no manifest
    publisher = Publisher(tmp_path, KEEP)
    assert list(publisher.published) == ["20240601T1200Z"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".making", ".removed", "forecasts", "latest.json"
    ]  # fmt: skip
    assert [*(tmp_path / ".making").iterdir(), *(tmp_path / ".removed").iterdir()] == []


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        (lambda folder: (folder / "a.nc").write_bytes(b"hail"), "a.nc is not what the manifest names"),
        (lambda folder: (folder / "a.nc").unlink(), "a.nc is absent"),
        (lambda folder: (folder / "b.nc").touch(), "b.nc is not in the manifest"),
    ],
)
def test_a_manifest_tells_what_has_changed(tmp_path, harm, finding):
    publish(Publisher(tmp_path, KEEP))
    folder = tmp_path / "forecasts" / "20240601T1200Z"
    harm(folder)
    assert differences(folder) == [finding]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": [{"name": "a"}]}'])
def test_a_broken_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RefusedInput, match="holds a manifest.json"):
        read_manifest(tmp_path)


def test_a_clock_that_is_far_ahead_removes_nothing(tmp_path):
    publisher = Publisher(tmp_path, KEEP)
    for number in range(3):
        publish(publisher, TIME + number * np.timedelta64(5, "m"))
    publisher.make_room(TIME + np.timedelta64(3000, "D"))
    assert len(publisher.published) == 3


def test_a_disk_that_is_nearly_full_keeps_the_newest_forecast_alone(tmp_path, monkeypatch):
    publisher = Publisher(tmp_path, Retention(hours=48, gigabytes=1, free_gigabytes=5))
    for number in range(3):
        publish(publisher, TIME + number * np.timedelta64(5, "m"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4e9))
    publisher.make_room(TIME)
    assert list(publisher.published) == ["20240601T1210Z"]
    assert [path.name for path in (tmp_path / "forecasts").iterdir()] == ["20240601T1210Z"]


@pytest.mark.parametrize(
    "harm",
    [
        {"reference_time": "2024-06-01T12:05Z"}, {"fallback": 3}, {"files": [{}]}, {"model": None},
        {"files": [{"name": "../latest.json", "bytes": 1, "sha256": ""}]},
        {"files": [{"name": "/etc/passwd", "bytes": 1, "sha256": ""}]},
        {"files": [{"name": "a.nc", "bytes": "1", "sha256": ""}]},
    ],
)  # fmt: skip
def test_a_manifest_that_was_tampered_with_does_not_count_and_its_forecast_is_made_again(tmp_path, harm):
    publish(Publisher(tmp_path, KEEP))
    path = tmp_path / "forecasts" / "20240601T1200Z" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **harm}))
    publisher = Publisher(tmp_path, KEEP)
    assert publisher.published == {}
    publish(publisher)
    assert differences(path.parent) == []


def test_folders_of_odd_names_are_left_alone(tmp_path):
    publish(Publisher(tmp_path, KEEP))
    odd = tmp_path / "forecasts" / "20249999T9999Z"
    (tmp_path / "forecasts" / "20240601T1200Z").rename(odd)
    assert Publisher(tmp_path, KEEP).published == {}
    assert odd.is_dir()


def test_forecasts_that_somebody_takes_away_are_forgotten(tmp_path):
    publisher = Publisher(tmp_path, Retention(hours=0, gigabytes=1, free_gigabytes=0))
    for number in range(3):
        publish(publisher, TIME + number * np.timedelta64(5, "m"), run_id=str(number))
    for name in ("20240601T1200Z", "20240601T1210Z"):
        shutil.rmtree(tmp_path / "forecasts" / name)
    assert publisher.mend()
    assert not publisher.mend()
    assert list(publisher.published) == ["20240601T1205Z"]
    assert json.loads((tmp_path / "latest.json").read_text())["run_id"] == "1"
    shutil.rmtree(tmp_path / ".removed")
    publish(publisher, TIME + 3 * np.timedelta64(5, "m"), run_id="3")
    publisher.make_room(TIME + np.timedelta64(1, "h"))
    assert list(publisher.published) == ["20240601T1215Z"]


def test_a_disk_that_fails_after_the_rename_does_not_unmake_a_forecast(tmp_path, monkeypatch, caplog):
    publisher = Publisher(tmp_path, KEEP)
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_say_latest", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        publish(publisher)
    assert list(publisher.published) == ["20240601T1200Z"]
    assert "latest.json cannot be written" in caplog.text
    publisher.mend()
    assert (tmp_path / "latest.json").exists()
