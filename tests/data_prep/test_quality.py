import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep import quality
from data_prep.quality import (
    CELL_MARKS,
    FRAME_MARKS,
    FrameSummary,
    Quality,
    mark_cells,
    mark_frame,
    refuse_senseless,
    summarise,
)
from data_prep.rain_rate import to_rain_rate
from data_prep.readers import read
from data_prep.schema import RefusedInput

NAN = np.nan


def rates(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def marked(cells: np.ndarray, name: str) -> list[list[int]]:
    """Row and column of the cells with a mark."""
    return np.argwhere(cells & CELL_MARKS[name]).tolist()


def names(marks: int) -> set[str]:
    return {name for name, bit in FRAME_MARKS.items() if marks & bit}


def summary_of(rate: np.ndarray) -> FrameSummary:
    return summarise(rate, mark_cells(rate, Quality()))


def rain(seed: int = 1, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    """Rain in half of the cells, every value its own, the last ten columns missing."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, 4, shape).astype(np.float32) * (rng.random(shape) < 0.5)
    rate[:, -10:] = NAN
    return rate


def test_marks_are_bits_of_their_own_that_fit_a_byte() -> None:
    for bits in (CELL_MARKS, FRAME_MARKS):
        assert sorted(bits.values()) == [2**n for n in range(len(bits))]
        assert sum(bits.values()) < 256


def test_a_wet_cell_without_rain_around_it_is_speckle() -> None:
    rate = rates(
        [
            [0.1, 0, 0, 0, NAN, 5],
            [0, 0, 0.009, 0, NAN, NAN],
            [0, 0, 0.5, 0, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [2, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [0.3, 0.01, 0, 0.09, 0, 0],
        ]
    )
    # 1 and 1 touch at a corner; 0.01 beside 0.3 is rain, 0.009 beside 0.5 is not; 0.09 alone is not wet.
    expected = [[0, 0], [0, 5], [2, 2], [4, 0]]
    assert marked(mark_cells(rate, Quality()), "speckle") == expected
    assert marked(mark_cells(rate, Quality(speckle_neighbours=0)), "speckle") == []
    assert marked(mark_cells(rate, Quality(speckle_neighbours=2)), "speckle") == sorted(
        [*expected, [3, 4], [4, 5], [6, 0]]
    )


@pytest.mark.parametrize("least", [1, 2, 3, 5, 8])
def test_speckle_equals_a_count_written_out_cell_by_cell(least: int) -> None:
    rate = rain(3)
    rate[np.random.default_rng(4).random(rate.shape) < 0.7] = 0
    raining = np.pad(rate >= 0.01, 1)
    expected = []
    for row, column in np.argwhere(rate >= 0.1):
        neighbours = raining[row : row + 3, column : column + 3].sum() - 1
        if neighbours < least:
            expected.append([int(row), int(column)])
    assert expected
    assert marked(mark_cells(rate, Quality(speckle_neighbours=least)), "speckle") == expected


def test_a_cell_far_above_the_second_largest_around_it_is_a_spike() -> None:
    rate = np.full((5, 12), 2, dtype=np.float32)
    rate[2, 2] = 31  # 15.5 times 2
    rate[2, 5], rate[2, 6] = 50, 40  # a pair: the second largest around either is 2
    rate[2, 9] = 29  # below spike_rate
    assert marked(mark_cells(rate, Quality()), "spike") == [[2, 2], [2, 5], [2, 6]]
    assert marked(mark_cells(rate, Quality(spike_ratio=16)), "spike") == [[2, 5], [2, 6]]
    rate[1, 2], rate[1, 1] = 3.2, 3.2  # now 31 is less than 10 times the second largest
    assert marked(mark_cells(rate, Quality()), "spike") == [[2, 5], [2, 6]]


def test_a_spike_needs_half_of_its_neighbours_observed() -> None:
    rate = np.zeros((4, 9), dtype=np.float32)
    rate[0, 0] = 40  # five of eight lie beyond the edge
    rate[0, 4] = 40  # three lie beyond the edge
    rate[2, 7], rate[1, 6:9], rate[2, 6] = 40, NAN, NAN  # four are missing
    assert marked(mark_cells(rate, Quality()), "spike") == [[0, 4], [2, 7]]
    rate[2, 8] = NAN
    assert marked(mark_cells(rate, Quality()), "spike") == [[0, 4]]


def test_cells_above_the_range_are_marked_at_their_place() -> None:
    rate = np.full((3, 4), 100, dtype=np.float32)
    rate[1, 2], rate[0, 0] = 128.01, NAN
    assert marked(mark_cells(rate, Quality()), "above_range") == [[1, 2]]
    assert marked(mark_cells(rate, Quality(largest_rate=500)), "above_range") == []


def test_poor_cells_are_those_with_data_and_a_low_quality_index() -> None:
    rate, index = rates([[0, 1, 1, NAN, 1]]), rates([[0.2, 0.2, NAN, 0.2, 0.5]])
    assert marked(mark_cells(rate, Quality(poor_below=0.5), index), "poor") == [[0, 0], [0, 1]]
    assert marked(mark_cells(rate, Quality(), index), "poor") == []


def test_marks_add_up_and_nothing_is_erased() -> None:
    rate = np.zeros((3, 3), dtype=np.float32)
    rate[1, 1] = 200
    before = rate.copy()
    cells = mark_cells(rate, Quality(poor_below=0.5), np.zeros_like(rate))
    assert cells.dtype == np.uint8
    assert cells[1, 1] == 1 + 2 + 4 + 8
    assert cells[0, 0] == 8
    summarise(rate, cells)
    np.testing.assert_array_equal(rate, before)


def test_the_mask_names_the_marks_that_become_no_data() -> None:
    assert Quality().mask_bits == 0
    assert Quality(mask=("spike", "speckle", "spike")).mask_bits == 6


def test_a_summary_counts_shares_of_the_observed_cells() -> None:
    rate = rates([[0, 0.05, 0.1, 4], [4, NAN, NAN, 0]])
    cells = np.array([[0, 0, 2, 0], [6, 0, 0, 0]], dtype=np.uint8)
    summary = summarise(rate, cells)
    assert summary.observed == 6 / 8
    assert summary.wet == 3 / 6
    assert summary.largest == 4
    assert summary.at_largest == 2
    assert summary.mean == pytest.approx(8.15 / 6)
    assert summary.marked == 2
    # 0, 5, 10, 400 hundredths, and missing as 0; the bits of cells 5 and 6 of 8.
    assert summary.fingerprint == zlib.crc32(np.array([0, 5, 10, 400, 400, 0, 0, 0], dtype=np.uint16))
    assert summary.mask_fingerprint == zlib.crc32(bytes([0b00000110]))


@pytest.mark.parametrize("cells", [1, 50, 400, 1_000_000])
def test_a_summary_does_not_depend_on_how_the_work_is_divided(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows of 56 cells, a multiple of the eight bits of a byte.
    rate = rain(5, (31, 56))
    rate[[3, 17, 30], 4] = 60
    whole = summary_of(rate)
    assert (whole.largest, whole.at_largest) == (60, 3)
    monkeypatch.setattr(quality, "_BAND_CELLS", cells)
    divided = summary_of(rate)
    assert divided.mean == pytest.approx(whole.mean, rel=1e-6)
    assert divided._replace(mean=0) == whole._replace(mean=0)


def test_a_frame_that_comes_again_although_it_rains_is_repeated() -> None:
    first, again, dry = summary_of(rain()), summary_of(rain()), summary_of(np.where(rain() >= 0, 0, rain()))
    assert names(mark_frame(again, first, Quality())) == {"repeated"}
    assert mark_frame(again, None, Quality()) == 0
    assert mark_frame(dry, dry, Quality()) == 0
    assert "repeated" not in names(mark_frame(summary_of(rain(2)), first, Quality()))


def test_a_change_below_the_step_of_a_store_is_a_repetition_and_one_of_a_step_is_not() -> None:
    rate = np.full((20, 20), 1, dtype=np.float32)
    less, more = rate.copy(), rate.copy()
    less[3, 4], more[3, 4] = 1.004, 1.01
    assert names(mark_frame(summary_of(less), summary_of(rate), Quality())) == {"repeated"}
    assert mark_frame(summary_of(more), summary_of(rate), Quality()) == 0


def test_one_other_cell_without_data_changes_the_mask() -> None:
    rate, other = rain(), rain()
    dry = tuple(np.argwhere(rate == 0)[0])
    other[dry] = NAN
    assert names(mark_frame(summary_of(other), summary_of(rate), Quality())) == {"mask_changed"}


@pytest.mark.parametrize(("columns", "drops"), [(37, False), (35, True)])
def test_a_tenth_less_of_the_observed_area_is_a_drop(columns: int, *, drops: bool) -> None:
    before, rate = rain(1), rain(2)
    rate[:, columns:] = NAN  # of 40
    assert ("coverage_drop" in names(mark_frame(summary_of(rate), summary_of(before), Quality()))) == drops
    assert "coverage_drop" not in names(mark_frame(summary_of(before), summary_of(rate), Quality()))


@pytest.mark.parametrize(("factor", "jumps"), [(4.5, False), (5.5, True), (1 / 4.5, False), (1 / 5.5, True)])
def test_a_mean_five_times_that_of_the_frame_before_is_a_jump(factor: float, *, jumps: bool) -> None:
    before, rate = summary_of(rain(1)), summary_of(rain(1) * np.float32(factor))
    assert ("level_jump" in names(mark_frame(rate, before, Quality()))) == jumps


def test_the_first_shower_is_no_jump() -> None:
    dry = np.zeros((50, 50), dtype=np.float32)
    shower = dry.copy()
    shower[10:14, 10:15] = 20
    # 20 of 2500 cells, 0.8 %, are wet in one, and all in the other.
    assert mark_frame(summary_of(shower), summary_of(dry + np.float32(0.01)), Quality()) == 0
    assert mark_frame(summary_of(dry + 10), summary_of(shower), Quality()) == 0


@pytest.mark.parametrize(("wet_rows", "dries"), [(1, True), (0, False)])
def test_rain_that_is_gone_everywhere_at_once_is_marked(wet_rows: int, *, dries: bool) -> None:
    dry, shower = np.zeros((50, 50), np.float32), np.zeros((50, 50), np.float32)
    shower[:wet_rows, :] = 3  # 2 % of the cells
    shower[10, :10] = 3  # 0.4 %, which may end by itself
    assert names(mark_frame(summary_of(dry), summary_of(shower), Quality())) == (
        {"gone_dry"} if dries else set()
    )
    assert mark_frame(summary_of(shower), summary_of(dry), Quality()) == 0


@pytest.mark.parametrize(("cells", "rate", "saturates"), [(5, 115, False), (6, 115, True), (6, 49, False)])
def test_many_cells_at_exactly_the_largest_rate_tell_of_a_ceiling(
    cells: int, rate: float, *, saturates: bool
) -> None:
    values = rain()
    values[values > 10] = 10
    values[7, :cells] = rate
    assert names(mark_frame(summary_of(values), None, Quality())) == ({"saturated"} if saturates else set())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda r: np.where(r >= 0, r, NAN) * NAN, "without any observed cell"),
        (lambda r: np.where(r == r.flat[3], -3, r), "not negative"),
        (lambda r: np.where(r == r.flat[3], -np.inf, r), "not negative"),
        (lambda r: np.where(r == r.flat[3], np.inf, r), "is finite"),
        (lambda r: r * 1e4, "128 mm/h in most wet cells"),
        (lambda r: np.where(np.isnan(r), 9.97e36, 0), "128 mm/h in most wet cells"),
    ],
)
def test_what_cannot_be_rain_is_refused_by_name(
    change: Callable[[np.ndarray], np.ndarray], rule: str
) -> None:
    rate = change(rain()).astype(np.float32)
    with pytest.raises(RefusedInput, match=rule) as refusal:
        refuse_senseless(rate, "radar.h5")
    assert "radar.h5" in str(refusal.value)


def test_rain_drought_and_clutter_are_not_refused() -> None:
    refuse_senseless(rain(), "rain")
    refuse_senseless(np.where(rain() >= 0, 0, NAN), "dry")
    # 99 strong cells and nothing else: clutter on a dry day, too little to judge the scale by.
    clutter = np.zeros((100, 100), dtype=np.float32)
    clutter.flat[:99] = 1205
    refuse_senseless(clutter, "clutter")
    # 2 % of the cells are wet, half of them, no more, above 128 mm/h.
    hail = np.zeros((100, 100), dtype=np.float32)
    hail.flat[:200], hail.flat[:100] = 50, 150
    refuse_senseless(hail, "hail")
    hail.flat[100] = 150
    with pytest.raises(RefusedInput, match="most wet cells"):
        refuse_senseless(hail, "hail")
    # Of 100 x 200 cells 199 are not 1 %.
    refuse_senseless(np.concatenate([clutter * 0, clutter + 0]), "less than a per cent")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"largest_rate": 0}, "largest_rate"),
        ({"largest_rate": NAN}, "largest_rate"),
        ({"speckle_neighbours": 9}, "speckle_neighbours"),
        ({"spike_rate": 0}, "spike_rate"),
        ({"spike_ratio": 0.5}, "spike_ratio"),
        ({"poor_below": 1.5}, "poor_below"),
        ({"coverage_drop": -0.1}, "coverage_drop"),
        ({"level_jump": 0.2}, "level_jump"),
        ({"level_wet_share": 2}, "level_wet_share"),
        ({"saturated_rate": -1}, "saturated_rate"),
        ({"saturated_cells": 0}, "saturated_cells"),
        ({"mask": ("frozen",)}, "quality.mask names marks of cells"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, rule: str) -> None:
    with pytest.raises(RefusedInput, match=rule):
        Quality(**settings)


@pytest.mark.radar
@pytest.mark.parametrize(
    ("pattern", "z_r", "speckle"),
    [("knmi/2010/08/*.h5", (200.0, 1.6), 1e-3), ("fmi/pgm/20170509/*.pgm.gz", (223.0, 1.53), 2e-4)],
)
def test_marks_of_real_events_are_rare_and_what_is_broken_shows(
    radar_data: Path, pattern: str, z_r: tuple[float, float], speckle: float
) -> None:
    files = sorted(radar_data.glob(pattern))[10:16]
    frames = [to_rain_rate(read(path), z_r_a=z_r[0], z_r_b=z_r[1]).values for path in files]
    cells = np.stack([mark_cells(rate, Quality()) for rate in frames])
    wet = (np.stack(frames) >= 0.1).sum()
    assert 0 < np.count_nonzero(cells & CELL_MARKS["speckle"]) < speckle * wet
    assert np.count_nonzero(cells & CELL_MARKS["spike"]) < 1e-4 * wet
    summaries = [summarise(*pair) for pair in zip(frames, cells, strict=True)]
    for (path, rate), (before, after) in zip(
        zip(files[1:], frames[1:], strict=True), pairwise(summaries), strict=True
    ):
        refuse_senseless(rate, path)
        assert not mark_frame(after, before, Quality())
        assert names(mark_frame(after, after, Quality())) == {"repeated"}
        # Rates taken for accumulations of 5 minutes.
        assert "level_jump" in names(mark_frame(summary_of(rate * 12), before, Quality()))
