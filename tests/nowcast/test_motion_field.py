import numpy as np
import pytest

from data_prep.schema import RefusedInput
from nowcast.motion_field import motion_field


def at_rain(motion, frames):
    """Motion in the heavy rain of the last frame, (x, y) in m/s."""
    heavy = frames.values[-1] > 1
    return [float(motion[name].values[heavy].mean()) for name in ("motion_x", "motion_y")]


@pytest.mark.parametrize("northward", [False, True])
@pytest.mark.parametrize("westward", [False, True])
def test_rain_that_moves_east_and_south_has_positive_x_and_negative_y(make_rain, northward, westward):
    frames = make_rain(4, speed=(2, 1))  # 2 km to the east and 1 km to the south in 5 minutes
    frames = frames.isel(
        y=slice(None, None, -1 if northward else 1), x=slice(None, None, -1 if westward else 1)
    )
    np.testing.assert_allclose(at_rain(motion_field(frames), frames), [6.67, -3.33], atol=0.5)


def test_a_motion_says_where_and_when_it_is_and_in_which_unit(make_rain):
    frames = make_rain(6).assign_attrs(institution="A service")
    motion = motion_field(frames)
    assert motion["motion_x"].dims == ("y", "x")
    assert motion["motion_y"].attrs["units"] == "m s-1"
    assert motion["time"] == frames["time"][-1]
    assert motion["crs"].attrs["crs_wkt"]
    assert motion.attrs == {"institution": "A service"}


def test_motion_is_that_of_the_last_frames(make_rain):
    frames = make_rain(8)
    frames[:4] = frames[:4, :, ::-1].values  # moved to the west before
    np.testing.assert_allclose(at_rain(motion_field(frames), frames), [6.67, -3.33], atol=0.5)


def test_twice_the_spacing_is_twice_the_speed(make_rain):
    frames = make_rain(4, spacing=2000.0)
    np.testing.assert_allclose(at_rain(motion_field(frames), frames), [13.3, -6.7], atol=1.0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda frames: frames[:1], "2 frames or more; came: 1"),
        (lambda frames: frames[0], r"\(time, y, x\)"),
        (lambda frames: frames * 0, "tell how the rain moves; came: no two frames with 10 wet blocks"),
        (lambda frames: frames.where(False), "holds data; came: no observed cell"),
        (lambda frames: frames[[0, 1, 2, 4]], "no frame at 2020-06-01T00:15"),
        (lambda frames: frames.assign_attrs(units="dBZ"), "'dBZ'"),
        (lambda frames: frames.drop_vars("crs"), "carries its CRS"),
    ],
    ids=["one", "a field", "dry", "all missing", "a gap", "reflectivity", "no CRS"],
)
def test_frames_that_tell_no_motion_are_refused(make_rain, change, match):
    frames = make_rain(5)
    with pytest.raises(RefusedInput, match=match):
        motion_field(change(frames).assign_attrs({**frames.attrs, **change(frames).attrs}))
