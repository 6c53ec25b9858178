import numpy as np
import pytest
import xarray as xr

from nowcast.verification.score_text import (
    WIDTH,
    at,
    bounds,
    interval_note,
    nearest,
    over_leads,
    overall_skill,
    score_table,
    shortened,
)


def scores_of(crps, cells, *, models=("persistence", "steps"), step=5) -> xr.Dataset:
    """CRPS, MAE and CSI with their skill, (model, lead_time) and threshold, the first model as reference."""
    crps, cells = np.asarray(crps, float), np.asarray(cells, float)
    leads = np.arange(1, crps.shape[1] + 1) * np.timedelta64(step, "m").astype("timedelta64[ns]")
    csi = np.stack([0.5 - crps / 10, 0.25 - crps / 10], axis=-1)
    by_lead, by_event = ("model", "lead_time"), ("model", "lead_time", "threshold")
    with np.errstate(invalid="ignore", divide="ignore"):
        variables = {
            "crps": (by_lead, crps),
            "mae": (by_lead, 2 * crps),
            "csi": (by_event, csi),
            "cells": (by_lead, cells),
            "crps_skill": (by_lead, 1 - crps / crps[:1]),
            "mae_skill": (by_lead, 1 - crps / crps[:1]),
            "csi_skill": (by_event, (csi - csi[:1]) / (1 - csi[:1])),
        }
    coordinates = {"model": list(models), "lead_time": leads, "threshold": [1.0, 5.0]}
    return xr.Dataset(variables, coordinates, attrs={"reference": models[0]})


def intervals_of(scores: xr.Dataset, name: str, half_width: float, **attrs) -> xr.Dataset:
    found = {f"{name}_low": scores[name] - half_width, f"{name}_high": scores[name] + half_width}
    return xr.Dataset(found, attrs={"blocks": 12, "level": 0.95, **attrs})


TWO = scores_of([[0.5, 0.5], [0.4, 0.2]], [[100, 300], [100, 300]])


def test_a_mean_over_lead_times_weighs_them_by_their_cells():
    np.testing.assert_allclose(over_leads(TWO, "crps"), [0.5, (0.4 * 100 + 0.2 * 300) / 400])
    np.testing.assert_allclose(overall_skill(TWO), [0.0, 0.5])


def test_a_lead_time_that_one_model_lacks_counts_for_none():
    scores = scores_of([[0.5, 0.7], [0.4, np.nan]], [[100, 300], [100, 300]])
    np.testing.assert_allclose(over_leads(scores, "crps"), [0.5, 0.4])


def test_without_a_cell_the_mean_is_undefined():
    scores = scores_of([[np.nan, np.nan]] * 2, np.zeros((2, 2)))
    assert np.isnan(over_leads(scores, "crps")).all()
    assert np.isnan(overall_skill(scores)).all()


def test_the_nearest_values_come_once_and_in_order():
    assert nearest([0.5, 2.0, 8.0], (4.0, 1.0, 1.5)) == [0.5, 2.0]
    assert nearest([], (1.0,)) == []


def test_at_takes_the_nearest_lead_time_and_threshold():
    # of 5 and 10 min the one nearest to 30, of 1 and 5 mm/h that nearest to 4
    assert float(at(TWO["csi"], lead_time=30, threshold=4).sel(model="steps")) == pytest.approx(0.25 - 0.02)
    assert float(at(TWO["crps"], lead_time=1, threshold=4).sel(model="steps")) == pytest.approx(0.4)


def test_bounds_are_none_where_no_interval_is_known():
    unknown = intervals_of(TWO, "crps", np.nan)
    assert bounds(None, "crps", TWO["crps"]) is None
    assert bounds(unknown, "crps", TWO["crps"]) is None
    assert bounds(intervals_of(TWO, "crps", 0.1), "mae", TWO["mae"]) is None


def test_bounds_of_models_that_have_none_are_nan():
    low, high = bounds(intervals_of(TWO.isel(model=[1]), "crps", 0.1), "crps", TWO["crps"])
    np.testing.assert_allclose(low.sel(model="steps"), [0.3, 0.1])
    assert np.isnan(high.sel(model="persistence")).all()


def test_the_table_has_each_score_with_skill_and_interval():
    lines = score_table(TWO, intervals_of(TWO, "crps_skill", 0.1)).splitlines()
    assert lines[0] == "CRPS, mm/h; skill against persistence in % (and its interval)"
    assert lines[1].split() == ["lead", "persistence", "steps"]
    assert lines[2].split() == ["5", "min", "0.500", "0.400", "+20", "(10..30)"]
    assert lines[3].split() == ["10", "min", "0.500", "0.200", "+60", "(50..70)"]
    assert "CSI of the ensemble mean, 1 mm/h or more; skill against persistence in %" in lines


def test_of_ensembles_the_csi_of_the_matched_mean_and_of_the_members_is_shown_too():
    more = {"matched_csi": TWO["csi"] + 0.01, "member_csi": TWO["csi"] - 0.1}
    scores = TWO.assign(more)
    titles = [f"CSI of the {what}, 1 mm/h or more" for what in ("probability-matched mean", "members")]
    alike = scores.assign_coords(member_count=("model", [1, 1]))
    apart = scores.assign_coords(member_count=("model", [1, 10]))
    for deterministic in (scores, alike):
        assert not [line for line in score_table(deterministic).splitlines() if line in titles]
    lines = score_table(apart).splitlines()
    assert [line for line in lines if line in titles] == titles
    # 0.5 - 0.4 / 10 + 0.01, without a skill that nobody worked out
    assert lines[lines.index(titles[0]) + 2].split() == ["5", "min", "0.460", "0.470"]


def test_small_rain_has_a_decimal_more_and_what_is_undefined_a_dash():
    lines = score_table(scores_of([[0.0512], [np.nan]], [[9], [0]])).splitlines()
    assert lines[2].split() == ["5", "min", "0.0512", "-"]


@pytest.mark.parametrize("count", [5, 8])
def test_no_line_is_wider_than_a_terminal(count):
    models = ["persistence", *(f"a rather long name of model number {n}" for n in range(1, count))]
    values = np.full((count, 18), 0.0912)
    scores = scores_of(values, values, models=models)
    table = score_table(scores, intervals_of(scores, "crps_skill", 0.99, indicative=1))
    assert max(map(len, table.splitlines())) <= WIDTH
    assert table.count("CRPS, mm/h") == (1 if count == 5 else 2)


def test_of_many_lead_times_the_usual_ones_are_shown():
    values = np.full((2, 18), 0.5)
    lines = score_table(scores_of(values, values)).splitlines()
    shown = [line.split()[0] for line in lines[2:10]]
    assert shown == ["5", "10", "15", "30", "45", "60", "75", "90"]
    assert lines[10] == ""


def test_the_reference_stands_first_wherever_it_was_given():
    lines = score_table(TWO.isel(model=[1, 0])).splitlines()
    assert lines[1].split() == ["lead", "persistence", "steps"]
    assert lines[2].split() == ["5", "min", "0.500", "0.400", "+20"]


@pytest.mark.parametrize(
    ("attrs", "told"),
    [
        (None, "No intervals were made"),
        ({"blocks": 1}, "the cases are one block"),
        ({"blocks": 30, "level": 0.9}, "Intervals of 90 % come from drawing 30 blocks"),
        ({"blocks": 5, "indicative": 1}, "so few blocks as 5 are an indication, and too narrow"),
        ({"blocks": 5, "smallest_p_value": 0.0625}, "No p-value can be below 0.062"),
    ],
)
def test_the_note_says_where_intervals_come_from_or_why_there_are_none(attrs, told):
    assert told in interval_note(None if attrs is None else xr.Dataset(attrs=attrs))


def test_a_name_cannot_command_the_terminal():
    assert shortened("red\x1b[31m\nname") == "red?[31m?name"
    assert shortened("abcdefghijklmnop", 9) == "abcd…mnop"
