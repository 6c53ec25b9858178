import math

import numpy as np
import pytest
import torch

from nowcast.verification import log_spectral_distance, power_spectrum
from nowcast.verification.spectra import mean_power_spectrum

DOUBLE = 20 * math.log10(2)  # 6.02 dB: twice the rain is four times the power


def wave(height, width, *, down=0, across=0):
    """Cosine with so many periods from top to bottom and from left to right."""
    rows, columns = np.arange(height)[:, None] / height, np.arange(width) / width
    return np.cos(2 * np.pi * (down * rows + across * columns))


def rain(*shape, seed=0):
    return np.random.default_rng(seed).gamma(0.5, 2, shape)


@pytest.mark.parametrize(
    ("shape", "periods", "ring"),
    [
        ((32, 32), {"across": 5}, 5),
        ((32, 32), {"down": 9}, 9),
        ((32, 32), {"down": 3, "across": 4}, 5),  # sqrt(3^2 + 4^2)
        ((33, 35), {"down": 13}, 13),
        ((16, 64), {"down": 3}, 3),
        ((16, 64), {"across": 16}, 4),  # 16 periods in 64 cells are 4 in 16
    ],
)
def test_a_wave_has_its_power_in_the_ring_of_its_length(shape, periods, ring):
    power = power_spectrum(wave(*shape, **periods))
    assert power.shape == (min(shape) // 2,)
    assert power.argmax() + 1 == ring
    beyond = np.delete(power, [k for k in (ring - 2, ring - 1, ring) if k < power.size])
    assert beyond.max() < 1e-12 * power.max()  # the window reaches into the rings beside and no further


def test_the_power_of_a_wave_worked_by_hand():
    # The window halves the amplitude 1/2 of e^(+-2 pi i 5 x / 32) for each side: |FFT| = 32^2 / 8 there, half
    # of that beside it along each axis, a quarter across the corner. sum w^2 = (3/8 * 32)^2 = 144.
    power = power_spectrum(wave(32, 32, across=5))
    at = np.hypot(*np.meshgrid(np.arange(-16, 16), np.arange(-16, 16)))
    cells = (np.rint(at) == 5).sum()
    whole = (32**2 / 8) ** 2 / 144
    assert power[4] == pytest.approx(2 * (whole + 2 * whole / 4) / cells)  # at (+-5, 0) and (+-5, +-1)


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (24, 40)])
def test_white_noise_has_its_variance_in_every_ring_of_any_field(shape):
    fields = 2 * np.random.default_rng(0).standard_normal((400, *shape))
    assert power_spectrum(fields).mean(0) == pytest.approx(4, rel=0.12)


def test_rain_that_is_the_same_everywhere_has_no_power():
    assert power_spectrum(np.full((16, 16), 3.0)).max() == 0


def test_a_mirrored_field_has_the_same_spectrum():
    field = rain(16, 20)
    np.testing.assert_allclose(power_spectrum(field[::-1, ::-1]), power_spectrum(field))


def test_missing_cells_count_as_dry_whatever_they_hold():
    fields = rain(3, 16, 20)
    mask = np.random.default_rng(1).random((16, 20)) > 0.3
    expected = power_spectrum(np.where(mask, fields, 0))
    np.testing.assert_array_equal(power_spectrum(np.where(mask, fields, np.nan)), expected)
    np.testing.assert_array_equal(power_spectrum(np.where(mask, fields, 99), mask), expected)


@pytest.mark.parametrize("size", [16, 33])
def test_of_a_square_field_it_is_the_spectrum_of_pysteps_but_for_the_window(size):
    # That of pysteps knows no window and divides by the number of cells. In fields that are not square its
    # rings are no circles, because they count waves along either side and not waves per cell.
    package = pytest.importorskip("pysteps.utils.spectral", reason="needs the extra 'baselines'")
    field = rain(size, size)
    sine = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    window = np.outer(sine, sine)
    theirs = package.rapsd(window * (field - field.mean()), fft_method=np.fft)[1:]
    ours = power_spectrum(field)[: theirs.size]
    np.testing.assert_allclose(ours, theirs * size**2 / (window**2).sum())


@pytest.mark.parametrize("shape", [(16, 20), (15, 20), (16, 21), (9, 9), (2, 7), (3, 2)])
def test_rings_are_means_over_the_whole_plane_of_wavenumbers(shape):
    field = rain(*shape)
    sines = [np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in shape]
    window = np.outer(*sines)
    density = abs(np.fft.fft2(window * (field - field.mean()))) ** 2 / (window**2).sum()
    cycles = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])) * min(shape)
    rings = range(1, min(shape) // 2 + 1)
    expected = [density[np.rint(cycles) == ring].mean() for ring in rings]
    np.testing.assert_allclose(power_spectrum(field), expected)


def test_that_of_an_ensemble_is_the_mean_over_its_members():
    members = rain(4, 16, 20)
    mask = np.random.default_rng(1).random((16, 20)) > 0.3
    expected = power_spectrum(members, mask).mean(0)
    np.testing.assert_allclose(mean_power_spectrum(members, mask), expected)
    np.testing.assert_allclose(
        mean_power_spectrum(torch.from_numpy(members), torch.from_numpy(mask)), expected
    )
    assert mean_power_spectrum(rain(20, 16, 16)).sum() > 2 * power_spectrum(rain(20, 16, 16).mean(0)).sum()


def test_fields_stay_as_they_were():
    field = rain(16, 20)
    before = field.copy()
    power_spectrum(field)
    np.testing.assert_array_equal(field, before)


def test_every_field_has_a_spectrum_of_its_own():
    fields = rain(2, 3, 16, 16)
    power = power_spectrum(fields)
    assert power.shape == (2, 3, 8)
    np.testing.assert_allclose(power[1, 2], power_spectrum(fields[1, 2]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_agree(dtype):
    fields, others = rain(3, 20, 30).astype(dtype), rain(3, 20, 30, seed=1).astype(dtype)
    mask = np.random.default_rng(2).random((20, 30)) > 0.3
    ours = power_spectrum(fields, mask)
    theirs = power_spectrum(torch.from_numpy(fields), torch.from_numpy(mask))
    assert isinstance(theirs, torch.Tensor)
    assert ours.dtype == theirs.numpy().dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    other = power_spectrum(others, mask)
    distance = log_spectral_distance(theirs, torch.from_numpy(other))
    assert isinstance(distance, torch.Tensor)
    np.testing.assert_allclose(log_spectral_distance(ours, other), distance, rtol=1e-3)


def test_the_same_field_is_at_no_distance_and_doubled_rain_at_six_decibels():
    power = power_spectrum(rain(32, 32))
    assert log_spectral_distance(power, power) == 0
    doubled = power_spectrum(2 * rain(32, 32))
    assert log_spectral_distance(doubled, power) == pytest.approx(DOUBLE)
    assert log_spectral_distance(power, doubled) == pytest.approx(DOUBLE)  # too little is as bad as too much


def test_blurring_takes_power_from_small_scales():
    sharp = rain(64, 64)
    blurred = sum(np.roll(sharp, (row, column), (0, 1)) for row in (-1, 0, 1) for column in (-1, 0, 1)) / 9
    left = power_spectrum(blurred) / power_spectrum(sharp)
    assert left[0] > 0.9
    assert left[16:].max() < 0.5  # structures of less than 4 cells
    assert log_spectral_distance(power_spectrum(blurred), power_spectrum(sharp)) > 5


def test_the_distance_of_two_spectra_worked_by_hand():
    forecast, observed = np.array([1.0, 10.0, 100.0]), np.ones(3)
    assert log_spectral_distance(forecast, observed) == pytest.approx(math.sqrt((0 + 100 + 400) / 3))


def test_rings_without_power_are_left_out_and_none_left_is_nan():
    forecast, observed = np.array([[10.0, 0.0, 5.0], [0.0, 0.0, 5.0]]), np.array([1.0, 1.0, 0.0])
    with np.errstate(all="raise"):
        distance = log_spectral_distance(forecast, observed)
    np.testing.assert_allclose(distance, [10, np.nan])  # one ring with ten times the power is 10 dB


def test_a_case_with_hardly_any_rain_weighs_little_in_spectra_that_were_added():
    forecast, observed = np.array([[100.0], [10.0]]), np.array([[100.0], [1.0]])  # (case, ring)
    assert log_spectral_distance(forecast, observed).mean() == pytest.approx(5)
    added = log_spectral_distance(forecast.sum(0), observed.sum(0))
    assert added == pytest.approx(10 * math.log10(110 / 101))  # 0.37 dB


def test_a_field_of_one_row_is_refused():
    with pytest.raises(ValueError, match="a spectrum needs fields of 2 x 2 cells or more, got 1 x 8"):
        power_spectrum(np.zeros((1, 8)))


def test_spectra_of_fields_of_different_size_are_refused():
    with pytest.raises(ValueError, match="spectra to compare must have the same rings, got 8 and 4"):
        log_spectral_distance(np.ones(8), np.ones(4))
