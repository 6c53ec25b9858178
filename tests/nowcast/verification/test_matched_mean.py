import time

import numpy as np
import pytest
import torch

from nowcast.verification.matched_mean import matched_events, probability_matched_mean

NAN = np.nan


def rain(seed, *shape, dry=0.5, step=None):
    """Rates of which some are 0; with a step, of few values, so that many are the same."""
    rng = np.random.default_rng(seed)
    rates = np.where(rng.random(shape) < dry, 0.0, rng.gamma(0.6, 3.0, shape))
    return np.float32(rates if step is None else np.floor(rates / step) * step)


def cell_by_cell(members):
    """The same from its definition: rates and cells in two sorted lists."""
    complete = np.isfinite(members).all(0)
    rates = sorted(members[:, complete].ravel(), reverse=True)
    taken = [rates[first + (len(members) - 1) // 2] for first in range(0, len(rates), len(members))]
    total = sum(members[1:], start=members[0].copy())
    cells = sorted(zip(*np.nonzero(complete), strict=True), key=lambda cell: -total[cell])
    field = np.full(complete.shape, NAN, members.dtype)
    for cell, rate in zip(cells, taken, strict=True):
        field[cell] = rate
    return field


def test_rates_of_the_members_come_in_the_places_of_the_mean():
    # Rates 9 7 5, 4 2 0 and 0 0 0: of each three the middle one. Sums by cell 11, 4 and 12.
    members = np.array([[[9, 4, 0]], [[2, 0, 7]], [[0, 0, 5]]])
    assert probability_matched_mean(members).tolist() == [[2, 0, 7]]


def test_of_cells_with_the_same_mean_the_first_comes_first():
    # As before, with 4 in place of 5: sums by cell 11, 4 and 11.
    members = np.array([[[9, 4, 0]], [[2, 0, 7]], [[0, 0, 4]]])
    assert probability_matched_mean(members).tolist() == [[7, 0, 2]]


def test_of_an_even_number_of_members_the_larger_of_the_two_in_the_middle_is_taken():
    assert probability_matched_mean(np.array([[[8.0, 3.0]], [[7.0, 1.0]]])).tolist() == [[8, 3]]
    assert probability_matched_mean(np.array([[[4.0]], [[3.0]], [[2.0]], [[1.0]]])).tolist() == [[3]]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 20])
@pytest.mark.parametrize(("dry", "step"), [(0.0, None), (0.5, None), (0.95, None), (0.7, 0.5)])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_fast_way_is_the_definition(count, dry, step, kind):
    members = rain(count, count, 12, 17, dry=dry, step=step)
    members[0, 3:5], members[-1, 7, 7] = NAN, NAN
    np.testing.assert_array_equal(probability_matched_mean(kind(members)), cell_by_cell(members))


def test_where_any_member_is_missing_there_is_no_rate_and_none_is_taken_from_there():
    members = np.array([[[9.0, 1.0, 0.0]], [[NAN, 3.0, 0.0]]])
    np.testing.assert_array_equal(probability_matched_mean(members), [[NAN, 3, 0]])
    assert np.isnan(probability_matched_mean(members * NAN)).all()


def test_one_member_and_equal_members_are_that_member():
    member = rain(0, 30, 40, step=0.25)
    member[:3] = NAN
    for count in (1, 4, 7):
        np.testing.assert_array_equal(probability_matched_mean(np.stack([member] * count)), member)


def test_what_is_dry_in_all_members_stays_dry_and_more_as_the_members_say():
    members = rain(1, 10, 40, 50, dry=0.8)
    members[:, :20] = 0
    field = probability_matched_mean(members)
    assert (field[:20] == 0).all()
    assert (field > 0).sum() == round((members > 0).sum() / 10)
    assert (members.mean(0) > 0).sum() > 3 * (field > 0).sum()


def test_peaks_that_the_mean_has_lost_are_back_and_it_rains_as_much_as_in_the_members():
    members = rain(2, 20, 100, 100)
    field = probability_matched_mean(members)
    assert members.mean(0).max() < 0.5 * field.max() < 0.5 * members.max()
    assert field.mean() == pytest.approx(members.mean(), rel=1e-3)


def test_without_a_mean_above_nothing_its_cells_are_taken_in_order_and_nothing_is_lost():
    # The sum of two of the smallest numbers there are is one, half of it none.
    members = np.zeros((2, 1, 3), np.float32)
    members[0, 0, 1] = np.nextafter(np.float32(0), np.float32(1))
    assert probability_matched_mean(members)[0, 1] == members[0, 0, 1]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
@pytest.mark.parametrize("step", [None, 0.5])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_events_are_those_of_the_field(count, step, kind):
    members = rain(count, count, 20, 30, step=step)
    field, thresholds = probability_matched_mean(members), (0.5, 2.0, 8.0, 1e6)
    counts = np.stack([(members >= level).sum(0, dtype=np.uint8) for level in thresholds])
    mean = sum(members[1:], start=members[0].copy()) / count
    for level, events in zip(thresholds, matched_events(kind(mean), kind(counts), count), strict=True):
        np.testing.assert_array_equal(events, field >= level)
        assert (field >= level).any() == (level < 1e6)


def test_no_argument_is_changed():
    members = rain(3, 4, 8, 9)
    before = members.copy()
    members.flags.writeable = False
    probability_matched_mean(members)
    np.testing.assert_array_equal(members, before)


def test_twenty_members_of_a_large_field_take_a_fraction_of_a_second():
    members = rain(4, 20, 512, 512)
    took = []
    for _ in range(3):
        start = time.thread_time()
        probability_matched_mean(members)
        took.append(time.thread_time() - start)
    assert min(took) < 0.5
