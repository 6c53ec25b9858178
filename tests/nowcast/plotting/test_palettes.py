import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nowcast.plotting import PROBABILITY, RAIN
from nowcast.plotting.palettes import NO_DATA


def test_dry_is_transparent_and_no_data_is_grey():
    drawn = RAIN.colour_map()(RAIN.norm()(np.ma.masked_invalid([0.0, 0.099, np.nan])))
    assert drawn[0, 3] == drawn[1, 3] == 0
    np.testing.assert_allclose(drawn[2], [*to_rgb(NO_DATA), 1])


def test_a_rate_on_a_level_has_the_colour_of_the_class_above():
    levels = np.array([*RAIN.levels, 500.0])
    drawn = RAIN.colour_map()(RAIN.norm()(levels))[:, :3]
    np.testing.assert_allclose(drawn, [to_rgb(name) for name in (*RAIN.colours, RAIN.colours[-1])])
    below = RAIN.colour_map()(RAIN.norm()(levels[1:10] - 0.001))[:, :3]
    np.testing.assert_allclose(below, [to_rgb(name) for name in RAIN.colours[:-1]])


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip


@pytest.mark.parametrize("sight", SIGHT)
def test_heavier_rain_is_darker_to_every_eye(sight):
    srgb = np.array([to_rgb(name) for name in ("#ffffff", *RAIN.colours)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ SIGHT[sight].T
    luminance = linear.clip(0, 1) @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16
    assert (np.diff(lightness) < -4).all()


def test_certain_rain_has_the_last_colour_of_probability():
    drawn = PROBABILITY.colour_map()(PROBABILITY.norm()([0.0, 0.95, 1.0]))[:, :3]
    np.testing.assert_allclose(drawn, [to_rgb(PROBABILITY.colours[n]) for n in (0, -1, -1)])
