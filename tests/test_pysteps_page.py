"""The Python of docs/pysteps.md is run as it stands, from top to bottom."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.pipeline import Recipe, prepare, prepare_arrays
from data_prep.schema import open_radar
from nowcast.forecasters.load import load_forecaster
from nowcast.products.forecast_file import write_forecast

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pysteps.md"
RECIPE = Recipe(sampling=None, time_step_minutes=5)


@pytest.fixture(scope="module")
def names(radar_data, tmp_path_factory) -> dict:
    """What the page makes of a part of the Netherlands, the sea and the edge of the radars among it."""
    pytest.importorskip("pysteps", reason="needs the extra 'baselines'")
    pytest.importorskip("cv2", reason="pysteps' Lucas-Kanade motion needs opencv")
    folder = tmp_path_factory.mktemp("page")
    (folder / "in").mkdir()
    for path in sorted((radar_data / "knmi").rglob("*.h5")):
        if "0445" <= path.stem[-4:] <= "0500":
            shutil.copyfile(path, folder / "in" / path.name)
    prepare(folder / "in", folder / "whole.zarr", RECIPE)
    part = open_radar(folder / "whole.zarr")[:, 300:500, 150:350].load()
    prepare_arrays(iter([part.drop_vars("split", errors="ignore")]), folder / "knmi.zarr", RECIPE)
    ensemble = load_forecaster("extrapolation-ensemble").forecast(part, lead_steps=3, members=2)
    write_forecast(ensemble, folder / "forecast.nc")
    found: dict = {"part": part, "made": ensemble}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
            exec(block, found)
    return found


@pytest.mark.radar
def test_the_page_reads_what_the_archive_and_the_forecast_file_hold(names):
    np.testing.assert_allclose(names["precip"], names["part"].values, rtol=1e-6)
    np.testing.assert_array_equal(names["ensemble"], names["made"].values)


@pytest.mark.radar
def test_blending_follows_the_nowcast_at_its_own_lead_time_and_the_nwp_where_there_is_none(names):
    nowcast, blended, nwp = names["ensemble_db"], names["blended"], names["nwp_db"]
    assert blended.shape == nowcast.shape == (4, 6, 200, 200)
    assert np.isfinite(blended).all()
    known = np.isfinite(nowcast[0]).all(axis=0)
    assert 0.2 < known.mean() < 1

    def alike(lead: int, other: int) -> float:
        return np.corrcoef(blended[0, lead][known], nowcast[0, other][known])[0, 1]

    for lead in range(1, 5):
        assert alike(lead, lead) > 0.9
        assert alike(lead, lead) > max(alike(lead, lead - 1), alike(lead, lead + 1))
    # The NWP begins with the analysis, the nowcast with the first lead time.
    unknown = ~np.isfinite(nowcast[0, 3])
    same = ((blended[0, 3] >= -10) == (nwp[4] >= -10))[unknown]
    assert same.mean() > 0.99


@pytest.mark.radar
def test_linear_blending_begins_with_the_nowcast_and_ends_with_the_nwp(names):
    linear, nowcast = names["linear"], names["ensemble_db"]
    assert linear.shape == nowcast.shape
    rates = np.where(nowcast < -10, 0, 10 ** (nowcast / 10))
    known = np.isfinite(nowcast[:, 0])
    np.testing.assert_allclose(linear[:, 0][known], rates[:, 0][known], rtol=1e-5)
    nwp = np.where(names["nwp_db"] < -10, 0, 10 ** (names["nwp_db"] / 10))
    np.testing.assert_allclose(linear[:, -1], np.broadcast_to(nwp[-1], linear[:, -1].shape), rtol=1e-5)
