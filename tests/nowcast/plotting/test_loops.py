import sys

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


def programs(folder, body: str) -> str:
    """A PATH on which ffmpeg is a script."""
    folder.mkdir()
    (folder / "ffmpeg").write_text(f"#!{sys.executable}\nimport sys\n{body}")
    (folder / "ffmpeg").chmod(0o755)
    return str(folder)


def test_a_video_is_all_frames_and_the_last_one_for_a_while(moving, tmp_path, monkeypatch):
    keep = "open(sys.argv[-1], 'wb').write('|'.join(sys.argv).encode() + b'\\0' + sys.stdin.buffer.read())"
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", keep))
    animate(moving, tmp_path / "loop.mp4", frames_per_second=5, description="by a test")
    told, frames = (tmp_path / "loop.mp4").read_bytes().split(b"\0", maxsplit=1)
    told = told.split(b"|")
    width, height = map(int, told[told.index(b"-s") + 1].split(b"x"))
    assert told[told.index(b"-r") + 1] == b"5"
    assert b"comment=by a test" in told
    pictures = np.frombuffer(frames, dtype=np.uint8).reshape(-1, height, width, 3).astype(int)
    assert len(pictures) == 4 + 5
    rain_columns = [np.nonzero((picture == colour(RAIN.colours[4])).all(axis=-1))[1] for picture in pictures]
    middles = [np.median(columns) for columns in rain_columns]
    assert middles[0] < middles[1] < middles[2] < middles[3] == middles[-1]


def test_without_ffmpeg_a_video_is_refused_before_anything_is_drawn(moving, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedInput, match=r"no ffmpeg on the PATH; install ffmpeg, or write a \.gif"):
        animate(moving, tmp_path / "loop.mp4")
    assert list(tmp_path.iterdir()) == []


def test_what_ffmpeg_says_when_it_fails_is_told_and_no_file_is_left(moving, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", "sys.exit('Unknown encoder')"))
    with pytest.raises(RefusedInput, match="came: Unknown encoder"):
        animate(moving, tmp_path / "loop.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bin"]


def test_the_edge_of_the_data_moves_with_the_data_and_a_dry_frame_says_so(tmp_path):
    values = np.zeros((2, 40, 40))
    values[0], values[1, :, :20] = 3.0, np.nan
    animate(rain(values), tmp_path / "loop.gif")
    plain = rain(np.where(np.isnan(values), 0.0, values))
    animate(plain, tmp_path / "plain.gif")
    last = []
    for name in ("loop.gif", "plain.gif"):
        with Image.open(tmp_path / name) as loop:
            loop.seek(1)
            last.append(np.asarray(loop.convert("L")).astype(int))
    inside = np.s_[200:250, :450]
    assert (last[0][inside] != last[1][inside]).any()
    assert last[1][300:, 100:600].min() < 120


def test_a_loop_of_another_kind_is_refused_and_leaves_nothing(moving, tmp_path):
    with pytest.raises(RefusedInput, match=r"\.gif, a \.webp or an \.mp4"):
        animate(moving, tmp_path / "sub" / "loop.avi")
    with pytest.raises(RefusedInput, match="frames_per_second are 0.1 to 50"):
        animate(moving, tmp_path / "loop.gif", frames_per_second=0)
    with pytest.raises(RefusedInput, match="a loop shows"):
        animate(moving[0], tmp_path / "loop.gif")
    with pytest.raises(RefusedInput, match="a loop shows"):
        animate(moving[:0], tmp_path / "loop.gif")
    assert list(tmp_path.iterdir()) == []
