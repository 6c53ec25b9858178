import importlib.util

import numpy as np
import pytest
from drawing import colour, colours_in_the_middle, compared, rain
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.plotting import PALETTES, PROBABILITY, RAIN, Palette, palette_named, plot_map
from nowcast.plotting.maps import draw_colour_bar
from nowcast.plotting.palettes import NO_DATA


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_dry_is_white_and_no_data_is_grey(palette):
    drawn = palette.colour_map()(palette.norm()(np.ma.masked_invalid([0.0, 0.079, np.nan])))
    seen = drawn[:2, :3] * drawn[:2, 3:] + (1 - drawn[:2, 3:])
    np.testing.assert_allclose(seen, 1)
    red, green, blue, opaque = drawn[2]
    assert red == green == blue < 0.9
    assert opaque == 1


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_a_rate_on_a_level_has_the_colour_of_the_class_above(palette):
    drawn = palette.colour_map()(palette.norm()(np.array([*palette.levels, 500.0])))[:, :3]
    np.testing.assert_allclose(drawn, [to_rgb(name) for name in (*palette.colours, palette.colours[-1])])
    below = palette.colour_map()(palette.norm()(np.array(palette.levels[1:]) - 0.001))[:, :3]
    np.testing.assert_allclose(below, [to_rgb(name) for name in palette.colours[:-1]])


@pytest.mark.parametrize(
    ("levels", "colours", "match"),
    [
        ((1.0, 2.0, 3.0), ("#ffffff",), "has 3 colours"),
        ((1.0, 2.0, 3.0), ("#ffffff", "#000000", "ink"), "has 3 colours"),
        ((1.0,), ("#ffffff",), "two or more, increasing"),
        ((2.0, 1.0), ("#ffffff", "#000000"), "two or more, increasing"),
        ((1.0, float("nan")), ("#ffffff", "#000000"), "two or more, increasing"),
    ],
)
def test_a_palette_that_cannot_be_is_refused(levels, colours, match):
    with pytest.raises(RefusedInput, match=match):
        Palette(levels, colours, "rain")


def test_a_palette_of_temperatures_draws_frost():
    frost = Palette((-20.0, -10.0, 0.0), ("#0000ff", "#00ffff", "#ffffff"), "temperature (°C)")
    field = rain(np.full((1, 9, 9), -15.0))[0].assign_attrs(units="degC")
    assert colours_in_the_middle(field, palette=frost) == colour("#0000ff")


def test_a_probability_is_not_drawn_in_colours_of_rain():
    with pytest.raises(RefusedInput, match="one of rain rates"):
        plot_map(rain(np.full((1, 9, 9), 0.5))[0].assign_attrs(units="1"), palette="pysteps")


def test_certain_rain_has_the_last_colour_of_probability():
    drawn = PROBABILITY.colour_map()(PROBABILITY.norm()([0.0, 0.95, 1.0]))[:, :3]
    np.testing.assert_allclose(drawn, [to_rgb(PROBABILITY.colours[n]) for n in (0, -1, -1)])


# The eye


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def cielab(colours, sight="usual") -> np.ndarray:
    """L*, a*, b* (colours, 3) under D65 as one sight has them."""
    srgb = np.array([to_rgb(name) for name in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ SIGHT[sight].T
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    ratio = linear.clip(0, 1) @ to_xyz.T / (0.95047, 1.0, 1.08883)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116).T
    return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(one, other) -> np.ndarray:
    """Difference of colours (..., 3) in CIELAB as Sharma et al. 2005 write it, doi:10.1002/col.20070."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1 + 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25.0**7)))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = np.arctan2(b1, stretch * a1), np.arctan2(b2, stretch * a2)
    turn = (h2 - h1 + np.pi) % (2 * np.pi) - np.pi
    hue = np.degrees(h1 + turn / 2) % 360
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    weight = sum(part * np.cos(np.radians(times * hue + shift)) for part, times, shift in
                 ((1, 0, 0), (-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63)))  # fmt: skip
    lightness = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    chromatic = (c2 - c1) / (1 + 0.045 * chroma)
    hued = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * chroma * weight)
    twist = np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))
    bound = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(twist)
    return np.sqrt(lightness**2 + chromatic**2 + hued**2 + bound * chromatic * hued)


def test_the_colour_difference_is_that_of_the_published_pairs():
    pairs = np.array([[[50, 2.6772, -79.7751], [50, 0, -82.7485]],
                      [[2.0776, 0.0795, -1.1350], [0.9033, -0.0636, -0.5514]],
                      [[60.2574, -34.0099, 36.2677], [60.4626, -34.1751, 39.4387]]])  # fmt: skip
    np.testing.assert_allclose(ciede2000(pairs[:, 0], pairs[:, 1]), [2.0425, 0.9082, 1.2644], atol=5e-5)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", [RAIN, PROBABILITY], ids=["rain", "probability"])
def test_a_higher_class_is_darker_to_every_eye(palette, sight):
    lightness = cielab(dict.fromkeys(["#ffffff", *palette.colours]), sight)[:, 0]
    assert (np.diff(lightness) < -4).all()


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_neighbouring_classes_of_rain_apart(sight):
    seen = cielab(["#ffffff", *RAIN.colours], sight)
    assert ciede2000(seen[:-1], seen[1:]).min() > 7


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_neighbouring_classes_of_probability_apart(sight):
    seen = cielab(PROBABILITY.colours, sight)
    assert ciede2000(seen[:-1], seen[1:]).min() > 5.5


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_no_data_from_every_class_and_from_dry(sight):
    seen = cielab(["#ffffff", *RAIN.colours, NO_DATA], sight)
    assert ciede2000(seen[:-1], seen[-1]).min() > 7


def test_steps_from_class_to_class_of_rain_look_alike():
    seen = cielab(RAIN.colours)
    steps = ciede2000(seen[:-1], seen[1:])
    assert steps.max() / steps.min() < 1.7
    darker = -np.diff(seen[:, 0])
    assert darker.max() / darker.min() < 1.6


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_no_class_of_any_palette_is_taken_for_no_data(palette):
    assert ciede2000(cielab(palette.colours), cielab([palette.no_data])).min() > 7


# Names


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning:pysteps")
@pytest.mark.skipif(importlib.util.find_spec("pysteps") is None, reason="pysteps (extra baselines) is absent")
@pytest.mark.parametrize("name", sorted(set(PALETTES) - {"nowcast"}))
def test_a_palette_of_pysteps_has_its_levels_and_colours(name):
    from pysteps.visualization.precipfields import get_colormap

    colours, norm, levels, _ = get_colormap("intensity", "mm/h", name)
    palette = palette_named(name)
    assert palette.levels == pytest.approx(levels)
    middles = [(low + high) / 2 for low, high in zip(levels[:-1], levels[1:], strict=True)]
    assert palette.colours == tuple(to_hex(colours(norm(rate))) for rate in (*middles, 1000.0))


def test_a_map_is_drawn_in_the_palette_of_the_name():
    field = rain(np.full((1, 9, 9), 3.0))[0]
    assert colours_in_the_middle(field, palette="STEPS-BE") == colour("#008000")
    assert colours_in_the_middle(field, palette=PALETTES["BOM-RF3"]) == colour("#1414ff")


def test_an_unknown_palette_is_refused_with_the_names_there_are():
    with pytest.raises(RefusedInput, match="came: viridis; choose one of nowcast, pysteps, STEPS-BE"):
        plot_map(rain(np.zeros((1, 9, 9)))[0], palette="viridis")


@compared(dpi=50)
def test_the_palettes_look_as_before():
    figure = Figure(figsize=(8, 5))
    for row, palette in enumerate([*PALETTES.values(), PROBABILITY]):
        ax = figure.add_axes((0.03, 0.87 - row * 0.165, 0.94, 0.04))
        draw_colour_bar(ax, palette, orientation="horizontal")
    return figure
