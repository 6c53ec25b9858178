import numpy as np
import pytest
import xarray as xr
from drawing import colour, ensemble, rain
from PIL import Image

from data_prep.schema import RefusedInput
from nowcast.plotting import RAIN, animate


@pytest.fixture
def moving() -> xr.DataArray:
    """A square of 3 mm/h that moves east, four frames."""
    values = np.zeros((4, 40, 40))
    for number in range(4):
        values[number, 10:30, 8 * number : 8 * number + 8] = 3
    return rain(values)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_loop_has_all_frames_and_never_ends(moving, tmp_path, suffix):
    path = tmp_path / f"loop{suffix}"
    animate(moving, path, frames_per_second=5)
    with Image.open(path) as loop:
        assert loop.n_frames == 4
        assert loop.info["loop"] == 0
        durations = []
        for number in range(4):
            loop.seek(number)
            loop.load()
            durations.append(loop.info["duration"])
    assert durations == [200, 200, 200, 1200]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_rain_of_a_loop_moves_and_has_the_colour_of_its_class(moving, tmp_path):
    animate(moving, tmp_path / "loop.gif", title="Rain")
    middles = []
    with Image.open(tmp_path / "loop.gif") as loop:
        for number in range(4):
            loop.seek(number)
            picture = np.asarray(loop.convert("RGB")).astype(int)[:, : int(0.85 * loop.width)]
            columns = np.nonzero((picture == colour(RAIN.colours[4])).all(axis=-1))[1]
            assert columns.size > 5000
            middles.append(columns.mean())
    np.testing.assert_allclose(np.diff(middles), 8 / 40 * 650, atol=8)


def test_a_loop_of_a_forecast_runs_over_lead_time(tmp_path):
    animate(ensemble(np.ones((1, 4, 9, 9)))[0], tmp_path / "loop.gif")
    with Image.open(tmp_path / "loop.gif") as loop:
        assert loop.n_frames == 4


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_loop_without_rain_is_written(tmp_path, value):
    animate(rain(np.full((2, 9, 9), value)), tmp_path / "loop.gif")
    with Image.open(tmp_path / "loop.gif") as loop:
        assert loop.n_frames == 2


def test_a_loop_of_another_kind_is_refused_and_leaves_nothing(moving, tmp_path):
    with pytest.raises(RefusedInput, match=r"\.gif or a \.webp"):
        animate(moving, tmp_path / "sub" / "loop.mp4")
    with pytest.raises(RefusedInput, match="positive"):
        animate(moving, tmp_path / "loop.gif", frames_per_second=0)
    with pytest.raises(RefusedInput, match="a loop shows"):
        animate(moving[0], tmp_path / "loop.gif")
    with pytest.raises(RefusedInput, match="a loop shows"):
        animate(moving[:0], tmp_path / "loop.gif")
    assert list(tmp_path.iterdir()) == []
