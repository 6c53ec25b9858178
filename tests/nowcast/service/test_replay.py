"""What becomes of each reference time, whatever the frames do: a replay on a clock of its own."""

import errno
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from replay import SIZE, World, rain, time_at, write_frame

from data_prep import frames
from data_prep.schema import RefusedInput
from data_prep.sources import Refusal
from nowcast.forecasters.baselines import Extrapolation, Persistence
from nowcast.products import layers
from nowcast.products.forecast_file import read_forecast
from nowcast.service import cycle, publishing
from nowcast.service.core import Exit, OutputGone, Stopping
from nowcast.service.publishing import AnotherInstance
from nowcast.service.settings import Policy, Retention


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def file_of(world: World, number: int):
    (path,) = world.output.glob(f"forecasts/{publishing.name_of(time_at(number))}/*Z.nc")
    return path


def statuses(world: World, number: int) -> list[str]:
    return [frame["status"] for frame in world.manifest(number)["input_frames"]]


def test_a_forecast_is_made_as_soon_as_its_frame_is_there(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        assert world.published() == [3]
        world.be_at(4.5)
        world.settle(service)
        assert world.published() == [3]
        world.frame(4)
        world.settle(service)
        assert world.published() == [3, 4]
    assert world.audit(range(3, 5)) == []
    manifest = world.manifest(4)
    assert manifest["model"] == "extrapolation"
    assert manifest["fallback"] is None
    assert statuses(world, 4) == ["observed"] * 4


def test_a_late_frame_is_waited_for_until_the_policy_says_so(world):
    world.frames(0, 1, 2, 4)
    world.be_at(4.2)
    with world.service() as service:
        world.settle(service)
        assert world.published() == []  # the frame before is 6 min old, and waited for until 8
        world.frame(3)
        world.be_at(4.4)
        world.settle(service)
    assert statuses(world, 4) == ["observed"] * 4


def test_one_missing_frame_between_two_is_interpolated_when_it_is_not_waited_for_any_longer(world):
    world.frames(0, 1, 2, 4)
    world.be_at(4.2)
    with world.service() as service:
        world.settle(service)
        world.be_at(4.7)
        world.settle(service)
    assert statuses(world, 4) == ["observed", "observed", "interpolated", "observed"]
    assert world.manifest(4)["fallback"] is None
    with xr.open_dataset(file_of(world, 4), engine="netcdf4", decode_timedelta=False) as stored:
        assert stored["input_frame_status"].values.tolist() == [0, 0, 1, 0]
    world.frame(3)
    with world.service() as service:
        world.settle(service)
    assert world.outcomes()[4] == "published"
    assert statuses(world, 4)[2] == "interpolated"  # what is published stays as it is


def test_the_first_frame_of_a_context_is_interpolated_from_the_one_before_the_context(world):
    world.frames(0, 2, 3, 4)
    world.be_at(4.7)
    with world.service() as service:
        world.settle(service)
    assert statuses(world, 4) == ["interpolated", "observed", "observed", "observed"]


def test_without_interpolation_or_with_two_frames_missing_a_fallback_forecasts(world, network):
    world.with_forecasts(model=str(network), fallbacks=("extrapolation", "persistence"), lead_steps=3)
    world.frames(0, 3, 4)
    world.be_at(4.7)
    with world.service() as service:
        world.settle(service)
        assert world.manifest(4)["model"] == "extrapolation"
        assert "no frame of 2024-06-01T12:05 (no file)" in world.manifest(4)["fallback"]
        assert statuses(world, 4) == ["missing", "missing", "observed", "observed"]
        world.frame(9)
        world.be_at(9.9)
        world.settle(service)
    assert world.manifest(9)["model"] == "persistence"
    assert "two consecutive frames" in world.manifest(9)["fallback"]
    stored = read_forecast(file_of(world, 9))
    np.testing.assert_array_equal(stored.values[0, 0][:, :-2], rain(9)[:, :-2].astype(np.float32).round(2))
    assert world.audit(range(4, 10)) == []


def test_a_reference_time_whose_frame_never_comes_is_named_once(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.be_at(5.2)
        world.frame(5)
        for _ in range(3):
            world.settle(service)
            world.clock.go(120)
        assert "no frame" in world.outcomes()[4]
        world.be_at(9.5)
        world.settle(service)
    assert world.published() == [3, 5]
    assert len([told for told in world.journal() if told["reference_time"] == "2024-06-01T12:20Z"]) == 1
    assert world.audit(range(3, 6)) == []


def test_stale_input_is_never_published(world):
    world.frames(0, 1, 2, 3)
    world.be_at(8)
    with world.service() as service:
        world.settle(service)
        assert world.published() == []
        assert service.health.as_dict()["stale"]
        assert not service.health.is_ready()
    assert set(world.outcomes()) == {3, 4}


def test_frames_of_another_day_are_named_where_there_are_no_others(world, caplog):
    world.be_at(100)
    with world.service() as service:
        world.frames(0, 1)
        world.settle(service)
        world.settle(service)
        assert caplog.text.count("too old to forecast from, or a clock is wrong") == 1
        assert "frame_0001.h5 is of 2024-06-01T12:05" in caplog.text
        assert "nowcast_input_age_seconds +Inf" in service.health.metrics().decode()
        world.frame(2)
        world.settle(service)
        assert "frame_0002.h5 is of 2024-06-01T12:10" in caplog.text


def test_a_published_forecast_becomes_stale(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        assert service.health.is_ready()
        world.be_at(7.2)
        assert not service.health.is_ready()
        assert service.health.as_dict()["forecast"] is not None


def test_frames_out_of_order_are_all_forecast_from(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.be_at(5.1)
        world.frame(5)
        world.settle(service)
        world.frame(4)
        world.settle(service)
    assert world.published() == [3, 4, 5]
    assert statuses(world, 5) == ["observed"] * 4
    assert world.audit(range(3, 6)) == []


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_broken_frame_is_named_and_forecast_from_once_it_is_whole(world, part, caplog):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.be_at(4.2)
        path = world.frame(4)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * part)])
        world.settle(service)
        assert world.published() == [3]
        assert path.name in caplog.text
        path.write_bytes(whole)
        world.settle(service)
    assert world.published() == [3, 4]


def test_a_frame_of_another_grid_a_copy_and_one_from_the_future_do_no_harm(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.be_at(4.2)
        world.frame(4, values=rain(4, SIZE + 8))
        shutil.copy(world.incoming / "frame_0003.h5", world.incoming / "copy.h5")
        write_frame(world.incoming, 9, stamp=time_at(9), name="ahead.h5")
        world.settle(service)
        assert world.published() == [3]
        world.be_at(5.2)
        world.frame(5)
        world.settle(service)
        world.be_at(5.8)
        world.settle(service)
        assert "another grid" in world.outcomes()[4]
        assert statuses(world, 5) == ["observed", "observed", "interpolated", "observed"]
    assert world.audit(range(3, 6)) == []


def test_a_radar_that_repeats_its_frame_is_not_forecast_from(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        for number in (4, 5):
            world.be_at(number + 0.2)
            world.frame(number, values=rain(3))
            world.settle(service)
        world.be_at(9.3)
        world.settle(service)
    assert world.published() == [3]
    assert "repeated" in world.outcomes()[4]
    assert "repeated" in world.outcomes()[5]


def test_a_clock_that_is_set_ahead_and_back_costs_nothing_that_could_be_made(world, caplog):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.clock.wrong_by = 7200
        world.settle(service)
        assert "clock of this machine was set by +7200 s" in caplog.text
        world.be_at(4.2)
        world.frame(4)
        world.settle(service)
        assert world.published() == [3]  # by that clock it is stale
        world.clock.wrong_by = 0
        world.settle(service)
        assert world.published() == [3, 4]
        world.clock.wrong_by = -7200
        world.be_at(5.2)
        world.frame(5)
        world.settle(service)
        assert world.published() == [3, 4]  # by that clock it is in the future
        world.clock.wrong_by = 0
        world.settle(service)
    assert world.published() == [3, 4, 5]
    assert world.audit(range(3, 6)) == []


def test_the_newest_forecast_is_made_first_and_older_ones_after_it(world, monkeypatch):
    made = []
    inner = cycle.Cycle.make
    monkeypatch.setattr(cycle.Cycle, "make", lambda *a, **k: (made.append(a[1]), inner(*a, **k))[1])
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.frames(4, 5, 6)
        world.be_at(6.2)
        world.settle(service)
    assert made == [time_at(number) for number in (3, 6, 5, 4)]
    assert world.audit(range(3, 7)) == []


def test_a_service_that_was_away_names_what_it_missed_in_one_line(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
    world.frames(*range(47, 51))
    world.be_at(50.2)
    with world.service() as service:
        world.settle(service)
    (missed,) = [told for told in world.journal() if "last" in told]
    assert missed["reason"] == "the service was not running"
    assert missed["reference_time"] == "2024-06-01T12:20Z"
    assert world.published() == [3, 47, 48, 49, 50]
    assert world.audit(range(3, 51)) == []


def test_the_same_frames_give_the_same_bytes(world, network):
    world.with_forecasts(model=str(network))
    world.frames(0, 1, 2, 4)
    world.be_at(4.9)
    with world.service() as service:
        world.settle(service)
    first = {file["name"]: file["sha256"] for file in world.manifest(4)["files"]}
    world.clear()
    world.clock.go(60)
    with world.service() as service:
        world.settle(service)
    assert {file["name"]: file["sha256"] for file in world.manifest(4)["files"]} == first
    assert any(name.endswith("Z.nc") for name in first)


class Broken(Extrapolation):
    """A model that fails as a test says."""

    def __init__(self, error):
        super().__init__()
        self.name, self._error = "broken", error

    def stream(self, context, **asked):  # noqa: ARG002
        yield from ()
        raise self._error


@pytest.mark.parametrize(
    "error", [RuntimeError("no kernel"), MemoryError(), RefusedInput("a", came="b", do="c")]
)
def test_a_model_that_fails_leaves_the_forecast_to_the_next(world, error):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        service.models._model = Broken(error)
        world.settle(service)
    manifest = world.manifest(3)
    assert manifest["model"] == "persistence"
    assert manifest["fallback"].startswith("broken: ")
    mean = next((world.output / "forecasts").glob("*/*_mean.nc"))
    with xr.open_dataset(mean, engine="netcdf4", decode_timedelta=False) as stored:
        assert stored.attrs["nowcast__model"] == "persistence"
        assert stored.attrs["nowcast__asked_model"] == "extrapolation"
        assert stored.attrs["nowcast__fallback"] == manifest["fallback"]
        assert stored.attrs["nowcast__run_id"] == manifest["run_id"]
    assert len(list((world.output / "forecasts").glob("*/*Z.nc"))) == 1


def test_a_model_that_is_too_slow_is_given_up_at_the_deadline(world):
    class Slow(Persistence):
        name, deterministic = "slow", False

        def stream(self, context, *, lead_steps, members, seed):
            for member in super().stream(context, lead_steps=lead_steps, members=members, seed=seed):
                world.clock.go(800)
                yield member

    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        service.models._model = Slow()
        world.settle(service)
    assert world.manifest(3)["model"] == "persistence"
    assert "not ready 12 min after the frame" in world.manifest(3)["fallback"]


def test_without_any_model_that_works_nothing_is_published_and_the_reason_named(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        service.models._model, service.models._fallbacks = Broken(RuntimeError("no kernel")), []
        world.settle(service)
        world.be_at(7.3)
        world.settle(service)
    assert world.published() == []
    assert world.outcomes()[3] == "broken: RuntimeError: no kernel"


@pytest.mark.parametrize("place", ["forecast_to_file", "write_products"])
def test_a_full_disk_is_survived_and_the_forecast_made_once_there_is_room(world, monkeypatch, place):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        with monkeypatch.context() as patch:
            patch.setattr(cycle, place, full)
            world.settle(service)
            assert world.published() == []
            assert list((world.output / ".making").iterdir()) == []
        world.clock.go(31)
        world.settle(service)
    assert world.published() == [3]


def test_an_output_that_cannot_be_written_for_a_while_loses_no_line_of_the_journal(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        journal = world.output / "journal.jsonl"
        aside = journal.rename(world.output / "aside")
        journal.mkdir()
        forecasts = (world.output / "forecasts").rename(world.output / "away")
        (world.output / "forecasts").touch()
        world.be_at(4.2)
        world.frame(4)
        world.settle(service)
        world.be_at(5.2)
        world.frame(5)
        journal.rmdir()
        aside.rename(journal)
        (world.output / "forecasts").unlink()
        forecasts.rename(world.output / "forecasts")
        world.clock.go(61)
        world.settle(service)
    assert world.published() == [3, 4, 5]
    assert world.audit(range(3, 6)) == []


def test_products_that_fail_for_another_reason_are_left_out_and_named(world, monkeypatch):
    monkeypatch.setattr(cycle, "write_products", lambda *_, **__: 1 / 0)
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
    assert world.manifest(3)["problems"] == ["products: ZeroDivisionError: division by zero"]
    assert [file["role"] for file in world.manifest(3)["files"]] == ["members"]


def test_layers_for_the_page_are_made_where_there_is_one(world):
    world.settings = replace(world.settings, http=replace(world.settings.http, enabled=True))
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
    roles = {file["name"]: file["role"] for file in world.manifest(3)["files"]}
    assert roles[layers.LAYERS] == "layers"
    assert roles["layer_member_00.png"] == "layer"


def test_a_second_service_on_one_output_is_refused(world):
    with world.service(), pytest.raises(AnotherInstance), world.service():
        pass
    with world.service():
        pass


def test_old_forecasts_go_and_the_newest_stays(world):
    world.settings = replace(world.settings, retention=Retention(hours=0.2, gigabytes=50, free_gigabytes=0))
    world.frames(0, 1, 2)
    with world.service() as service:
        for number in range(3, 9):
            world.be_at(number + 0.2)
            world.frame(number)
            world.settle(service)
    assert world.published() == [5, 6, 7, 8]
    assert world.audit(range(5, 9)) == []


def test_many_forecasts_make_room_for_the_next(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
    size = sum(file["bytes"] for file in world.manifest(3)["files"])
    limit = Retention(hours=99, gigabytes=2.5 * size / 1e9, free_gigabytes=0)
    world.settings = replace(world.settings, retention=limit)
    with world.service() as service:
        for number in range(4, 8):
            world.be_at(number + 0.2)
            world.frame(number)
            world.settle(service)
    assert world.published() == [5, 6, 7]  # two, and the one made last


@pytest.mark.parametrize(
    ("missing", "status"), [(9, Exit.PUBLISHED), (1, Exit.BY_FALLBACK), (3, Exit.NOTHING)]
)
def test_a_forecast_at_a_time_tells_its_status(world, network, missing, status):
    world.with_forecasts(model=str(network), fallbacks=("extrapolation",))
    world.settings = replace(world.settings, policy=Policy(interpolate=False))
    world.frames(*(number for number in range(6) if number != missing))
    world.be_at(5)
    with world.service(at=time_at(3)) as service:
        service.live.look(world.clock.now(), world.clock.elapsed())
        world.clock.go(2)
        found, line = service.make_one(time_at(3))
        assert found == status
        assert "2024-06-01T12:15" in line
        again, line = service.make_one(time_at(3))
        assert again == status
        assert ("published before" in line) == (status != Exit.NOTHING)


def test_a_single_run_waits_for_the_frame_of_the_present_step(world):
    world.frames(0, 1, 2)
    world.be_at(3.1)

    def wait(seconds: float) -> None:
        world.clock.go(seconds)
        if world.clock.elapsed() > 3.3 * 300 and not (world.incoming / "frame_0003.h5").exists():
            world.frame(3)

    world.settings = replace(world.settings, policy=Policy(stale_minutes=12))
    with world.service() as service:
        world.settle(service)
        status, line = service.make_newest(wait)
    assert status == Exit.PUBLISHED
    assert 3 in world.published()
    with world.service() as service:
        status, line = service.make_newest(wait)
    assert (status, "published before" in line) == (Exit.PUBLISHED, True)


def test_a_single_run_without_a_frame_ends_with_its_own_status(world):
    world.frames(0, 1, 2)
    world.be_at(9.1)
    with world.service() as service:
        status, _ = service.make_newest(world.clock.go)
    assert status == Exit.NOTHING


def test_no_file_or_thread_is_left_open(world):
    world.frames(0, 1, 2)
    with world.service() as service:
        for number in range(3, 12):
            world.be_at(number + 0.2)
            world.frame(number)
            world.settle(service)
            if number == 5:
                before = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= before


def test_the_journal_of_a_trial_on_an_old_archive_costs_a_service_nothing(world):
    world.frames(0, 1, 2, 3)
    with world.service(at=time_at(3)) as service:
        service.live.look(world.clock.now(), world.clock.elapsed())
        world.clock.go(2)
        service.make_one(time_at(3))
    ten_years = 365 * 288 * 10
    world.frames(*range(ten_years, ten_years + 4))
    world.be_at(ten_years + 3.2)
    with world.service() as service:
        world.settle(service)
        assert service._journal.times.size < 300
    assert ten_years + 3 in world.published()
    missed = [told for told in world.journal() if told["outcome"] == "skipped"]
    assert len(missed) == 2  # one line for all before yesterday, one for the day


def test_a_changed_time_of_the_frames_is_served_from_an_old_output(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
    shutil.rmtree(world.incoming)
    world.incoming.mkdir()
    world.settings = replace(world.settings, input=replace(world.settings.input, offset_minutes=2))
    for number in range(4, 9):
        write_frame(world.incoming, number, stamp=time_at(number) + np.timedelta64(2, "m"))
    world.be_at(8.6)
    with world.service() as service:
        world.settle(service)
    assert "20240601T1242Z" in {path.name for path in (world.output / "forecasts").iterdir()}


def test_a_read_that_failed_for_a_while_is_tried_again(world, monkeypatch):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    broken = frames.Batch(frames.Head([], [Refusal("frame", None, "I/O error")]), [], [])
    with world.service() as service:
        with monkeypatch.context() as patch:
            patch.setattr("data_prep.live.load", lambda *_: broken)
            world.settle(service)
            assert world.published() == []
        world.settle(service)
        assert world.published() == []
        world.clock.go(61)
        world.settle(service)
    assert world.published() == [3]


def test_a_file_that_never_stops_changing_does_not_hold_up_a_new_service(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        for _ in range(8):
            (world.incoming / "growing.h5").write_bytes(b"x" * int(world.clock.elapsed()))
            service.tick()
            world.clock.go(0.9)
    assert world.published() == [3]


def test_a_forecast_that_is_ready_only_when_it_is_stale_is_not_published(world):
    class Slow(Persistence):
        def stream(self, context, **asked):
            world.clock.go(2400)
            yield from super().stream(context, **asked)

    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        service.models._model, service.models._fallbacks = None, [Slow()]
        world.settle(service)
    assert world.published() == []


def test_an_output_that_is_taken_away_ends_the_service(world):
    world.frames(0, 1, 2, 3)
    world.be_at(3.2)
    with world.service() as service:
        world.settle(service)
        world.clear()
        with pytest.raises(OutputGone):
            service.tick()


def test_a_single_run_makes_what_is_due_and_goes_on_to_the_present_step(world):
    world.frames(0, 1, 2, 3)
    world.be_at(4.1)  # the frame of the step before was not forecast from yet

    def wait(seconds: float) -> None:
        world.clock.go(seconds)
        if world.clock.elapsed() > 4.3 * 300 and not (world.incoming / "frame_0004.h5").exists():
            world.frame(4)

    with world.service() as service:
        status, line = service.make_newest(wait)
    assert status == Exit.PUBLISHED
    assert "12:20" in line
    assert world.published() == [3, 4]


def test_a_single_run_can_be_told_to_end_while_it_waits(world):
    world.frames(0, 1, 2)
    world.be_at(3.1)
    told = []
    with world.service(stopping=lambda: len(told) > 2) as service, pytest.raises(Stopping):
        service.make_newest(lambda seconds: (told.append(1), world.clock.go(seconds)))
