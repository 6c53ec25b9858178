import json

import numpy as np

from data_prep.frames import Tally
from data_prep.report import Gap, Report, gaps_of
from data_prep.sources import Refusal

STEP = np.timedelta64(5, "m")


def times(*clock: str) -> np.ndarray:
    return np.array([f"2020-06-01T{time}" for time in clock], dtype="datetime64[ns]")


def test_missing_times_that_follow_one_another_are_one_gap():
    assert gaps_of(times("00:05", "00:10", "01:00"), STEP) == [
        Gap("2020-06-01T00:05", "2020-06-01T00:10", 2),
        Gap("2020-06-01T01:00", "2020-06-01T01:00", 1),
    ]
    assert gaps_of(times(), STEP) == []


def test_the_text_names_what_was_refused_below_the_source_and_the_json_holds_all():
    report = Report("/archive", "r.zarr", files=30, written=10, seconds=2.0, tally=Tally(1000, 500, 50, 12.5))
    report.refuse([Refusal(f"/archive/day/{n:02d}.h5", None, "is damaged") for n in range(20)])
    report.mark(np.datetime64("2020-06-01T00:05"), 1 | 4)
    text = report.as_text()
    assert "10 new frame(s), 30 file(s) found, 2.0 s, 5 frames/s" in text
    assert "no data 50.0%; of the rest wet (0.1 mm/h or more) 10.00%; largest rate 12.5 mm/h" in text
    assert "marked repeated: 1 frame(s), first 2020-06-01T00:05" in text
    assert "20 refused:\n  day/00.h5: is damaged" in text
    assert "and 10 more" in text
    content = json.loads(report.as_json())
    assert [entry["file"] for entry in content["refused"]] == [f"day/{n:02d}.h5" for n in range(20)]
    assert content["marked"] == [{"time": "2020-06-01T00:05", "marks": ["repeated", "coverage_drop"]}]
    assert content["tally"]["largest"] == 12.5
