import json
import time
import warnings

import numpy as np
import pytest
import xarray as xr
from drawing import compared
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.quality import FRAME_MARKS
from data_prep.schema import RefusedInput, open_store
from nowcast.plotting.stores import HARMLESS_MARKS, STATES, plot_calendar, read_archive

picture = compared(dpi=50)
STEP = np.timedelta64(5, "m").astype("timedelta64[ns]")
START = np.datetime64("2014-03-01T00:00", "ns")


def made_store(path, *, frames, lost=(), marks=None, split=True, told=True):
    """A store of one cell with a clock of 5 minutes, of which some numbers are lost and others marked."""
    clock = START + STEP * np.arange(frames)
    there = np.ones(frames, bool)
    there[list(lost)] = False
    count = int(there.sum())
    coordinates = {"time": clock[there], "missing_times": clock[~there], "y": [0.0], "x": [0.0]}
    if split:
        coordinates["split"] = ("time", (np.flatnonzero(there) // 288 % 7 // 5).astype(np.int8))
    about = {
        "title": "Radar of a test",
        "institution": "Nobody",
        "license": "CC0-1.0",
        "time_step_minutes": 5.0,
    }
    rain = xr.DataArray(np.zeros((count, 1, 1), np.float32), dims=("time", "y", "x"))
    table = np.zeros(frames, np.uint8)
    for name, places in (marks or {}).items():
        table[list(places)] |= FRAME_MARKS[name]
    bits = {"flag_masks": list(FRAME_MARKS.values()), "flag_meanings": " ".join(FRAME_MARKS)}
    day = np.arange(frames) / 288
    record = {
        "marks": ("time", table[there], bits),
        "observed": ("time", np.where(day < 3, 0.95, 0.7)[there].astype(np.float32)),
        "wet": ("time", (0.1 + 0.1 * np.sin(day))[there].astype(np.float32)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's word on consolidated metadata
        xr.Dataset({"rainfall_rate": rain}, coordinates, about).to_zarr(
            path, zarr_format=3, consolidated=True
        )
        if told:
            xr.Dataset(record).to_zarr(path, group="frames", zarr_format=3, consolidated=False)
    return path


def keys_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def count_of(archive, state):
    return int(np.count_nonzero(archive.state == STATES.index(state)))


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory):
    """Twelve days with a gap over midnight, one lost frame that was refused, and marked ones."""
    path = tmp_path_factory.mktemp("stores") / "fortnight.zarr"
    lost = [100, *range(1000, 1200)]
    marks = {"level_jump": range(2000, 2100), "saturated": (2099, 2100), "mask_changed": range(3000)}
    made_store(path, frames=12 * 288, lost=lost, marks=marks)
    refused = [
        {"file": "a", "time": "2014-03-01T08:20", "reason": "x"},
        {"file": "b", "time": "", "reason": "y"},
    ]
    (path.parent / "fortnight.zarr.report.json").write_text(json.dumps({"refused": refused}))
    return path


@picture
def test_a_calendar_looks_as_before(fortnight):
    return plot_calendar(fortnight)


@picture
def test_a_short_archive_looks_as_before(tmp_path):
    return plot_calendar(made_store(tmp_path / "a.zarr", frames=24, lost=(7, 8), marks={"gone_dry": [12]}))


def test_every_time_is_present_doubtful_refused_or_missing(fortnight):
    archive = read_archive(fortnight)
    assert archive.time.size == 12 * 288
    assert {state: count_of(archive, state) for state in STATES} == {
        "present": 12 * 288 - 201 - 101, "doubtful": 101, "refused": 1, "missing": 200
    }  # fmt: skip
    assert archive.time[archive.state == STATES.index("refused")] == START + 100 * STEP
    assert archive.marks == {"level_jump": 100, "saturated": 2}
    assert "mask_changed" in HARMLESS_MARKS


def test_the_key_has_the_numbers_and_the_longest_gap(fortnight):
    figure = plot_calendar(fortnight)
    assert keys_of(figure)[1] == "doubtful 101 (2.92 %)\nlevel jump 100, saturated 2"
    assert keys_of(figure)[3] == "missing 200 (5.79 %)\nin 2 gaps, the longest 16.7 h"
    assert keys_of(figure)[4].startswith("train ")
    assert any("Data: Nobody, CC0-1.0" in text.get_text() for text in figure.texts)
    assert any("2014-03-01 00:00 to 2014-03-12 23:55 UTC" in text.get_text() for text in figure.texts)


def test_shares_by_day_are_those_of_its_frames(fortnight):
    *_, frames, observed, wet = plot_calendar(fortnight).axes
    shown = frames.patches[0].get_data().values
    assert shown[0] == pytest.approx(100 * 287 / 288)
    assert shown[3] == pytest.approx(100 * 136 / 288)  # the fourth day lacks numbers 1000 to 1151
    assert observed.patches[0].get_data().values[[2, 4]] == pytest.approx([95, 70])
    assert wet.get_title(loc="left") == "wet cells"


def test_an_opened_store_or_a_part_of_it_gives_the_same(fortnight):
    whole, opened = read_archive(fortnight), read_archive(open_store(fortnight))
    np.testing.assert_array_equal(opened.state, whole.state)
    part = read_archive(open_store(fortnight).isel(time=slice(0, 500)))
    np.testing.assert_array_equal(part.state, whole.state[:501])


def test_two_days_are_one_strip_and_more_are_rows(tmp_path):
    strip = plot_calendar(made_store(tmp_path / "a.zarr", frames=576))
    assert [ax.get_ylabel() for ax in strip.axes] == [
        "frames",
        "split",
        "cells with data\n(%)",
        "wet cells\n(%)",
    ]
    rows = plot_calendar(made_store(tmp_path / "b.zarr", frames=578))
    assert rows.axes[0].get_xlabel() == "time of day (UTC)"


def test_a_store_without_splits_and_without_a_record_shows_what_is_there(tmp_path):
    path = made_store(tmp_path / "a.zarr", frames=900, lost=(5,), split=False, told=False)
    figure = plot_calendar(path)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["", "frames"]
    assert keys_of(figure)[0].startswith("present 899")
    assert len(plot_calendar(open_store(path).isel(time=slice(0, 50))).axes) == 1


def test_a_single_frame_is_drawn(tmp_path):
    figure = plot_calendar(made_store(tmp_path / "a.zarr", frames=1))
    FigureCanvasAgg(figure).draw()
    assert keys_of(figure)[0] == "present 1 (100 %)"


def test_frames_that_are_all_without_data_are_drawn(tmp_path):
    path = made_store(tmp_path / "a.zarr", frames=900)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nothing = xr.Dataset(
            {name: ("time", np.full(900, np.nan, np.float32)) for name in ("observed", "wet")}
        )
        nothing.to_zarr(path, group="frames", mode="a", zarr_format=3, consolidated=False)
    figure = plot_calendar(path)
    assert figure.axes[-1].patches[0].get_data().values.max() == 0


def test_a_report_that_cannot_be_read_tells_nothing(tmp_path):
    path = made_store(tmp_path / "a.zarr", frames=24, lost=(7,))
    (tmp_path / "a.zarr.report.json").write_text("{")
    assert count_of(read_archive(path), "missing") == 1


def test_what_is_no_store_or_empty_is_refused(tmp_path):
    with pytest.raises(RefusedInput, match="a radar store is a Zarr v3 directory"):
        plot_calendar(tmp_path)
    with pytest.raises(RefusedInput, match="a calendar is of a store; came: int"):
        plot_calendar(3)
    with pytest.raises(RefusedInput, match="a store with frames"):
        plot_calendar(xr.Dataset())
    with pytest.raises(RefusedInput, match="a store with frames"):
        plot_calendar(made_store(tmp_path / "a.zarr", frames=2, lost=(0, 1)))


def test_a_record_of_fewer_frames_than_the_store_has_is_refused(tmp_path):
    path = made_store(tmp_path / "a.zarr", frames=24, told=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = xr.Dataset({name: ("time", np.zeros(9, np.uint8)) for name in ("marks", "observed", "wet")})
        short.to_zarr(path, group="frames", zarr_format=3, consolidated=False)
    with pytest.raises(RefusedInput, match="came: 9 of them .*nowcast check"):
        plot_calendar(path)


def test_a_year_takes_little_time(tmp_path):
    path = made_store(tmp_path / "a.zarr", frames=366 * 288, lost=range(5000, 5500))
    began = time.perf_counter()
    FigureCanvasAgg(plot_calendar(path)).draw()
    assert time.perf_counter() - began < 10
