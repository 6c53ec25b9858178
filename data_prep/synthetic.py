"""Stochastic rain with a known motion: the embedded data for demonstrations, tests and pre-training.

A Gaussian field with a power-law spectrum is moved, renewed and turned into rain:

1. *Scales.* Its Fourier modes have the variance ``(k^2 + 1/L^2)^(-slope/2)``, k = 1/wavelength, flat beyond
   the outer scale L. Long waves are stretched along one direction, short ones are not: cells stand in bands.
2. *Renewal.* In the frame that moves with the rain each mode is a critically damped second-order
   autoregression, whose autocorrelation after j steps is ``p^j (1 + j (1 - p^2) / (1 + p^2))``, with
   ``p = exp(-step / lifetime)`` and lifetime [min] = lifetime_per_km x wavelength [km]. Small scales are
   forgotten first: the law measured on radar rain of the Netherlands, Switzerland and Finland (there 0.45 to
   1.2 min/km).
3. *Motion.* The whole field is displaced by exact phase shifts with a slowly varying velocity, which is
   returned. The field is periodic on a domain wider than the crop by twice the outer scale, so that opposite
   edges of the crop are unrelated and what leaves on one side is renewed before it could come back on the
   other.
4. *Growth and decay.* A slow area-wide process G joins the field g: z = (g + a G) / sqrt(1 + a^2).
5. *Rain.* ``R = (0.1 + r) exp(sigma (z - z_w)) - r``, dry where that is negative. A sum of Gaussian scales
   in the exponent is a lognormal cascade (Schertzer and Lovejoy 1987, doi:10.1029/JD092iD08p09693). z_w is
   the quantile that leaves the asked share of the area above 0.1 mm/h, and r gives the asked mean rate there.

With the default parameters the rain above 0.1 mm/h has these statistics (over many hours; a single frame
varies), beside those of two real events:

==========================  =========  ========================  ===================
..                          synthetic  Netherlands, August 2010  Finland, May 2017
==========================  =========  ========================  ===================
share of the observed area  0.25       0.53                      0.09
mean, mm/h                  0.92       0.77                      0.51
median, mm/h                0.50       0.48                      0.28
99.9th percentile / mean    16         10                        16
==========================  =========  ========================  ===================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyproj
import scipy.fft
import scipy.special
import xarray as xr

from data_prep.schema import VARIABLE, RefusedInput, map_coordinates, rain_array_on

WET = 0.1
"""mm/h above which a cell counts as wet."""
LARGEST = 150.0
"""mm/h at which the rain saturates."""
GROWTH_LIFETIME = 120.0
"""Minutes over which area-wide growth and decay, and the velocity, stay alike."""
RADARS = ((0.40, 0.42), (0.60, 0.58))
"""Radar sites as shares of the height and of the width, from the north-west corner."""
RADAR_RANGE = 0.48
"""Range of the radars as a share of the shorter side."""
BAND_WAVELENGTH = 30.0
"""Kilometres; a wave of this length is stretched half as much, in the logarithm, as the longest are."""


@dataclass(frozen=True)
class SyntheticRain:
    """What the rain is like.

    Args:
        shape: Rows and columns of the grid.
        spacing_km: Side of a grid cell, km.
        step_minutes: Time between frames, min.
        start: Time of the first frame, ISO 8601, UTC.
        spectral_slope: Exponent of the radially averaged power spectral density of the field.
        outer_scale_km: Wavelength beyond which the spectrum is flat, km.
        stretch: Length over width of the bands; 1 for none.
        wet_fraction: Share of the observed area above 0.1 mm/h, over many hours.
        wet_rate: Mean rate where it is wet, mm/h.
        log_sigma: Standard deviation of the logarithm of the rate, before dry cells are cut off.
        lifetime_per_km: Lifetime of a structure per wavelength, min/km.
        speed: Mean speed, m/s. The direction is drawn from the seed.
        speed_deviation: Standard deviation of either velocity component, m/s.
        growth: Standard deviation of area-wide growth and decay, relative to that of the field.
        range_rings: Whether cells beyond the range of two radars are missing.
        crs: Projected CRS in metres, whose origin is the centre of the grid.

    Raises:
        RefusedInput: If a value makes no sense.
    """

    shape: tuple[int, int] = (256, 256)
    spacing_km: float = 1.0
    step_minutes: float = 5.0
    start: str = "2020-06-01T00:00"
    spectral_slope: float = 3.0
    outer_scale_km: float = 100.0
    stretch: float = 3.2
    wet_fraction: float = 0.25
    wet_rate: float = 0.9
    log_sigma: float = 1.2
    lifetime_per_km: float = 0.65
    speed: float = 12.0
    speed_deviation: float = 1.5
    growth: float = 0.4
    range_rings: bool = True
    crs: str = "+proj=laea +lat_0=52 +lon_0=5 +datum=WGS84 +units=m"

    def __post_init__(self) -> None:
        positive = ("spacing_km", "step_minutes", "outer_scale_km", "stretch", "wet_rate", "log_sigma",
                    "lifetime_per_km")  # fmt: skip
        for name in positive:
            _require(getattr(self, name) > 0, f"{name} is above 0", getattr(self, name))
        for name in ("speed", "speed_deviation", "growth", "spectral_slope"):
            _require(getattr(self, name) >= 0, f"{name} is not negative", getattr(self, name))
        _require(len(self.shape) == 2 and min(self.shape) >= 1, "shape is (rows, columns)", self.shape)
        _require(0 < self.wet_fraction < 1, "wet_fraction lies between 0 and 1", self.wet_fraction)
        _require(_is_time(self.start), "start is an ISO 8601 time", self.start)
        _require(_is_crs(self.crs), "crs is a coordinate reference system that PROJ understands", self.crs)
        limit = WET * _mean_excess(self)
        _require(
            self.wet_rate > limit, f"wet_rate is above {limit:.4g} mm/h for this log_sigma", self.wet_rate
        )


class SyntheticFrame(NamedTuple):
    """One frame of `stream`.

    Attributes:
        time: Time of the frame.
        rate: mm/h, float32, shape (Y, X), north first, NaN out of range.
        motion: Displacement of the rain from this frame to the next one in cells, shape (2,): u towards
            higher columns (east), v towards higher rows (south).
    """

    time: np.datetime64
    rate: np.ndarray
    motion: np.ndarray


def generate(parameters: SyntheticRain | None = None, *, frames: int, seed: int) -> xr.Dataset:
    """Make a rain array and its true motion.

    Frame n is the same however many frames are asked for.

    Args:
        parameters: What the rain is like; the defaults if None.
        frames: Number of frames.
        seed: Seed of every random number.

    Returns:
        ``rainfall_rate(time, y, x)``, a rain array in mm/h, and ``motion(time, component)``, the displacement
        of the rain from the frame to the next one in cells: u towards higher columns (east), v towards
        higher rows (south).

    Raises:
        RefusedInput: If fewer than one frame is asked for, or the CRS is not projected in metres.
    """
    parameters = parameters or SyntheticRain()
    _require(frames >= 1, "frames is 1 or more", frames)
    rate = np.empty((frames, *parameters.shape), dtype=np.float32)
    motion = np.empty((frames, 2))
    times = np.empty(frames, dtype="datetime64[ns]")
    for n, frame in enumerate(islice(stream(parameters, seed=seed), frames)):
        times[n], rate[n], motion[n] = frame
    rain = rain_array_on(rate, time=times, coordinates=coordinates(parameters))
    attributes = {
        "long_name": "displacement of the rain to the next frame",
        "units": "1",
        "comment": "in grid cells; u towards higher columns, v towards higher rows",
    }
    return xr.Dataset(
        {VARIABLE: rain, "motion": (("time", "component"), motion, attributes)}, {"component": ["u", "v"]}
    )


def stream(parameters: SyntheticRain | None = None, *, seed: int) -> Iterator[SyntheticFrame]:
    """Make frames one at a time, without end, in constant memory.

    Args:
        parameters: What the rain is like; the defaults if None.
        seed: Seed of every random number.
    """
    parameters = parameters or SyntheticRain()
    rng = np.random.default_rng(seed)
    direction = rng.uniform(0, 2 * np.pi)
    to_rate = _rain_law(parameters)
    missing = ~observed(parameters)
    step = parameters.step_minutes
    time = np.datetime64(parameters.start, "ns")
    velocity = _second_order(rng, np.full(2, float(parameters.speed_deviation)), step / GROWTH_LIFETIME)
    growth = _second_order(rng, np.full(1, float(parameters.growth)), step / GROWTH_LIFETIME)
    mean_velocity = parameters.speed * np.array([np.cos(direction), np.sin(direction)])
    cells_per_step = step * 60 / (1000 * parameters.spacing_km)
    advance = _moving_field(parameters, rng)
    displacement = np.zeros(2)
    while True:
        rate = to_rate(advance(displacement), float(next(growth)[0]))
        rate[missing] = np.nan
        motion = (mean_velocity + next(velocity)) * cells_per_step
        yield SyntheticFrame(time, rate, motion)
        displacement = displacement + motion
        time = time + np.timedelta64(round(step * 60e9), "ns")


def coordinates(parameters: SyntheticRain) -> dict[str, xr.DataArray]:
    """The spatial coordinates of the grid, centred on the origin of the CRS.

    Raises:
        RefusedInput: If the CRS is not projected or its unit is not the metre.
    """
    height, width = parameters.shape
    x = (np.arange(width) - (width - 1) / 2) * parameters.spacing_km * 1000
    y = ((height - 1) / 2 - np.arange(height)) * parameters.spacing_km * 1000
    return map_coordinates(x, y, pyproj.CRS.from_user_input(parameters.crs))


def observed(parameters: SyntheticRain) -> np.ndarray:
    """Where there is data: bool, shape (Y, X), the same in every frame."""
    if not parameters.range_rings:
        return np.ones(parameters.shape, dtype=bool)
    height, width = parameters.shape
    rows, columns = np.mgrid[0.5:height, 0.5:width]
    reach = RADAR_RANGE * min(height, width)
    rings = [np.hypot(rows - r * height, columns - c * width) <= reach for r, c in RADARS]
    return np.logical_or.reduce(rings)


def _rain_law(parameters: SyntheticRain) -> Callable[[np.ndarray, float], np.ndarray]:
    """The function (unit Gaussian field, growth) -> mm/h."""
    mean_excess = _mean_excess(parameters)
    offset = (parameters.wet_rate - WET * mean_excess) / (mean_excess - 1)
    threshold = -scipy.special.ndtri(parameters.wet_fraction)
    scale = parameters.log_sigma / np.hypot(1, parameters.growth)

    def to_rate(field: np.ndarray, growth: float) -> np.ndarray:
        exponent = field * np.float32(scale)
        exponent += np.float32(scale * growth - parameters.log_sigma * threshold + np.log(WET + offset))
        np.exp(exponent, out=exponent)
        exponent -= np.float32(offset)
        return np.clip(exponent, 0, LARGEST, out=exponent)

    return to_rate


def _mean_excess(parameters: SyntheticRain) -> float:
    """E[exp(sigma (z - z_w)) | z > z_w] of a standard normal z, where P(z > z_w) is the wet fraction."""
    sigma, threshold = parameters.log_sigma, -scipy.special.ndtri(parameters.wet_fraction)
    tail = scipy.special.ndtr(sigma - threshold)
    return float(np.exp(sigma**2 / 2 - sigma * threshold) * tail / parameters.wet_fraction)


def _moving_field(parameters: SyntheticRain, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """The function that goes one step on: displacement in cells (u, v) -> field, float32, shape (Y, X)."""
    height, width = parameters.shape
    margin = 2 * parameters.outer_scale_km / parameters.spacing_km
    rows, columns = (
        scipy.fft.next_fast_len(int(np.ceil(size + margin)), real=True) for size in parameters.shape
    )
    ky, kx = scipy.fft.fftfreq(rows)[:, None], scipy.fft.rfftfreq(columns)[None, :]
    deviation = _mode_deviation(parameters, kx, ky, rng.uniform(0, np.pi))
    wavenumber = np.hypot(kx, ky) / parameters.spacing_km
    steps_per_lifetime = parameters.step_minutes * wavenumber / parameters.lifetime_per_km
    modes = _second_order(rng, np.stack([deviation] * 2).astype(np.float32), steps_per_lifetime)
    spectrum = np.empty(deviation.shape, dtype=np.complex64)

    def advance(displacement: np.ndarray) -> np.ndarray:
        u, v = displacement
        spectrum.real, spectrum.imag = next(modes)
        np.multiply(spectrum, np.exp(-2j * np.pi * ky * v).astype(np.complex64), out=spectrum)
        np.multiply(spectrum, np.exp(-2j * np.pi * kx * u).astype(np.complex64), out=spectrum)
        lines = scipy.fft.ifft(spectrum, axis=0, norm="forward")[:height]
        return scipy.fft.irfft(lines, n=columns, axis=1, norm="forward")[:, :width]

    return advance


def _mode_deviation(parameters: SyntheticRain, kx: np.ndarray, ky: np.ndarray, angle: float) -> np.ndarray:
    """Standard deviation of the real and of the imaginary part of each mode; the field's variance is 1."""
    wavenumber = np.hypot(kx, ky) / parameters.spacing_km
    stretch = parameters.stretch ** (0.5 / (1 + wavenumber * BAND_WAVELENGTH))
    along = (kx * np.cos(angle) + ky * np.sin(angle)) * stretch
    across = (ky * np.cos(angle) - kx * np.sin(angle)) / stretch
    squared = (along**2 + across**2) / parameters.spacing_km**2 + parameters.outer_scale_km**-2
    variance = squared ** (-parameters.spectral_slope / 2)
    # The mean belongs to the rain law, and a shift by part of a cell is not defined at the Nyquist frequency.
    variance[(np.abs(ky) == 0.5) | (kx == 0.5) | (wavenumber == 0)] = 0
    both_sides = np.where(kx > 0, 2, 1)
    variance /= (variance * both_sides).sum()
    # Of the modes with kx = 0 the inverse transform keeps the Hermitian half.
    return np.sqrt(variance / np.where(kx > 0, 2, 1))


def _second_order(
    rng: np.random.Generator, deviation: np.ndarray, steps_per_lifetime: np.ndarray | float
) -> Iterator[np.ndarray]:
    """Stationary critically damped AR(2) of zero mean; what it yields may be read until the next step."""
    p = np.exp(-np.asarray(steps_per_lifetime, dtype=np.float64))
    first, second = (2 * p).astype(deviation.dtype), (-(p**2)).astype(deviation.dtype)
    shock = deviation * np.sqrt((1 - p**2) ** 3 / (1 + p**2)).astype(deviation.dtype)
    lag_one = 2 * p / (1 + p**2)

    def normal() -> np.ndarray:
        return rng.standard_normal(deviation.shape, dtype=deviation.dtype)

    older = deviation * normal()
    old = lag_one.astype(deviation.dtype) * older
    old += deviation * np.sqrt(1 - lag_one**2).astype(deviation.dtype) * normal()
    yield older
    while True:
        yield old
        new = normal()
        new *= shock
        new += first * old
        older *= second
        new += older
        older, old = old, new


def _is_time(text: str) -> bool:
    try:
        return not np.isnat(np.datetime64(text, "ns"))
    except ValueError:
        return False


def _is_crs(text: str) -> bool:
    try:
        return bool(pyproj.CRS.from_user_input(text))
    except pyproj.exceptions.CRSError:
        return False


def _require(holds: object, rule: str, came: object) -> None:
    if not holds:
        raise RefusedInput(rule, came=came, do="change that parameter of the synthetic rain")
