import numpy as np
import pytest
import xarray as xr
import zarr
from verification_models import STEP, frame_time

from data_prep.schema import RefusedInput, open_radar
from nowcast.evaluation.cases import Case, context_at, sampled_cases, valid_starts


def test_every_valid_start_has_its_whole_window_and_none_is_forgotten(make_store):
    radar = open_radar(make_store(60, leave_out=(20,)))
    starts = valid_starts(radar, context_frames=4, lead_steps=18, part="all")
    kept = set(range(60)) - {20}
    expected = [n for n in range(60) if {n + offset for offset in range(-3, 19)} <= kept]
    np.testing.assert_array_equal(starts, [frame_time(n) for n in expected])
    assert len(expected) == 60 - 21 - 21  # of 39 windows of 22 frames the 18 + 3 with frame 20 are broken


def test_held_out_windows_hold_no_training_frame(store):
    radar = open_radar(store)  # frames 0 to 29 train, 30 to 59 validation, 60 to 89 test
    starts = valid_starts(radar, context_frames=4, lead_steps=18)
    np.testing.assert_array_equal(starts, [frame_time(n) for n in range(33, 72)])
    train = valid_starts(radar, context_frames=4, lead_steps=18, part="train")
    np.testing.assert_array_equal(train, [frame_time(n) for n in range(3, 12)])


def test_a_stride_takes_every_so_many_th_start(store):
    radar = open_radar(store)
    starts = valid_starts(radar, context_frames=4, lead_steps=18, stride=10)
    np.testing.assert_array_equal(starts, [frame_time(n) for n in (33, 43, 53, 63)])
    with pytest.raises(RefusedInput, match="stride are 1 or more"):
        valid_starts(radar, context_frames=4, lead_steps=18, stride=0)


def test_a_store_without_a_long_enough_window_is_refused(store):
    with pytest.raises(RefusedInput, match="unbroken window of 44 frames in part 'train'"):
        valid_starts(open_radar(store), context_frames=4, lead_steps=40, part="train")


def test_without_splits_everything_is_held_out_and_no_part_can_be_asked_for(make_rain):
    rain = make_rain(10)
    assert len(valid_starts(rain, context_frames=4, lead_steps=3)) == 4
    with pytest.raises(RefusedInput, match="use --part all"):
        valid_starts(rain, context_frames=4, lead_steps=3, part="test")


def test_sampled_windows_weigh_one_over_their_probability(store):
    radar = open_radar(store)
    index = xr.open_zarr(store, group="samples", chunks=None, consolidated=False).load()
    cases = sampled_cases(store, radar, context_frames=4, lead_steps=18, stride=1, part="all")
    assert len(cases) == index.sizes["sample"] > 20
    found = {(case.time, case.rows[0], case.columns[0]): case.weight for case in cases}
    for number in range(index.sizes["sample"]):
        one = index.isel(sample=number)
        key = (one["start_time"].values + 3 * STEP, int(one["y"]), int(one["x"]))
        assert found[key] == pytest.approx(1 / float(one["probability"]))
    assert {case.cut(radar).shape[1:] for case in cases} == {(32, 32)}
    assert [case.time for case in cases] == sorted(case.time for case in cases)


def test_sampled_windows_are_of_the_part_that_is_asked_for(store):
    radar = open_radar(store)
    asked = {"context_frames": 4, "lead_steps": 18, "stride": 1}
    number = {part: len(sampled_cases(store, radar, part=part, **asked))
              for part in ("all", "held_out", "train", "validation", "test")}  # fmt: skip
    assert number["all"] == number["train"] + number["held_out"]
    assert number["held_out"] == number["validation"] + number["test"]
    assert 0 < number["test"] < number["all"]


def test_windows_that_cannot_be_taken_are_refused(store, make_store):
    radar = open_radar(store)
    with pytest.raises(RefusedInput, match="windows hold 4 \\+ 19 frames"):
        sampled_cases(store, radar, context_frames=4, lead_steps=19, stride=1, part="all")
    with pytest.raises(RefusedInput, match="stride are 1 or more"):
        sampled_cases(store, radar, context_frames=4, lead_steps=18, stride=0, part="all")
    without = make_store(30, sampling=None)
    with pytest.raises(RefusedInput, match="drawn from a sample index"):
        sampled_cases(without, radar, context_frames=4, lead_steps=18, stride=1, part="all")


def test_a_part_without_windows_is_refused(make_store):
    short = make_store(30)  # all of them train
    assert zarr.open_group(short, path="samples", mode="r")["split"].size
    with pytest.raises(RefusedInput, match="none in 'test'"):
        sampled_cases(short, open_radar(short), context_frames=4, lead_steps=18, stride=1, part="test")


def test_cases_of_one_time_have_names_of_their_own():
    whole = Case(frame_time(0))
    window = Case(frame_time(0), (16, 48), (0, 32))
    assert whole.name == "2020-06-01T000000"
    assert window.name == "2020-06-01T000000_16_0"


def test_a_time_outside_a_store_is_refused_with_the_nearest_one(store):
    with pytest.raises(RefusedInput, match="the nearest frame is 2020-06-01T00:00"):
        context_at(open_radar(store), np.datetime64("2019-01-01T00:00", "ns"), 4)


def test_a_context_with_a_gap_is_refused_by_the_name_of_the_missing_time(make_store):
    radar = open_radar(make_store(30, leave_out=(10,)))
    with pytest.raises(RefusedInput, match="no frame at 2020-06-01T00:50"):
        context_at(radar, np.datetime64("2020-06-01T01:00", "ns"), 4)
    with pytest.raises(RefusedInput, match="no frame at 2020-05-31T23:50"):
        context_at(radar, np.datetime64("2020-06-01T00:05", "ns"), 4)
