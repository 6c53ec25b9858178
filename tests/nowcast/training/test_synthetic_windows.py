import numpy as np
import pytest
import torch

from nowcast.training.synthetic_windows import (
    DOMAIN,
    Weather,
    _covered,
    _displacement,
    _gaussian,
    _mode_deviation,
    _Noise,
    _rain,
    _second_order,
    _warped,
    draw_weather,
    pieces_of_weather,
    synthetic_windows,
)

PLAIN = {
    "lifetime": 0.6, "slope": 2.4, "steepening": 0.5, "break_length": 20.0, "outer_scale": 60.0,
    "resolution": 0.5, "stretch": 1.0, "angle": 0.0, "wet_fraction": 0.3, "wet_rate": 1.5,
    "log_sigma": 1.2, "standing": 0.0,
    "growth": 0.0, "trend": 0.0, "speed": 0.0, "direction": 0.0, "speed_deviation": 0.0, "noise": 0.0,
    "smallest": 0.0, "range_km": np.inf, "radar_x": 0.0, "radar_y": 0.0,
}  # fmt: skip


def weather(count: int = 2, **changes) -> Weather:
    return Weather(**{name: torch.full((count, 1, 1), value) for name, value in {**PLAIN, **changes}.items()})


def noise(count: int = 2, seed: int = 0) -> _Noise:
    return _Noise(range(count), seed=seed, device="cpu")


def fields(setting: Weather, frames: int, now: int = 0, count: int = 2) -> torch.Tensor:
    return torch.stack(list(_gaussian(setting, noise(count), frames=frames, now=now))[:frames], dim=1)


def test_windows_follow_from_seed_and_number_alone():
    some = list(synthetic_windows(range(2, 4), size=128, seed=5))
    more = list(synthetic_windows(range(0, 4), size=128, seed=5))
    other = next(synthetic_windows(range(2, 3), size=128, seed=6))
    assert some[0].shape == (22, 128, 128)
    torch.testing.assert_close(some[0], more[2], equal_nan=True)
    torch.testing.assert_close(some[1], more[3], equal_nan=True)
    assert not torch.equal(some[0].nan_to_num(), other.nan_to_num())


def test_rates_are_rain_and_the_last_frame_of_the_context_has_data():
    rain = pieces_of_weather(range(2), seed=1, context_frames=4, lead_steps=2)
    known = rain.isfinite()
    assert known[:, 3].float().mean() > 0.1
    assert rain[known].min() >= 0
    assert rain[known].max() <= 150
    assert (rain[known] >= 0.1).any()


def test_a_mode_is_forgotten_as_the_law_says():
    p = np.exp(-0.3)
    chain = _second_order(noise(3000), (2, 1), torch.full((1,), 0.3))
    states = [next(chain).clone() for _ in range(5)]
    for lag, state in enumerate(states):
        expected = p**lag * (1 + lag * (1 - p**2) / (1 + p**2))
        parts = torch.stack([states[0].real.flatten(), state.real.flatten()])
        assert float(torch.corrcoef(parts)[0, 1]) == pytest.approx(expected, abs=0.05)
        assert float(state.real.std()) == pytest.approx(1, abs=0.05)


def test_long_waves_live_longer_than_short_ones():
    series = fields(weather(6), 4, count=6)
    spectrum = torch.fft.rfft2(series)
    k = torch.hypot(torch.fft.fftfreq(DOMAIN)[:, None], torch.fft.rfftfreq(DOMAIN)[None])

    def correlation(short: float, long: float) -> float:
        band = (k > 1 / long) & (k < 1 / short)
        first, last = spectrum[:, 0][:, band], spectrum[:, 3][:, band]
        return float((first * last.conj()).real.sum() / (first.abs().norm() * last.abs().norm()))

    assert correlation(32, 64) > 0.7  # the law: 0.85 at 45 km, 27 min
    assert 0.2 < correlation(11, 16) < 0.55  # 0.38 at 13 km, 8 min
    assert abs(correlation(3, 4)) < 0.1  # 0.00 at 3.5 km, 2 min


def test_the_variance_is_one_and_shared_out_by_the_spectrum():
    kx, ky = torch.fft.rfftfreq(DOMAIN)[None, :], torch.fft.fftfreq(DOMAIN)[:, None]
    variance = _mode_deviation(weather(1, steepening=0.0, resolution=0.0, outer_scale=1e6), kx, ky)[0] ** 2
    # a power law of exponent 2.4: of two waves along x, one half as long as the other
    assert float(variance[0, 8] / variance[0, 16]) == pytest.approx(2**2.4, rel=1e-3)
    assert float(fields(weather(8), 1, count=8).var()) == pytest.approx(1, abs=0.15)


def test_what_stands_still_moves_backwards_through_the_rain():
    moving = weather(1, standing=50.0, speed=10.0)  # 3 cells a step to the right
    first, second = fields(moving, 2, count=1)[0]
    torch.testing.assert_close(second.roll(3, dims=1), first, atol=0.15, rtol=0)


def test_the_area_and_the_rate_of_rain_are_as_asked():
    z = torch.randn(1, 2000, 256, generator=torch.Generator().manual_seed(0))
    rain = _rain(z[:, :256], weather(1), noise(1))
    wet = rain >= 0.1
    assert float(wet.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(rain[wet].mean()) == pytest.approx(1.5, rel=0.05)
    heard = _rain(z[:, :256], weather(1, smallest=0.5), noise(1))
    assert float(heard[heard > 0].min()) >= 0.5


def test_the_varying_motion_starts_at_the_reference_time_and_grows_away_from_it():
    places = _displacement(weather(40, speed_deviation=2.0), noise(40), frames=9, now=3)
    assert places[3].abs().max() == 0
    assert float(places[4].std()) == pytest.approx(0.6, abs=0.15)  # 2 m/s for 5 min
    assert places[8].std() > 2 * places[4].std()


def test_warping_displaces_a_periodic_field():
    field = fields(weather(1, resolution=3.0), 1, count=1)[:, 0]
    by = torch.tensor([2.0, -5.0])[None, :, None, None].expand(1, 2, DOMAIN, DOMAIN)
    torch.testing.assert_close(_warped(field, by), field.roll((-5, 2), dims=(1, 2)), atol=0.02, rtol=0)


def test_the_radar_stays_behind_as_the_rain_moves_on():
    covered = _covered(weather(1, range_km=50.0, speed=10.0), frames=3, now=1)[0]
    middle = DOMAIN // 2
    assert covered[1, middle, middle + 48]
    assert not covered[1, middle, middle + 51]
    # 3 km later the rain that is seen now 48 km to the right is 51 km away, out of range
    assert not covered[2, middle, middle + 48]
    assert covered[0, middle, middle + 51]


def test_drawn_weather_makes_sense():
    for number in range(200):
        drawn = draw_weather(np.random.default_rng(number))
        assert set(drawn) == set(PLAIN)
        assert 0 < drawn["wet_fraction"] < 0.9
        assert drawn["lifetime"] > 0
        assert drawn["range_km"] >= 90
