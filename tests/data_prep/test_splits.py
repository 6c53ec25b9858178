import time

import numpy as np
import pytest

from data_prep.schema import SPLITS, RefusedInput
from data_prep.splits import Splits, split_codes
from nowcast.options import read_recipe


def times(count: int, *, minutes: int = 60, start: str = "2020-01-01") -> np.ndarray:
    return np.datetime64(start, "ns") + np.arange(count) * np.timedelta64(minutes, "m")


def names(codes: np.ndarray) -> list[str]:
    return [SPLITS[code] for code in codes]


def split_at(text: str, splits: Splits) -> str:
    return names(split_codes(np.array([text], "datetime64[ns]"), splits))[0]


def test_blocks_are_dealt_in_turn():
    splits = Splits(block_minutes=120, cycle=("train", "test"), origin="2020-01-01T00:00", guard_minutes=0)
    assert names(split_codes(times(6), splits)) == ["train", "train", "test", "test", "train", "train"]


def test_a_guard_gap_ends_a_block_before_another_split_and_no_other():
    splits = Splits(
        block_minutes=180, cycle=("train", "train", "test"), origin="2020-01-01T00:00", guard_minutes=60
    )
    assert names(split_codes(times(9), splits)) == [*["train"] * 5, "guard", *["test"] * 2, "guard"]


def test_the_split_of_a_frame_does_not_change_when_the_archive_grows():
    short, long = split_codes(times(100), Splits()), split_codes(times(1000), Splits())
    np.testing.assert_array_equal(short, long[:100])


@pytest.mark.parametrize("scheme", ["blocks", "dgmr"])
def test_the_split_of_a_frame_depends_on_its_time_alone(scheme):
    events = (("2020-02-27T03:00", "2020-03-02T01:00"), ("2020-03-02T06", "2020-03-02T07"))
    splits = Splits(scheme=scheme, guard_minutes=90, events=events)
    every = times(24 * 100, start="2019-12-20")
    alone = np.concatenate([split_codes(every[n : n + 1], splits) for n in range(every.size)])
    np.testing.assert_array_equal(split_codes(every, splits), alone)
    np.testing.assert_array_equal(split_codes(every[::-1], splits), alone[::-1])


def test_frames_before_the_origin_have_a_split_too():
    splits = Splits(block_minutes=60, cycle=("train", "test"), origin="2020-01-02T00:00", guard_minutes=0)
    assert names(split_codes(times(2), splits)) == ["train", "test"]


def test_dgmr_validates_on_the_first_day_of_every_month_and_tests_on_whole_years():
    splits = Splits(scheme="dgmr", test_years=(2019,), guard_minutes=0)
    expected = {
        "2018-02-01T00:00": "validation", "2018-02-01T23:59": "validation", "2018-02-02T00:00": "train",
        "2018-02-28T23:55": "train", "2018-12-31T23:55": "train", "2019-01-01T00:00": "test",
        "2019-07-01T12:00": "test", "2019-12-31T23:55": "test", "2020-01-01T00:00": "validation",
        "2020-01-02T00:00": "train",
    }  # fmt: skip
    assert {text: split_at(text, splits) for text in expected} == expected


def test_dgmr_guards_the_last_minutes_before_every_change_of_split():
    splits = Splits(scheme="dgmr", test_years=(2019,), guard_minutes=120)
    expected = {
        "2018-01-31T21:55": "train", "2018-01-31T22:00": "guard", "2018-01-31T23:55": "guard",
        "2018-02-01T21:55": "validation", "2018-02-01T22:00": "guard", "2018-02-02T00:00": "train",
        "2018-12-31T22:00": "guard", "2019-01-01T22:00": "test", "2019-12-31T22:00": "guard",
    }  # fmt: skip
    assert {text: split_at(text, splits) for text in expected} == expected


def test_an_event_stays_together_where_it_begins():
    hours = {"block_minutes": 120, "cycle": ("train", "test"), "origin": "2020-01-01T00:00"}
    splits = Splits(**hours, guard_minutes=0, events=(("2020-01-01T01:00", "2020-01-01T04:00"),))
    # Without the event: train train test test train train test test.
    dealt = names(split_codes(times(8), splits))
    assert dealt == ["train", "train", "train", "train", "train", "train", "test", "test"]
    late = Splits(**hours, guard_minutes=0, events=(("2020-01-01T03:00", "2020-01-01T05:00Z"),))
    dealt = names(split_codes(times(8), late))
    assert dealt == ["train", "train", "test", "test", "test", "test", "test", "test"]


def test_an_event_is_guarded_at_its_borders():
    splits = Splits(
        block_minutes=240, cycle=("train", "test"), origin="2020-01-01T00:00", guard_minutes=60,
        events=(("2020-01-01T03:00", "2020-01-01T05:00"),),
    )  # fmt: skip
    # Train to 05:00, the event's last minute included; test from 05:01 on; train again from 08:00.
    dealt = names(split_codes(times(9), splits))
    assert dealt == [*["train"] * 5, "guard", "test", "guard", "train"]


def test_the_last_day_of_an_event_is_a_whole_day():
    splits = Splits(scheme="dgmr", guard_minutes=0, events=(("2018-01-30", "2018-02-01"),))
    assert split_at("2018-02-01T23:55", splits) == "train"
    assert split_at("2018-03-01T23:55", splits) == "validation"


def test_an_event_may_follow_another_at_once():
    splits = Splits(
        scheme="dgmr", guard_minutes=0, events=(("2018-02-01", "2018-02-02"), ("2018-02-03", "2018-03-01"))
    )
    assert split_at("2018-02-02T12:00", splits) == "validation"
    assert split_at("2018-02-03T00:00", splits) == "train"
    assert split_at("2018-03-01T12:00", splits) == "train"


@pytest.mark.parametrize("scheme", ["blocks", "dgmr"])
def test_ten_years_of_frames_are_dealt_in_about_a_second(scheme):
    begun = time.perf_counter()
    codes = split_codes(times(1_051_200, minutes=5), Splits(scheme=scheme))
    assert time.perf_counter() - begun < 3
    assert set(np.unique(codes)) >= {0, 1, 3}


def test_lists_of_a_yaml_file_are_years_and_events(tmp_path):
    path = tmp_path / "prep.yaml"
    path.write_text(
        "splits:\n  scheme: dgmr\n  test_years: [2019, 2020]\n  events:\n"
        "    - [2018-01-30T00:00, 2018-02-01T06:00]\n    - [2018-05-30, 2018-06-01T06:00:00Z]\n"
    )
    splits = read_recipe(str(path)).splits
    assert splits.test_years == (2019, 2020)
    assert splits.events == (
        ("2018-01-30T00:00", "2018-02-01T06:00"), ("2018-05-30", "2018-06-01T06:00:00Z")
    )  # fmt: skip
    assert split_at("2018-02-01T03:00", splits) == "train"


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"cycle": ("train", "tset")}, "cycle"),
        ({"cycle": ()}, "cycle"),
        ({"guard_minutes": 1440}, "guard gap"),
        ({"guard_minutes": float("nan")}, "guard gap"),
        ({"block_minutes": 0}, "a second to a century"),
        ({"block_minutes": 1e300}, "a second to a century"),
        ({"scheme": "dgmr", "block_minutes": 1e5, "guard_minutes": 1440}, "guard gap"),
        ({"scheme": "weeks"}, "blocks or dgmr"),
        ({"test_years": (2019,)}, "belong to the scheme dgmr"),
        ({"origin": "yesterday"}, "ISO 8601"),
        ({"origin": "20000-01-01"}, "ISO 8601"),
        ({"events": (("2020-01-01", "soon"),)}, "ISO 8601"),
        ({"events": (("2020-01-02", "2020-01-01"),)}, "ends after it begins"),
        ({"events": (("2020-01-01", "2020-01-03"), ("2020-01-03", "2020-01-04"))}, "do not overlap"),
    ],
)
def test_senseless_settings_are_refused(wrong, rule):
    with pytest.raises(RefusedInput, match=rule):
        Splits(**wrong)
