import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from data_prep.schema import PACKED_MISSING, open_store
from nowcast.checks import _largest_square, check_store
from nowcast.cli import main

STEP = np.timedelta64(5, "m")


@pytest.fixture
def changed(store, tmp_path):
    """Change the packed rates (0.01 mm/h; frames of 64 x 64) in a copy of a good store; gives the copy.

    What the store tells of its frames is left out of the copy.
    """

    def change(edit) -> str:
        copy = tmp_path / "copy.zarr"
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("frames"))
        array = zarr.open_array(copy, path="rainfall_rate", mode="r+")
        values = array[:]
        edit(values)
        array[:] = values
        return copy

    return change


def tell(store, **columns):
    """Write the group that tells of each frame."""
    marks = {"flag_values": [1, 2, 4], "flag_meanings": "repeated mask_changed coverage_drop"}
    data = {name: ("time", np.asarray(values)) for name, values in columns.items()}
    if "marks" in data:
        data["marks"] = (*data["marks"], marks)
    shutil.rmtree(store / "frames", ignore_errors=True)
    xr.Dataset(data).to_zarr(store, group="frames", mode="w", zarr_format=3, consolidated=False)


def truth(store):
    rain = open_store(store)["rainfall_rate"].values
    observed = np.isfinite(rain).mean(axis=(1, 2))
    return {"observed": observed.astype(np.float32),
            "wet": ((rain >= 0.1).mean(axis=(1, 2)) / observed).astype(np.float32)}  # fmt: skip


def test_a_good_store_has_no_findings(store):
    facts, findings = check_store(store)
    assert findings == []
    # Four of 64 rows are missing.
    assert "94% of the cells hold data in half of all frames or more" in "\n".join(facts)
    assert "is 60 x 60: 256 x 256 does not fit" in "\n".join(facts)
    assert not any("gap" in fact or "clutter" in fact or "marked" in fact for fact in facts)


def test_density_and_gaps_are_told_the_longest_first(make_store):
    facts, findings = check_store(make_store(60, leave_out=(10, 30, 31, 32)))
    assert findings == []
    start = facts.index("93.3% of the clock's times have a frame; 2 gap(s), the longest first:")
    assert facts[start + 1 : start + 3] == [
        "gap of 3 frame(s), 15 min, after 2020-06-01T02:25",
        "gap of 1 frame(s), 5 min, after 2020-06-01T00:45",
    ]


def test_many_lines_of_one_kind_are_counted_not_listed(make_store):
    facts, _ = check_store(make_store(60, leave_out=tuple(range(1, 40, 3))))
    assert len([fact for fact in facts if fact.startswith("gap of")]) == 10
    assert "and 3 more like the last" in facts


def test_a_frame_that_comes_again_is_a_finding(changed):
    def repeat(values):
        values[40] = values[20]

    assert check_store(changed(repeat))[1] == ["the frame at 2020-06-01T03:20 is that at 2020-06-01T01:40"]


def test_frames_that_stand_still_are_one_finding(changed):
    def freeze(values):
        values[21:25] = values[20]
        values[50] = values[49]

    assert check_store(changed(freeze))[1] == [
        "frozen: 5 identical frames with rain from 2020-06-01T01:40 to 2020-06-01T02:00",
        "frozen: 2 identical frames with rain from 2020-06-01T04:05 to 2020-06-01T04:10",
    ]


def test_dry_frames_and_single_cells_of_clutter_may_be_equal(changed):
    def dry(values):
        values[20:40][values[20:40] != PACKED_MISSING] = 0
        values[30:40, 5, 5:14] = 40

    assert check_store(changed(dry))[1] == []


def test_a_frame_without_data_is_a_finding(changed):
    def lose(values):
        values[7] = PACKED_MISSING

    assert check_store(changed(lose))[1] == [
        "no observed cell at 2020-06-01T00:35: its time belongs in missing_times"
    ]


def test_rates_that_cannot_be_are_findings(changed):
    path = changed(lambda _values: None)
    dataset = open_store(path).load().drop_encoding()
    for name in dataset.variables:
        dataset[name].encoding.clear()
    rain = dataset["rainfall_rate"].copy()
    rain[3, 5, 5], rain[4, 6, 6], rain[5, 7, 7] = -1, 700, np.inf
    shutil.rmtree(path)
    dataset.assign(rainfall_rate=rain.astype("float32")).to_zarr(path, zarr_format=3, consolidated=True)
    assert check_store(path)[1] == [
        "negative rain rates at 2020-06-01T00:15",
        "rain rates above 655.34 mm/h at 2020-06-01T00:20",
        "rain rates above 655.34 mm/h at 2020-06-01T00:25",
    ]


@pytest.mark.parametrize(("frames", "told"), [(300, True), (200, False)])
def test_a_cell_that_is_always_wet_looks_like_clutter_in_a_long_archive(make_store, make_rain, frames, told):
    rain = make_rain(frames, speed=(0.5, 0.25))
    rain.values[: int(frames * 0.97), 12, 30] += 0.5
    facts, _ = check_store(make_store(rain=rain, sampling=None))
    lines = [fact for fact in facts if "clutter" in fact]
    if told:
        assert lines[0].startswith("1 cell(s) look like clutter")
        assert lines[0].endswith("the first is row 12, column 30")
    else:
        assert lines == []


@pytest.mark.parametrize("side", [1, 7, 20])
def test_the_largest_square_is_found(side):
    inside = np.zeros((20, 31), bool)
    inside[:side, 4 : 4 + side] = True
    inside[0, :] = True
    assert _largest_square(inside) == side
    assert _largest_square(np.zeros((5, 5), bool)) == 0


def test_a_store_that_is_what_it_was_passes_and_its_marks_are_told(changed):
    path = changed(lambda _values: None)
    marks = np.zeros(90, np.uint8)
    marks[[3, 8]], marks[9] = 1, 1 | 4
    tell(path, **truth(path), marks=marks)
    facts, findings = check_store(path)
    assert findings == []
    assert (
        "marked frames: repeated 3 (first 2020-06-01T00:15), coverage_drop 1 (first 2020-06-01T00:45)"
        in facts
    )


def test_a_lost_shard_is_a_finding_since_it_reads_as_dry(changed):
    path = changed(lambda _values: None)
    tell(path, **truth(path))
    shutil.rmtree(path / "rainfall_rate" / "c" / "1")
    findings = check_store(path)[1]
    # The second shard holds frames 24 to 47; four rows of 64 were missing.
    seen = "100.0% of the cells hold data at 2020-06-01T02:00, 93.8% when it was prepared"
    assert findings[0] == f"{seen}: part of the store is lost"
    assert findings[-1] == "and 14 more like the last"


def test_a_lost_shard_of_a_grid_without_missing_cells_is_a_finding_since_it_rained(make_store, make_rain):
    path = make_store(rain=make_rain(60, speed=(0.5, 0.25)), sampling=None)
    tell(path, **truth(path))
    shutil.rmtree(path / "rainfall_rate" / "c" / "1")
    findings = check_store(path)[1]
    assert len(findings) == 11
    assert findings[0].startswith("no rain at 2020-06-01T02:00, ")


def test_cells_that_were_masked_for_their_marks_are_not_lost(changed):
    def mask(values):
        values[20, :5] = PACKED_MISSING

    path = changed(mask)
    told = truth(path)
    told["observed"][20] += 5 / 64
    tell(path, **told)
    assert len(check_store(path)[1]) == 1
    marked = np.zeros(90, np.uint32)
    marked[20] = 5 * 64
    tell(path, **told, marked=marked)
    assert check_store(path)[1] == []


def test_a_table_of_fewer_frames_than_the_store_is_a_finding(changed):
    path = changed(lambda _values: None)
    tell(path, observed=truth(path)["observed"][:40])
    assert check_store(path)[1] == ["group frames tells observed of fewer than the 90 frames"]


def test_what_an_unfinished_run_left_in_the_table_is_not_looked_at(changed):
    path = changed(lambda _values: None)
    tell(path, observed=np.append(truth(path)["observed"], [0, 0]))
    assert check_store(path)[1] == []


def test_check_asks_the_validator_of_mlcast_where_it_is_told_to(store, capsys):
    pytest.importorskip("mlcast_dataset_validator")
    assert main(["check", str(store)]) == 0
    assert "MLCast" not in capsys.readouterr().out
    assert main(["check", "--mlcast", "true", str(store)]) == 1
    out = capsys.readouterr().out
    assert "FINDING: MLCast 3.3 Minimum 3-year coverage" in out
    assert "\nMLCast 4.2 DataArray compression" in out


def test_samples_are_exported_by_command(store, tmp_path, capsys):
    assert main(["export-samples", str(store), "--output", str(tmp_path / "i.csv"), "--split", "train"]) == 0
    rows = (tmp_path / "i.csv").read_text().splitlines()
    assert rows[0] == "t,x,y"
    assert capsys.readouterr().out == f"{tmp_path / 'i.csv'}: {len(rows) - 1} window(s)\n"
    assert main(["export-samples", str(store), "--output", str(tmp_path / "i.txt")]) == 1
    assert "change --output" in capsys.readouterr().err
