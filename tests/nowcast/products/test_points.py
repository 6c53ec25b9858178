import csv
import json

import numpy as np
import pytest
from verification_models import Noisy

from data_prep.schema import RefusedInput
from nowcast.products.forecast_file import read_forecast, write_forecast
from nowcast.products.points import read_places
from nowcast.products.write import Products, write_products

ROW, COLUMN = 20, 33


@pytest.fixture
def forecast(make_rain, tmp_path):
    """A forecast whose last rows have no data."""
    members = Noisy().forecast(make_rain(6, missing_rows=4), lead_steps=3, members=4)
    write_forecast(members, tmp_path / "f.nc")
    return read_forecast(tmp_path / "f.nc")


@pytest.fixture
def written(forecast, tmp_path):
    """What is written of a cell with rain, one without data, a place beside the grid and one far away."""
    lat, lon = forecast["lat"].values, forecast["lon"].values
    rows = [("Rain, cell", ROW, COLUMN), ("no data", 62, 30)]
    lines = [f'"{name}",{lat[row, column]},{lon[row, column]}' for name, row, column in rows]
    lines += ["beside,52.0,9.0", "antipode,-52,-175"]
    (tmp_path / "places.csv").write_text("\n".join(["name,lat,lon", *lines]) + "\n")
    products = Products(kinds=(), picture=False, loop=None, points=str(tmp_path / "places.csv"),
                        percentiles=(50.0,), thresholds=(1.0,))  # fmt: skip
    files = write_products(tmp_path / "f.nc", tmp_path / "out", products, stem="f")
    assert [(file.role, file.path.name) for file in files] == [
        ("points", "f_points.csv"),
        ("points", "f_points.json"),
    ]
    return tmp_path / "out"


def test_a_place_has_the_members_of_the_cell_it_lies_in(forecast, written):
    rows = list(csv.DictReader((written / "f_points.csv").open()))
    assert len(rows) == 4 * 3
    for lead in range(3):
        members = forecast[:, lead, ROW, COLUMN].values
        assert (rows[lead]["name"], rows[lead]["status"]) == ("Rain, cell", "ok")
        assert rows[lead]["time"] == f"2020-06-01T00:{30 + 5 * lead}:00Z"
        assert (rows[lead]["reference_time"], rows[lead]["model"]) == ("2020-06-01T00:25:00Z", "noisy")
        assert (rows[lead]["members"], rows[lead]["seed"]) == ("4", "0")
        assert float(rows[lead]["lead_minutes"]) == 5 * (lead + 1)
        assert float(rows[lead]["mean"]) == pytest.approx(members.mean(), abs=1e-4)
        assert float(rows[lead]["percentile_50"]) == pytest.approx(np.median(members), abs=1e-4)
        assert float(rows[lead]["probability_1"]) == np.mean(members >= 1)


def test_a_place_without_data_has_no_zero_but_says_so(written):
    rows = list(csv.DictReader((written / "f_points.csv").open()))
    for name, status in (
        ("no data", "no coverage"),
        ("beside", "outside the grid"),
        ("antipode", "outside the grid"),
    ):
        of_place = [row for row in rows if row["name"] == name]
        assert len(of_place) == 3
        assert {row["status"] for row in of_place} == {status}
        assert {row["mean"] + row["percentile_50"] + row["probability_1"] for row in of_place} == {""}


def test_the_json_says_the_same_and_where_it_comes_from(written):
    document = json.loads((written / "f_points.json").read_text())
    assert document["reference_time"] == "2020-06-01T00:25:00Z"
    assert (document["model"], document["members"], document["seed"]) == ("noisy", "4", "0")
    assert document["input_frames"].endswith("2020-06-01T00:25 observed")
    rows = list(csv.DictReader((written / "f_points.csv").open()))
    entries = [(place["name"], entry) for place in document["places"] for entry in place["forecast"]]
    for row, (name, entry) in zip(rows, entries, strict=True):
        assert row["name"] == name
        assert row["status"] == entry["status"]
        assert row["mean"] == ("" if entry["mean"] is None else str(entry["mean"]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,latitude,lon\nA,1,2\n", "KeyError: 'lat'"),
        ("name,lat,lon\nA,north,2\n", "could not convert"),
        ("name,lat,lon\nA,1\n", "TypeError"),
        ("name,lat,lon\nA,95,2\n", "A.*95"),
        ("name,lat,lon\nA,nan,2\n", "nan"),
        ("name,lat,lon\n", "came: none in"),
        (None, "No such file"),
    ],
)
def test_a_file_that_tells_no_places_is_refused(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "places.csv").write_text(text)
    with pytest.raises(RefusedInput, match=reason):
        read_places(tmp_path / "places.csv")
