import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.verification.arrays import blocks, cells_of, comparisons, floating, namespace, sort_members


@pytest.mark.parametrize("count", range(1, 13))
def test_the_network_sorts_every_pattern_of_zeros_and_ones(count):
    # The zero-one principle (Knuth): a network that sorts all of these sorts anything.
    patterns = np.array(list(itertools.product((0, 1), repeat=count)), np.float32).T
    ordered = np.stack(sort_members(list(patterns.copy())))
    np.testing.assert_array_equal(ordered, np.sort(patterns, axis=0))


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), dry=st.floats(0, 1))
def test_the_network_sorts_ensembles_of_any_size(count, seed, dry):
    rng = np.random.default_rng(seed)
    members = np.where(rng.random((count, 50)) < dry, 0, rng.gamma(0.5, 2, (count, 50)))
    np.testing.assert_array_equal(sort_members(list(members.copy())), np.sort(members, axis=0))


@pytest.mark.parametrize("count", [41, 64, 100, 257])
def test_the_network_sorts_large_ensembles(count):
    members = np.random.default_rng(count).random((count, 20))
    np.testing.assert_array_equal(sort_members(list(members.copy())), np.sort(members, axis=0))


def test_the_network_is_far_smaller_than_all_pairs():
    assert len(comparisons(20)) == 103  # of 190 pairs


def test_torch_sorts_as_numpy_does():
    members = np.random.default_rng(0).random((7, 30)).astype(np.float32)
    ordered = sort_members(list(torch.from_numpy(members.copy())))
    assert all(isinstance(row, torch.Tensor) for row in ordered)
    np.testing.assert_array_equal(torch.stack(ordered).numpy(), np.sort(members, axis=0))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("share", [0, 0.4, 1])
def test_blocks_of_cells_hold_every_cell_that_counts_once(kind, share):
    mask = np.random.default_rng(0).random((150, 301)) < share  # more than two blocks of 16384
    seen = np.zeros(mask.size, int)
    for cells in cells_of(kind(mask)):
        seen[cells] += 1
    np.testing.assert_array_equal(seen.reshape(mask.shape), mask)


def test_no_cell_is_one_empty_block():
    assert [len(cells) for cells in cells_of(np.zeros((3, 4), bool))] == [0]


def test_blocks_end_where_the_cells_do():
    assert [range(40_000)[cells] for cells in blocks(40_000, np.zeros(1))] == [
        range(16_384),
        range(16_384, 32_768),
        range(32_768, 40_000),
    ]


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_whole_numbers_become_floating_and_others_stay_as_they_are(kind):
    whole, single, double = kind([1, 2]), kind([0.5]), kind(np.array([0.5]))
    assert floating(whole).dtype == namespace(whole).float32
    assert floating(single) is single
    assert floating(double) is double
