import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from nowcast.evaluation import report
from nowcast.evaluation.report import write_report
from nowcast.evaluation.report_sections import Section
from nowcast.evaluation.report_words import LEADS, cells_sentence, facts, headline, score_rows
from nowcast.plotting.charts import Undefined

LEADS_MADE = np.array([5, 15, 30, 60, 90]) * np.timedelta64(1, "m").astype("timedelta64[ns]")
HOSTILE = "</td><script>alert('x')</script><img src=http://example.org/x.png> & \"$\\frac{"


def scores_of(crps, *, models=("persistence", "steps"), leads=LEADS_MADE, cells=100.0) -> xr.Dataset:
    """CRPS, CSI and the skill of both, of models with constant or given CRPS; the first is the reference."""
    crps = np.broadcast_to(np.asarray(crps, float).reshape(len(models), -1), (len(models), len(leads)))
    csi = np.stack([0.9 - crps, 0.5 - crps], axis=-1)
    dims = ("model", "lead_time")
    variables = {
        "crps": (dims, crps),
        "crps_skill": (dims, 1 - crps / crps[:1]),
        "csi": ((*dims, "threshold"), csi),
        "cells": (dims, np.broadcast_to(cells, crps.shape)),
    }
    coordinates = {
        "model": list(models),
        "member_count": ("model", [1] + [10] * (len(models) - 1)),
        "lead_time": leads,
        "threshold": [1.0, 4.0],
    }
    return xr.Dataset(variables, coordinates, attrs={"reference": models[0]})


def intervals_of(scores: xr.Dataset, low: float, high: float, **attrs) -> xr.Dataset:
    """Of the CRPS skill of all lead times together."""
    like = scores["crps"].isel(lead_time=0, drop=True)
    names = {"crps_skill_all_leads_low": low, "crps_skill_all_leads_high": high}
    found = {name: xr.full_like(like, value) for name, value in names.items()}
    return xr.Dataset(found, attrs={"blocks": 6, "level": 0.95, "indicative": 1, **attrs})


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text outside of styles, and tags left open."""

    VOID = {"meta", "img", "br", "path", "circle"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    """Write a report with one section of one panel, because all of them take a while, and read it."""

    def few(*_):
        yield Section("crps", "CRPS", "note <b>", (lambda: panel("CRPS"), undefined))
        yield Section("empty", "Nothing here", "note", (undefined,))

    monkeypatch.setattr(report, "sections", few)

    def written(scores, **given) -> Page:
        write_report(tmp_path / "report.html", scores=scores, **given)
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert not page.open
        return page

    return written


def undefined() -> Figure:
    raise Undefined("a panel has a value", came="none", do="verify more cases")


def panel(title: str) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().set_title(title, loc="left")
    return figure


def test_a_whole_report_is_one_file_without_network_or_script(tmp_path):
    scores = scores_of([[0.5], [0.4]])
    write_report(tmp_path / "report.html", scores=scores)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 4  # CRPS and its skill, CSI at two thresholds
    for source in sources:
        assert source.startswith("data:image/png;base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
        assert picture.width > 400
    assert all(attrs["href"].startswith("#") for tag, attrs in page.tags if tag == "a")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_every_link_leads_to_a_section(page_of):
    page = page_of(scores_of([[0.5], [0.4]]))
    links = [attrs["href"].removeprefix("#") for tag, attrs in page.tags if tag == "a"]
    assert links == [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert "facts" in links
    assert "empty" not in links


def test_whatever_comes_from_outside_is_escaped(page_of):
    scores = scores_of([[0.5], [0.4]], models=("persistence", HOSTILE))
    page = page_of(
        scores,
        failures=[(HOSTILE, np.datetime64("2026-06-01T12:00"), HOSTILE)],
        about={HOSTILE: HOSTILE, "store": "/data/<b>.zarr"},
        case_maps=[(HOSTILE, panel(""))],
    )
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert page.text.count("<script>alert('x')</script>") >= 5
    assert "/data/<b>.zarr" in page.text


def test_the_headline_says_the_skill_and_its_interval():
    # CRPS 0.385 against 0.5: 23 % less
    scores = scores_of([[0.5], [0.385]])
    first, last = headline(scores, intervals_of(scores, 0.15, 0.31))
    assert first == (
        "steps: CRPS 23 % below persistence in the mean over all cells and lead times (95 % interval 15 to "
        "31 % below, 6 blocks). At 30 min: CRPS 23 % below persistence; CSI at 1 mm/h 0.52 against 0.40."
    )
    assert last == "persistence, the reference: CRPS 0.500 mm/h."


def test_the_mean_of_the_headline_weighs_lead_times_by_their_cells():
    # (0.1 * 300 + 0.5 * 100) / 400 = 0.2 against 0.5
    scores = scores_of([[0.5, 0.5], [0.1, 0.5]], leads=LEADS_MADE[:2], cells=np.array([300.0, 100.0]))
    assert headline(scores, None)[0].startswith("steps: CRPS 60 % below persistence in the mean")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(-0.12, 0.03, "from 12 % above to 3 % below"), (-0.2, -0.1, "10 to 20 % above"),
     (0.0, 0.1, "0 to 10 % below")],
)  # fmt: skip
def test_an_interval_says_on_which_side_of_the_reference_it_lies(low, high, told):
    scores = scores_of([[0.5], [0.55]])
    (first, _) = headline(scores, intervals_of(scores, low, high))
    assert "CRPS 10 % above persistence" in first
    assert f"(95 % interval {told}, 6 blocks)" in first


def test_a_p_value_stands_beside_the_interval_it_belongs_to():
    scores = scores_of([[0.5], [0.4]])
    found = intervals_of(scores, 0.1, 0.3)
    found["crps_all_leads_p_value"] = xr.full_like(found["crps_skill_all_leads_low"], 0.0312)
    assert "6 blocks, p = 0.031 in a permutation test)" in headline(scores, found)[0]


def test_without_an_interval_the_headline_names_none():
    scores = scores_of([[0.5], [0.4]])
    for found in (None, intervals_of(scores, np.nan, np.nan), xr.Dataset(attrs={"blocks": 1})):
        assert "interval" not in headline(scores, found)[0]


def test_the_best_model_comes_first_and_the_reference_last():
    scores = scores_of([[0.5], [0.6], [0.3]], models=("persistence", "bad", "good"))
    assert [line.split(":")[0].split(",")[0] for line in headline(scores, None)] == [
        "good",
        "bad",
        "persistence",
    ]


def test_scores_that_are_all_undefined_make_a_page_that_says_so(page_of):
    page = page_of(scores_of([[np.nan], [np.nan]], cells=0.0))
    assert "No score could be worked out" in page.text
    assert "No cell could be scored." in page.text
    assert "nan" not in page.text.lower().replace("financ", "")


def test_the_reference_alone_makes_a_page(page_of):
    page = page_of(scores_of([[0.5]], models=("persistence",)))
    assert "persistence, the reference: CRPS 0.500 mm/h." in page.text


def test_one_block_is_said_to_be_too_few(page_of):
    scores = scores_of([[0.5], [0.4]])
    page = page_of(scores, intervals=xr.Dataset(attrs={"blocks": 1, "level": 0.95, "indicative": 1}))
    assert "No intervals: the cases are one block" in page.text


def test_failures_are_named_and_counted(page_of):
    failures = [("steps", np.datetime64("2026-06-01T12:00") + n, f"reason {n}") for n in range(23)]
    page = page_of(scores_of([[0.5], [0.4]]), failures=[*failures, ("sprog", failures[0][1], "dry")])
    assert "Forecasts that failed: 24 (steps 23, sprog 1)." in page.text
    assert "2026-06-01 12:01 UTC" in page.text
    assert "reason 19" in page.text
    assert "reason 20" not in page.text
    assert "and 4 more" in page.text


def test_facts_are_told_once_and_models_with_their_members():
    rows = facts(scores_of([[0.5], [0.4]]), {"reference": "x", "block_length": "90 min", "seed": 0})
    assert rows == [
        ("models", "persistence (deterministic), steps (10 members)"),
        ("reference", "persistence"),
        ("lead times", "5 from 5 to 90 min"),
        ("block length", "90 min"),
        ("seed", "0"),
    ]


def test_the_cells_left_at_the_last_lead_time_are_told():
    scores = scores_of([[0.5], [0.4]], cells=np.array([200000, 9, 9, 9, 50000]))
    assert cells_sentence(scores).endswith(
        ": 200\u202f000 at 5 min, 50\u202f000 at 90 min (25 % of those), all cases together."
    )


def test_models_on_different_cells_are_noticed():
    scores = scores_of([[0.5], [0.4]], cells=np.array([[100.0], [90.0]]))
    assert "different numbers of cells" in cells_sentence(scores)


def test_the_table_of_numbers_has_values_with_intervals_below():
    scores = scores_of([[0.5], [0.4]])
    found = xr.Dataset({"crps_low": scores["crps"] - 0.05, "crps_high": scores["crps"] + 0.07})
    leads, groups = score_rows(scores, found)
    assert tuple(leads) == LEADS
    tables = dict(groups)
    assert tables["Skill in CRPS against persistence (%)"] == [("steps", [("+20", "")] * 5)]
    assert tables["CRPS (mm/h)"][1] == ("steps", [("0.400", "0.350 to 0.470")] * 5)
    assert tables["CSI of the ensemble mean, ≥ 4 mm/h"][1] == ("steps", [("0.100", "")] * 5)


def test_only_the_whole_field_of_several_regions_is_shown(page_of):
    whole = scores_of([[0.5], [0.4]])
    both = xr.concat([whole, whole * np.nan], dim="region", combine_attrs="override")
    both = both.assign_coords(member_count=whole["member_count"]).assign_attrs(whole.attrs)
    assert "steps: CRPS 20 % below persistence" in page_of(both).text


def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path, page_of):
    def broken():
        yield "caption", panel("")
        raise RuntimeError("no forecast")

    page_of(scores_of([[0.5], [0.4]]))
    before = (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(RuntimeError):
        page_of(scores_of([[0.5], [0.1]]), case_maps=broken())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_figures_have_a_description_and_a_size(page_of):
    page = page_of(scores_of([[0.5], [0.4]]), case_maps=[("best case", panel(""))])
    first, second = (attrs for tag, attrs in page.tags if tag == "img")
    assert (first["alt"], first["width"], first["height"]) == ("CRPS, panel 1: CRPS", "192", "96")
    assert second["alt"] == "Maps of rain: best case"
    assert re.search(r"default-src 'none'", str(page.tags))
