"""Synthetic rain for training, by the window and without end, on any device (torch's FFT).

Where `data_prep.synthetic` makes one long archive with a known motion, this makes many short pieces of
weather, each with parameters of its own, and hands them over as a network in the co-moving frame sees them:
pulled along the motion that `nowcast.motion` estimates from their context, errors of that estimate included.

1. *Scales.* Gaussian modes with the spectrum ``(k^2 + 1/L^2)^(-a/2)``, steeper by b beyond a break, and cut
   off smoothly at the resolution of the radar; stretched along one direction, long waves more than short.
2. *Renewal.* In the frame of the rain each mode is a critically damped AR(2) with the autocorrelation
   ``p^j (1 + j (1 - p^2) / (1 + p^2))``, ``p = exp(-step / lifetime)``, and lifetime [min] = c x wavelength
   [km]: the law measured on radar rain, see docs/synthetic-rain.md.
3. *Standing cells.* A pattern that is fixed to the ground, as over mountains, moves backwards through the
   rain.
4. *Growth and decay* of the whole area: an AR(2) and a trend.
5. *Motion.* The mean motion is taken out (it matters for standing cells and for the edge of the data); what
   remains varies in space and time, and the forecast does not know its future.
6. *Rain.* ``R = (0.1 + r) exp(sigma (z - z_w)) - r``, dry where that is negative; z_w is the quantile of the
   wet area and r gives the mean rate there; then noise from cell to cell, and a smallest rate.
7. *Coverage.* Half of the weather is seen by one radar whose range ends inside the window.

The ranges of the parameters (`draw_weather`) were chosen to cover what was measured on radar rain of several
countries; docs/synthetic-rain.md sets them side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nowcast.representation import pulled_along

DOMAIN = 256
"""Cells of 1 km along a side of the periodic domain; windows are cut from it."""
STEP = 5.0
"""Minutes between frames."""
WET = 0.1
"""mm/h above which a cell counts as wet."""
LARGEST = 150.0
"""mm/h at which the rain saturates."""
PATTERN = 4
"""Independent values of the motion's pattern along a side of the domain: one every 64 km."""
MARGIN = 32
"""Cells that the varying part of the motion may displace the rain by."""
AT_ONCE = 4
"""Pieces of weather that are made together."""
NOISE_LIFETIME = 90.0
"""Minutes over which growth and motion stay alike."""


@dataclass(frozen=True)
class Weather:
    """Parameters of N pieces of weather, each (N, 1, 1).

    Attributes:
        lifetime: Minutes per kilometre of wavelength.
        slope: Exponent of the spectral density of long waves.
        steepening: What the exponent grows by beyond the break.
        break_length: Wavelength of the break, km.
        outer_scale: Wavelength beyond which the spectrum is flat, km.
        resolution: Length over which the radar smoothes, km.
        stretch: Length over width of the bands.
        angle: Of the bands, radians.
        wet_fraction: Share of the area with 0.1 mm/h or more.
        wet_rate: Mean rate there, mm/h.
        log_sigma: Standard deviation of the logarithm of the rate.
        standing: Amplitude of what stands still, relative to what moves.
        growth: Amplitude of the growth of the whole area, likewise.
        trend: Its mean change in an hour, likewise.
        speed: Mean speed, m/s.
        direction: Radians.
        speed_deviation: Of what varies in the motion, m/s.
        noise: Standard deviation of the logarithm of the rate from cell to cell.
        smallest: Rate below which nothing is reported, mm/h.
        range_km: Of the radar; infinite where its edge is far away.
        radar_x: Place of the radar, km from the centre of the domain.
        radar_y: Likewise.
    """

    lifetime: Tensor
    slope: Tensor
    steepening: Tensor
    break_length: Tensor
    outer_scale: Tensor
    resolution: Tensor
    stretch: Tensor
    angle: Tensor
    wet_fraction: Tensor
    wet_rate: Tensor
    log_sigma: Tensor
    standing: Tensor
    growth: Tensor
    trend: Tensor
    speed: Tensor
    direction: Tensor
    speed_deviation: Tensor
    noise: Tensor
    smallest: Tensor
    range_km: Tensor
    radar_x: Tensor
    radar_y: Tensor


def draw_weather(rng: np.random.Generator) -> dict[str, float]:
    """Parameters of one piece of weather."""
    standing = rng.random() < 0.4
    near = rng.random() < 0.5
    return {
        "lifetime": rng.lognormal(np.log(0.85), 0.4),
        "slope": rng.uniform(1.6, 3.0),
        "steepening": rng.uniform(0.3, 2.2),
        "break_length": rng.uniform(8, 40),
        "outer_scale": rng.uniform(80, 400),
        "resolution": rng.uniform(0.0, 2.0),
        "stretch": np.exp(rng.uniform(0, np.log(4))),
        "angle": rng.uniform(0, np.pi),
        "wet_fraction": rng.uniform(0.15, 0.92) ** 2,
        "wet_rate": min(rng.lognormal(np.log(1.2), 0.75), 10.0),
        "log_sigma": rng.uniform(0.9, 1.6),
        "standing": rng.uniform(0.2, 0.7) if standing else 0.0,
        "growth": rng.uniform(0.1, 0.5),
        "trend": rng.normal(0.05, 0.3),
        "speed": rng.gamma(2.5, 5.0),
        "direction": rng.uniform(0, 2 * np.pi),
        "speed_deviation": min(rng.lognormal(np.log(1.2), 0.5), 3.0),
        "noise": rng.uniform(0.0, 0.4) ** 2,
        "smallest": rng.uniform(0.0, 0.12),
        "range_km": rng.uniform(90, 180) if near else np.inf,
        "radar_x": rng.uniform(-80, 80),
        "radar_y": rng.uniform(-80, 80),
    }  # fmt: skip


def synthetic_windows(
    numbers: range,
    *,
    size: int,
    seed: int,
    context_frames: int = 4,
    lead_steps: int = 18,
    device: str = "cpu",
) -> Iterator[Tensor]:
    """Windows of synthetic rain; window n depends on nothing but the seed and n.

    Args:
        numbers: Which windows. Those that share a piece of weather (one after the other) are cheaper
            together.
        size: Rows and columns, up to `DOMAIN`.
        seed: Of all random numbers.
        context_frames: Frames up to and including the reference time.
        lead_steps: Frames after it.
        device: Where to compute. Random numbers are drawn on the CPU, so that windows agree but for rounding.

    Yields:
        mm/h, (context_frames + lead_steps, size, size), in the co-moving frame, NaN where there is no data.
    """
    each = (DOMAIN // size) ** 2
    pieces = range(numbers.start // each, -(-numbers.stop // each)) if numbers else range(0)
    for first in range(pieces.start, pieces.stop, AT_ONCE):
        some = range(first, min(first + AT_ONCE, pieces.stop))
        rain = pieces_of_weather(
            some, seed=seed, context_frames=context_frames, lead_steps=lead_steps, device=device
        )
        for piece, frames in zip(some, rain, strict=True):
            for place in range(each):
                if piece * each + place in numbers:
                    row, column = divmod(place, DOMAIN // size)
                    yield frames[..., row * size : (row + 1) * size, column * size : (column + 1) * size]


@torch.no_grad()
def pieces_of_weather(
    pieces: range, *, seed: int, context_frames: int, lead_steps: int, device: str = "cpu"
) -> Tensor:
    """Whole domains, (N, context_frames + lead_steps, DOMAIN, DOMAIN), as `synthetic_windows` has them."""
    drawn = [draw_weather(np.random.default_rng([seed, number])) for number in pieces]
    weather = Weather(
        **{
            field.name: torch.tensor([parameters[field.name] for parameters in drawn], device=device)
            .float()[:, None, None]
            for field in fields(Weather)
        }
    )  # fmt: skip
    noise = _Noise(pieces, seed=seed, device=device)
    now, frames = context_frames - 1, context_frames + lead_steps
    displaced = _displacement(weather, noise, frames=frames, now=now)
    gaussian = _gaussian(weather, noise, frames=frames, now=now)
    rain = torch.stack(
        [_rain(_warped(next(gaussian), displaced[n]), weather, noise) for n in range(frames)], dim=1
    )
    rain = pulled_along(rain, context_frames=context_frames)
    return torch.where(_covered(weather, frames=frames, now=now), rain, torch.nan)


class _Noise:
    """Normal numbers for N pieces of weather, of which none depends on what else is made."""

    def __init__(self, pieces: range, *, seed: int, device: str) -> None:
        keys = [np.random.SeedSequence([seed, number, 1]).generate_state(1, np.uint64) for number in pieces]
        self.generators = [torch.Generator().manual_seed(int(key[0] >> 1)) for key in keys]
        self.device = device

    def __call__(self, *shape: int) -> Tensor:
        """(N, *shape)."""
        drawn = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(self.device)


def _gaussian(weather: Weather, noise: _Noise, *, frames: int, now: int) -> Iterator[Tensor]:
    """Gaussian fields of unit variance in the frame of the mean motion, (N, DOMAIN, DOMAIN)."""
    device = weather.lifetime.device
    ky = torch.fft.fftfreq(DOMAIN, device=device)[:, None]
    kx = torch.fft.rfftfreq(DOMAIN, device=device)[None, :]
    k = torch.hypot(kx, ky)
    deviation = _mode_deviation(weather, kx, ky)
    size = (2, *deviation.shape[-2:])
    moving = _second_order(noise, size, STEP * k / weather.lifetime)
    standing = torch.view_as_complex(noise(*size).movedim(1, -1).contiguous()) * weather.standing
    area = _second_order(noise, (2, 1, 1), torch.full((1, 1), STEP / NOISE_LIFETIME, device=device))
    total = (1 + weather.standing**2 + weather.growth**2).sqrt()
    cells = weather.speed * STEP * 0.06
    u, v = cells * weather.direction.cos(), cells * weather.direction.sin()
    for n in range(frames):
        turn = torch.exp(2j * torch.pi * (n - now) * (kx * u + ky * v))
        field = torch.fft.irfft2(
            (next(moving) + standing * turn) * deviation, s=(DOMAIN, DOMAIN), norm="forward"
        )
        grown = weather.growth * next(area).real + weather.trend * (n - now) * STEP / 60
        yield (field + grown) / total


def _mode_deviation(weather: Weather, kx: Tensor, ky: Tensor) -> Tensor:
    """Standard deviation of the real and of the imaginary part of each mode; the field's variance is 1."""
    k = torch.hypot(kx, ky)
    stretch = weather.stretch ** (0.5 / (1 + 30 * k))
    cos, sin = weather.angle.cos(), weather.angle.sin()
    squared = ((kx * cos + ky * sin) * stretch) ** 2 + ((ky * cos - kx * sin) / stretch) ** 2
    variance = (squared + weather.outer_scale**-2) ** (-weather.slope / 2)
    variance = variance * (1 + squared * weather.break_length**2) ** (-weather.steepening / 2)
    variance = variance * torch.exp(-((2 * torch.pi * weather.resolution) ** 2) * squared / 2)
    variance = torch.where((ky.abs() == 0.5) | (kx == 0.5) | (k == 0), 0, variance)
    both_sides = torch.where(kx > 0, 2.0, 1.0)
    variance = variance / (variance * both_sides).sum(dim=(-2, -1), keepdim=True)
    # Of the modes with kx = 0 the inverse transform keeps the Hermitian half.
    return (variance / both_sides).sqrt()


def _second_order(noise: _Noise, size: tuple[int, ...], steps_per_lifetime: Tensor) -> Iterator[Tensor]:
    """Stationary critically damped AR(2), complex, each part of unit variance, (N, *size[1:])."""
    p = torch.exp(-steps_per_lifetime)
    shock = ((1 - p**2) ** 3 / (1 + p**2)).sqrt()
    lag_one = 2 * p / (1 + p**2)

    def normal() -> Tensor:
        return torch.view_as_complex(noise(*size).movedim(1, -1).contiguous())

    older = normal()
    old = lag_one * older + (1 - lag_one**2).clamp(min=0).sqrt() * normal()
    while True:
        yield older
        older, old = old, 2 * p * old - p**2 * older + shock * normal()


def _displacement(weather: Weather, noise: _Noise, *, frames: int, now: int) -> list[Tensor]:
    """How far the varying motion has carried the rain since now, cells, (N, 2, DOMAIN, DOMAIN) per frame."""
    modes = 3
    patterns = noise(modes, 2, PATTERN, PATTERN)
    patterns[:, 0] = patterns[:, 0, :, :1, :1]  # the same everywhere
    wrapped = F.pad(patterns.flatten(1, 2), (2, 2, 2, 2), mode="circular")
    zoom = DOMAIN // PATTERN
    smooth = F.interpolate(wrapped, scale_factor=zoom, mode="bicubic")
    inner = slice(2 * zoom, -2 * zoom)
    smooth = smooth[..., inner, inner].unflatten(1, (modes, 2))
    amplitude = weather.speed_deviation * STEP * 0.06 / modes**0.5
    change = _second_order(
        noise, (2, modes, 1), torch.full((1, 1), STEP / NOISE_LIFETIME, device=amplitude.device)
    )
    steps = [
        (smooth * (next(change).real * amplitude)[..., None, None]).sum(dim=1) for _ in range(frames - 1)
    ]
    places = [torch.zeros_like(steps[0])]
    for step in steps:
        places.append(places[-1] + step)
    return [place - places[now] for place in places]


def _warped(field: Tensor, displacement: Tensor) -> Tensor:
    """A periodic field (N, H, W) displaced by (N, 2, H, W) cells."""
    padded = F.pad(field[:, None], (MARGIN,) * 4, mode="circular")
    moved = displacement.clamp(-MARGIN + 2, MARGIN - 2)
    place = torch.arange(DOMAIN, device=field.device) + MARGIN
    scale = 2 / (DOMAIN + 2 * MARGIN - 1)
    x = (place - moved[:, 0]) * scale - 1
    y = (place[:, None] - moved[:, 1]) * scale - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(padded, grid, mode="bicubic", align_corners=True)[:, 0]


def _rain(field: Tensor, weather: Weather, noise: _Noise) -> Tensor:
    """mm/h from a Gaussian field, (N, DOMAIN, DOMAIN)."""
    sigma, threshold = weather.log_sigma, -torch.special.ndtri(weather.wet_fraction)
    excess = torch.exp(sigma**2 / 2 - sigma * threshold) * torch.special.ndtr(sigma - threshold)
    excess = excess / weather.wet_fraction  # mean of exp(sigma (z - threshold)) where z > threshold
    offset = ((weather.wet_rate - WET * excess) / (excess - 1)).clamp(min=-0.05)
    rate = (WET + offset) * torch.exp(sigma * (field - threshold)) - offset
    rate = rate * torch.exp(weather.noise * noise(DOMAIN, DOMAIN))
    return torch.where(rate >= weather.smallest, rate, 0).clamp(0, LARGEST)


def _covered(weather: Weather, *, frames: int, now: int) -> Tensor:
    """Where there is data, bool (N, frames, DOMAIN, DOMAIN): the radar stays behind as the rain moves on."""
    device = weather.speed.device
    place = torch.arange(DOMAIN, device=device) - (DOMAIN - 1) / 2
    away = (torch.arange(frames, device=device) - now)[:, None, None] * STEP * 0.06
    u, v = weather.speed * weather.direction.cos(), weather.speed * weather.direction.sin()
    x = place + away * u[:, None] - weather.radar_x[:, None]
    y = place[:, None] + away * v[:, None] - weather.radar_y[:, None]
    return torch.hypot(x, y) <= weather.range_km[:, None]
