import re

import numpy as np
import pytest
import xarray as xr
from verification_models import SETTINGS, Noisy, store_forecasts

from data_prep.schema import RefusedInput, open_radar
from nowcast.evaluation.verify_store import StoreVerification, read_regions, verify_store


@pytest.fixture
def without_report(monkeypatch):
    """The report takes longer than all else; the maps for it are still looked for."""
    monkeypatch.setattr("nowcast.evaluation.report.write_report", lambda *_, case_maps, **__: list(case_maps))


def settings(store, output, **more) -> StoreVerification:
    asked = {"model": ["extrapolation"], "stride": 13, "lead_steps": 2, "members": 2, "maps": 0}
    return StoreVerification(
        **{**asked, "store": str(store), "output": str(output), "scores": SETTINGS, **more}
    )


def write_regions(path, radar, labels: np.ndarray, meanings: str) -> str:
    attributes = {"flag_values": np.unique(labels), "flag_meanings": meanings}
    xr.Dataset(
        {"region": (("y", "x"), labels, attributes)}, {a: radar[a].values for a in ("y", "x")}
    ).to_netcdf(path)
    return str(path)


def test_a_store_is_verified_into_a_report_scores_and_sums(store, tmp_path):
    told, findings = verify_store(settings(store, tmp_path, maps=1))
    assert not findings
    assert "part held_out" in told
    assert "extrapolation" in told
    page = (tmp_path / "report.html").read_text()
    assert "extrapolation" in page
    assert not re.search(r"""(src|href)=["']?https?://""", page)
    with xr.open_dataset(tmp_path / "scores.nc", decode_timedelta=True) as scores:
        assert list(scores["model"].values) == ["persistence", "extrapolation"]
        assert (scores["mae_skill"].sel(model="extrapolation") > 0).all()
        assert scores.attrs["reference"] == "persistence"
        assert scores.attrs["cases"] == scores.attrs["cases_asked_for"]
        assert {"store", "members", "thresholds", "nowcast_version", "block_minutes"} <= set(scores.attrs)
    assert (tmp_path / "sums.nc").is_file()
    assert len(list((tmp_path / "cases").glob("*.nc"))) == int(scores.attrs["cases"])


@pytest.mark.usefixtures("without_report")
def test_a_second_verification_computes_no_case_again(store, tmp_path):
    verify_store(settings(store, tmp_path))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cases").iterdir()}
    verify_store(settings(store, tmp_path))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cases").iterdir()} == before


@pytest.mark.usefixtures("without_report")
def test_sampled_windows_are_weighted(store, tmp_path):
    told, _ = verify_store(settings(store, tmp_path, windows=True, stride=20, part="all"))
    assert "sampled windows, weighted by 1 / probability" in told
    with xr.open_dataset(tmp_path / "scores.nc", group="case", decode_timedelta=True) as cases:
        assert (cases["weight"] >= 1).all()
        assert cases.sizes["case"] > 3


@pytest.mark.usefixtures("without_report")
def test_stored_forecasts_are_verified_and_a_missing_one_is_a_finding(store, tmp_path):
    radar = open_radar(store)
    store_forecasts(tmp_path / "noisy", Noisy(), radar, [33, 59], lead_steps=2)
    asked = {"model": [f"stored={tmp_path / 'noisy'}"], "stride": 26, "lead_steps": 2}
    told, _ = verify_store(settings(store, tmp_path / "out", **asked))
    assert "stored" in told
    (tmp_path / "noisy" / "059.nc").unlink()
    _, findings = verify_store(settings(store, tmp_path / "out", **asked))
    assert findings[0] == "2 case(s) left out, 2 failure(s)"
    assert findings[1].startswith("stored failed at")


@pytest.mark.usefixtures("without_report")
def test_regions_are_scored_apart(store, tmp_path):
    labels = np.where(np.arange(64)[:, None] < 30, 10, 20) * np.ones((1, 64), int)
    regions = write_regions(tmp_path / "regions.nc", open_radar(store), labels, "north south")
    verify_store(settings(store, tmp_path, regions=regions))
    with xr.open_dataset(tmp_path / "scores.nc", decode_timedelta=True) as scores:
        assert list(scores["region"].values) == ["all", "north", "south"]
        parts = scores["cells"].sel(region=["north", "south"]).sum("region")
        np.testing.assert_array_equal(parts, scores["cells"].sel(region="all"))


def test_regions_that_do_not_fit_are_refused(store, tmp_path):
    radar = open_radar(store)
    with pytest.raises(RefusedInput, match="NetCDF file with region"):
        read_regions(str(tmp_path / "absent.nc"), radar)
    small = write_regions(tmp_path / "small.nc", radar[:, :60], np.ones((60, 64), int), "one")
    with pytest.raises(RefusedInput, match="on the grid of the store"):
        read_regions(small, radar)
    nameless = write_regions(tmp_path / "nameless.nc", radar, np.eye(64, dtype=int), "one two three")
    with pytest.raises(RefusedInput, match="2 values, 3 names"):
        read_regions(nameless, radar)


def test_a_reference_that_never_forecasts_is_refused(store, tmp_path):
    store_forecasts(tmp_path / "noisy", Noisy(), open_radar(store), [4], lead_steps=2)
    with pytest.raises(RefusedInput, match="the reference is a model that gave forecasts"):
        verify_store(settings(store, tmp_path / "out", reference=f"stored={tmp_path / 'noisy'}"))


@pytest.mark.usefixtures("without_report")
def test_no_valid_cell_is_a_finding(store, tmp_path):
    import dataclasses

    blind = dataclasses.replace(SETTINGS, margin=40)
    _, findings = verify_store(settings(store, tmp_path, scores=blind))
    assert len(findings) == 1
    assert findings[0].startswith("no cell has a value")


@pytest.mark.parametrize("names", ["all east", "east east"])
def test_regions_are_told_apart_by_names_of_their_own(store, tmp_path, names):
    radar = open_radar(store)
    labels = np.eye(64, dtype=int)
    with pytest.raises(RefusedInput, match="of their own"):
        read_regions(write_regions(tmp_path / "r.nc", radar, labels, names), radar)


def test_regions_turned_on_their_side_are_refused(store, tmp_path):
    radar = open_radar(store)
    path = write_regions(tmp_path / "r.nc", radar, np.eye(64, dtype=int), "west east")
    with xr.open_dataset(path) as dataset:
        dataset.load().transpose("x", "y").to_netcdf(tmp_path / "turned.nc")
    with pytest.raises(RefusedInput, match=r"regions \(y, x\) lie on the grid"):
        read_regions(str(tmp_path / "turned.nc"), radar)
