import numpy as np
import pytest

from data_prep.schema import SPLITS, RefusedInput
from data_prep.splits import Splits, split_codes


def times(count: int, *, minutes: int = 60) -> np.ndarray:
    return np.datetime64("2020-01-01", "ns") + np.arange(count) * np.timedelta64(minutes, "m")


def names(codes: np.ndarray) -> list[str]:
    return [SPLITS[code] for code in codes]


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


def test_frames_before_the_origin_have_a_split_too():
    splits = Splits(block_minutes=60, cycle=("train", "test"), origin="2020-01-02T00:00", guard_minutes=0)
    assert names(split_codes(times(2), splits)) == ["train", "test"]


@pytest.mark.parametrize("wrong", [{"cycle": ("train", "tset")}, {"cycle": ()}, {"guard_minutes": 1440}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(RefusedInput):
        Splits(**wrong)
