from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from data_prep.schema import REQUIRED_ATTRIBUTES, RefusedInput, validate
from data_prep.synthetic import LARGEST, SyntheticRain, generate, observed, stream

# Wet everywhere and with an offset r of nearly 0, so that the logarithm of the rate is the Gaussian field.
LOGNORMAL = SyntheticRain(
    wet_fraction=0.999, log_sigma=0.3, wet_rate=0.2648, range_rings=False, growth=0, stretch=1
)
SMALL = SyntheticRain(shape=(48, 64), outer_scale_km=40)


def _rate(parameters: SyntheticRain, frames: int, seed: int = 1) -> np.ndarray:
    return generate(parameters, frames=frames, seed=seed)["rainfall_rate"].values


def _band(field: np.ndarray, shortest: float, longest: float) -> np.ndarray:
    """The part of a field with wavelengths between two lengths in cells."""
    ky, kx = np.fft.fftfreq(field.shape[0])[:, None], np.fft.rfftfreq(field.shape[1])
    k = np.hypot(ky, kx)
    window = np.outer(np.hanning(field.shape[0]), np.hanning(field.shape[1]))
    part = np.fft.rfft2((field - field.mean()) * window) * ((k >= 1 / longest) & (k < 1 / shortest))
    return np.fft.irfft2(part, field.shape)


def _displacement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Displacement (u, v) between two fields: peak of their cross-correlation, refined by parabolas."""
    window = np.outer(np.hanning(first.shape[0]), np.hanning(first.shape[1]))
    spectra = [np.fft.rfft2((f - f.mean()) * window) for f in (first, second)]
    correlation = np.fft.fftshift(np.fft.irfft2(spectra[1] * spectra[0].conj(), first.shape))
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    along_row, along_column = (
        correlation[row, column - 1 : column + 2],
        correlation[row - 1 : row + 2, column],
    )
    return np.array([
        column - first.shape[1] // 2 + _parabola_top(along_row),
        row - first.shape[0] // 2 + _parabola_top(along_column),
    ])  # fmt: skip


def _parabola_top(values: np.ndarray) -> float:
    left, middle, right = values
    return 0.5 * (left - right) / (left - 2 * middle + right)


@pytest.mark.parametrize("wet_fraction", [0.1, 0.25, 0.6])
def test_the_wet_share_and_the_mean_wet_rate_are_those_asked_for(wet_fraction: float) -> None:
    # Frames four hours apart are nearly independent of each other.
    parameters = SyntheticRain(wet_fraction=wet_fraction, step_minutes=240, shape=(192, 192))
    rate = np.concatenate([_rate(parameters, 100, seed) for seed in (1, 2)])
    rate = rate[np.isfinite(rate)]
    assert (rate > 0.1).mean() == pytest.approx(wet_fraction, abs=0.03)
    assert rate[rate > 0.1].mean() == pytest.approx(0.9, rel=0.12)


def test_the_rain_has_a_heavy_tail_from_drizzle_to_downpour_but_no_absurd_rate() -> None:
    rate = _rate(SyntheticRain(step_minutes=120), 60)
    wet = rate[rate > 0.1]
    assert np.percentile(wet, 99.9) / wet.mean() > 10
    assert np.median(wet) < 0.7 * wet.mean()
    assert 30 < wet.max() <= LARGEST
    assert np.nanmin(rate) == 0


def test_the_rate_is_continuous_at_the_edge_of_the_rain() -> None:
    rate = _rate(SyntheticRain(range_rings=False), 3)[-1]
    drizzle = (rate > 0) & (rate <= 0.1)
    next_to_dry = ndimage.binary_dilation(rate == 0) & (rate > 0)
    assert drizzle.mean() > 0.02
    assert np.median(rate[next_to_dry]) < 0.15


@pytest.mark.parametrize("slope", [2.4, 3.0])
def test_the_power_spectrum_falls_with_the_asked_slope(slope: float) -> None:
    fields = np.log(_rate(replace(LOGNORMAL, spectral_slope=slope, step_minutes=120), 20))
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.mean([np.abs(np.fft.fft2((f - f.mean()) * window)) ** 2 for f in fields], axis=0)
    k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    # Octaves from 32 to 4 km, well below the outer scale of 100 km.
    edges = 2.0 ** -np.arange(5, 1, -1)
    level = [power[(k >= low) & (k < 2 * low)].mean() for low in edges]
    assert -np.polyfit(np.log(edges), np.log(level), 1)[0] == pytest.approx(slope, abs=0.2)


def test_the_true_motion_is_found_again_in_the_rain() -> None:
    # Rain that hardly renews itself, so that motion is all that happens between two frames.
    unchanging = replace(LOGNORMAL, lifetime_per_km=100.0, speed=10.0, speed_deviation=2.0)
    for seed in (1, 2, 3):
        made = generate(unchanging, frames=4, seed=seed)
        fields = np.log(made["rainfall_rate"].values)
        found = [_displacement(first, second) for first, second in zip(fields[:-1], fields[1:], strict=True)]
        np.testing.assert_allclose(found, made["motion"].values[:-1], atol=0.25)


def test_a_speed_of_10_m_per_s_is_3_cells_of_1_km_in_5_minutes() -> None:
    made = generate(replace(SMALL, speed=10.0, speed_deviation=0.0), frames=3, seed=1)
    np.testing.assert_allclose(np.hypot(*made["motion"].values.T), 3.0)


def test_the_motion_varies_slowly_about_its_mean() -> None:
    parameters = replace(SMALL, shape=(8, 8), speed=10.0, speed_deviation=2.0)
    motion = generate(parameters, frames=2000, seed=3)["motion"].values
    assert motion.std(axis=0) == pytest.approx([0.6, 0.6], rel=0.35)
    assert np.abs(np.diff(motion, axis=0)).max() < 0.2
    assert np.hypot(*motion.mean(axis=0)) == pytest.approx(3.0, abs=0.35)


def test_small_scales_are_forgotten_first_by_the_law_of_predictability() -> None:
    # At rest, so that the frame of the grid is that of the rain.
    still = replace(LOGNORMAL, speed=0.0, speed_deviation=0.0)
    fields = [np.log(_rate(still, 7, seed)) for seed in range(4)]
    steps = np.array([1, 3, 6])
    measured = {}
    for wavelength in (10.0, 28.0):
        bands = [[_band(f, wavelength / 1.1, wavelength * 1.1) for f in run] for run in fields]
        measured[wavelength] = [
            np.mean([np.corrcoef(run[0].ravel(), run[j].ravel())[0, 1] for run in bands]) for j in steps
        ]
        p = np.exp(-5 / (0.65 * wavelength))
        expected = p**steps * (1 + steps * (1 - p**2) / (1 + p**2))
        np.testing.assert_allclose(measured[wavelength], expected, atol=0.13)
    assert (np.array(measured[10.0]) < np.array(measured[28.0])).all()


def test_rain_grows_and_decays_over_the_whole_area_when_asked_to() -> None:
    def variation(growth: float) -> float:
        parameters = SyntheticRain(growth=growth, range_rings=False, step_minutes=30, outer_scale_km=40)
        area_mean = _rate(parameters, 60).mean(axis=(1, 2))
        return float(area_mean.std() / area_mean.mean())

    assert variation(1.0) > 2 * variation(0.0) > 0


def test_opposite_edges_of_the_crop_are_unrelated() -> None:
    fields = np.log(_rate(replace(LOGNORMAL, shape=(128, 128), step_minutes=240), 60))
    for field in (fields, fields.swapaxes(1, 2)):
        first, near, last = (field[:, index] - field[:, index].mean() for index in (0, 3, -1))
        assert np.corrcoef(first.ravel(), near.ravel())[0, 1] > 0.8
        assert abs(np.corrcoef(first.ravel(), last.ravel())[0, 1]) < 0.25


def test_cells_out_of_radar_range_are_missing_in_every_frame() -> None:
    parameters = SyntheticRain()
    rate = _rate(parameters, 5)
    missing = np.isnan(rate)
    np.testing.assert_array_equal(missing, np.broadcast_to(~observed(parameters), rate.shape))
    assert 0.05 < missing.mean() < 0.3
    # Two rings reach the north-west and the south-east, not the other two corners.
    assert missing[0, 0, -1]
    assert missing[0, -1, 0]
    assert not missing[0, 128, 128]


def test_without_range_rings_every_cell_is_observed() -> None:
    assert np.isfinite(_rate(replace(SMALL, range_rings=False), 3)).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_rain() -> None:
    first, again, other = (generate(SMALL, frames=4, seed=seed) for seed in (5, 5, 6))
    assert first["rainfall_rate"].values.tobytes() == again["rainfall_rate"].values.tobytes()
    assert first["motion"].values.tobytes() == again["motion"].values.tobytes()
    assert not np.array_equal(first["rainfall_rate"], other["rainfall_rate"], equal_nan=True)
    assert not np.allclose(first["motion"], other["motion"])


def test_a_frame_does_not_depend_on_how_many_are_asked_for() -> None:
    few, many = generate(SMALL, frames=2, seed=7), generate(SMALL, frames=6, seed=7)
    assert few.identical(many.isel(time=slice(2)))


def test_the_stream_yields_the_same_frames_one_at_a_time() -> None:
    made = generate(SMALL, frames=5, seed=8)
    for n, frame in enumerate(islice(stream(SMALL, seed=8), 5)):
        assert frame.time == made["time"].values[n]
        np.testing.assert_array_equal(frame.rate, made["rainfall_rate"].values[n])
        np.testing.assert_array_equal(frame.motion, made["motion"].values[n])


def test_frames_that_were_yielded_stay_as_they_are() -> None:
    frames = stream(SMALL, seed=9)
    first = next(frames)
    rate, motion = first.rate.copy(), first.motion.copy()
    next(frames)
    next(frames)
    np.testing.assert_array_equal(first.rate, rate)
    np.testing.assert_array_equal(first.motion, motion)


def test_the_rain_conforms_to_the_contract_and_lies_around_52_north_5_east() -> None:
    made = generate(SMALL, frames=3, seed=1)
    rain = made["rainfall_rate"]
    assert validate(rain.to_dataset().assign_attrs(dict.fromkeys(REQUIRED_ATTRIBUTES, "x"))) == []
    assert rain.shape == (3, 48, 64)
    assert rain.dtype == np.float32
    assert (np.diff(rain["y"]) == -1000).all()
    assert (np.diff(rain["time"]) == np.timedelta64(5, "m")).all()
    assert rain["lat"].mean().item() == pytest.approx(52, abs=0.01)
    assert rain["lon"].mean().item() == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (33, 31)])
@pytest.mark.parametrize("spacing_km", [0.5, 2.0])
def test_any_grid_is_possible(shape: tuple[int, int], spacing_km: float) -> None:
    rain = generate(replace(SMALL, shape=shape, spacing_km=spacing_km), frames=2, seed=1)["rainfall_rate"]
    assert rain.shape == (2, *shape)
    assert (np.abs(np.diff(rain["x"]) - 1000 * spacing_km) < 1e-6).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 5)},
        {"shape": (5,)},
        {"spacing_km": 0},
        {"step_minutes": -5},
        {"wet_fraction": 0},
        {"wet_fraction": 1.0},
        {"wet_rate": 0.11},
        {"log_sigma": 0},
        {"lifetime_per_km": 0},
        {"speed": -1},
        {"growth": float("nan")},
        {"start": "yesterday"},
        {"crs": "nonsense"},
        {"crs": "EPSG:4326"},
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RefusedInput):
        generate(SyntheticRain(**wrong), frames=1, seed=1)


def test_no_frames_at_all_are_refused() -> None:
    with pytest.raises(RefusedInput, match="frames is 1 or more; came: 0"):
        generate(SMALL, frames=0, seed=1)
