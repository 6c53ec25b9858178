"""What `rain_statistics.py` measures of rain: amounts, scales and how long they last, motion, growth."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.optimize
import torch

from nowcast.motion import estimate_motion, sample, trajectories
from nowcast.verification.spectra import power_spectrum

WET = 0.1
"""mm/h from which a cell counts as wet."""
DRY = 0.005
"""Wet share of a frame below which nothing is learnt from it about motion, scales and growth."""
CONTEXT = 4
"""Frames from which motion is estimated."""
LAGS = (5, 15, 30, 60, 90)
"""Minutes; an archive with another step has the nearest that it can have."""
BANDS = (2, 4, 8, 16, 32, 64)
"""Kilometres: each band of wavelengths reaches from one of them to twice that."""
TAPER_KM = 16
"""Over which a field fades towards missing cells before it is split by scale."""
TILE_KM = 256
"""Side of the squares of which wet share, spectrum and growth are taken: that of a synthetic window."""
STARTS, FRAMES = 8, 36
"""How many of an archive are used, evenly spread: for what needs motion, and for spectra."""
OBSERVED = 0.97
"""Share of cells that a spectrum needs: the edge of the data would be a structure of its own."""
RATES = np.geomspace(0.1, 100, 31)
"""mm/h of the exceedance curves."""
SPECTRUM_KM = (8, 64)
"""Wavelengths over which the mean power of every spectrum is made 1."""
SLOPES_KM = ((3, 20), (20, 128))


@dataclass(frozen=True)
class Rain:
    """Frames of one archive or one synthetic window.

    Attributes:
        frames: mm/h, (T, H, W), NaN where there is no data.
        minutes: Whole minutes of each frame after the first, (T,); gaps are allowed.
        step_minutes: Step of the clock.
        spacing_km: Side of a cell.
        comoving: Whether frames are already moved to where the rain is at the last frame of the context.
    """

    frames: np.ndarray
    minutes: np.ndarray
    step_minutes: float
    spacing_km: float
    comoving: bool = False

    @property
    def lags(self) -> list[int]:
        """Time steps nearest to `LAGS` that some frames lie apart, each once; none is a quarter off."""
        apart = np.unique(self.minutes[CONTEXT - 1 :, None] - self.minutes[None, CONTEXT - 1 :])
        apart = apart[apart > 0]
        nearest = [(lag, int(apart[np.abs(apart - lag).argmin()])) for lag in LAGS]
        near = {found for lag, found in nearest if abs(found - lag) <= max(lag / 4, self.step_minutes)}
        return [round(found / self.step_minutes) for found in sorted(near)]

    @property
    def bands(self) -> list[int]:
        """Of `BANDS`, those that the grid resolves and the field is large enough for."""
        side = min(self.frames.shape[-2:]) * self.spacing_km
        return [band for band in BANDS if 2 * self.spacing_km <= band and 2 * band <= side]


@dataclass
class Statistics:
    """What is measured of one archive or window.

    Attributes:
        wet_fraction: Share of observed cells with `WET` or more.
        mean_wet_rate: mm/h, of wet cells.
        extreme: 99.9th percentile of wet rates over their mean.
        exceedance: Share of wet cells at or above each of `RATES`.
        wavelength: Of the spectrum, km.
        power: Of the square root of rain, relative.
        slopes: Of the spectrum's power against wavelength, for each of `SLOPES_KM`.
        lag_minutes: Of the correlations.
        band_km: Lower end of each band.
        correlation: In the co-moving frame, (bands, lags), NaN where the archive has none.
        c: Minutes per km of the law of `lifetime_law` that fits all of them best.
        c_of_bands: The same, of each band alone.
        speed: m/s over rainy cells, percentiles 0 to 100; NaN in the co-moving frame.
        growth: Mean rain after 30 and after 60 min over that at the start, one for each start and tile.
        tile_wet: As `wet_fraction`, one for each tile of some frames.
    """

    wet_fraction: float
    mean_wet_rate: float
    extreme: float
    exceedance: np.ndarray
    wavelength: np.ndarray
    power: np.ndarray
    slopes: list[float]
    lag_minutes: list[float]
    band_km: list[int]
    correlation: np.ndarray
    c: float
    c_of_bands: list[float]
    speed: np.ndarray
    growth: dict[int, list[float]]
    tile_wet: list[float]


def statistics(rain: Rain) -> Statistics:
    """All statistics of some frames."""
    wet = np.sort(rain.frames[rain.frames >= WET])
    mean_wet_rate = wet.mean(dtype=float)
    wavelength, power = spectrum(rain)
    correlation, speed, growth = evolution(rain)
    lags, step = [lag * rain.step_minutes for lag in rain.lags], rain.step_minutes
    middle = [band * 2**0.5 for band in rain.bands]
    return Statistics(
        wet_fraction=wet.size / np.isfinite(rain.frames).sum(),
        mean_wet_rate=mean_wet_rate,
        extreme=np.quantile(wet, 0.999) / mean_wet_rate,
        exceedance=1 - np.searchsorted(wet, RATES.astype(np.float32)) / wet.size,
        wavelength=wavelength,
        power=power,
        slopes=[slope(wavelength, power, ends) for ends in SLOPES_KM],
        lag_minutes=lags,
        band_km=rain.bands,
        correlation=correlation,
        c=fitted_c(correlation, lags, middle, step),
        c_of_bands=[
            fitted_c(row[None], lags, [km], step) for row, km in zip(correlation, middle, strict=True)
        ],
        speed=speed,
        growth=growth,
        tile_wet=tile_wet_shares(rain),
    )


def tile_wet_shares(rain: Rain) -> list[float]:
    """Wet share of each tile that is half observed or more, in some frames."""
    parts = [frame[tile][None] for frame in spread(rain.frames, STARTS) for tile in tiles(rain)]
    return [float(wet_share(part)[0]) for part in parts if np.isfinite(part).mean() >= 0.5]


def spectrum(rain: Rain) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths (km) and mean power of the square root of rain in the wettest observed box of `TILE_KM`.

    The power is NaN where no box is observed well enough.
    """
    side = min(round(TILE_KM / rain.spacing_km), *rain.frames.shape[-2:])
    chosen = spread(np.flatnonzero(wet_share(rain.frames) >= DRY), FRAMES)
    mean = np.nan_to_num(rain.frames[chosen]).mean(axis=0)
    observed = np.isfinite(rain.frames[chosen]).mean(axis=0)
    box = wettest(mean, side, observed=observed)
    power = power_spectrum(np.sqrt(rain.frames[chosen][:, box[0], box[1]])).mean(axis=0)
    power = power if observed[box].mean() >= OBSERVED else np.full_like(power, np.nan)
    wavelength = side * rain.spacing_km / np.arange(1, power.size + 1)
    inside = (wavelength >= SPECTRUM_KM[0]) & (wavelength <= SPECTRUM_KM[1])
    return wavelength, power / power[inside].mean()


def slope(wavelength: np.ndarray, power: np.ndarray, ends: tuple[float, float]) -> float:
    """Exponent of power against wavelength between two wavelengths, the octaves weighted alike."""
    inside = (wavelength >= ends[0]) & (wavelength <= ends[1])
    if inside.sum() < 3:
        return float("nan")
    x, y = np.log(wavelength[inside]), np.log(power[inside])
    return float(np.polyfit(x, y, 1, w=wavelength[inside] ** 0.5)[0])


def evolution(rain: Rain) -> tuple[np.ndarray, np.ndarray, dict[int, list[float]]]:
    """Correlations (bands, lags), percentiles of the speed, and growth, in the co-moving frame."""
    lags = rain.lags
    sums = np.zeros((3, len(rain.bands), len(lags)))
    speeds: list[np.ndarray] = []
    growth: dict[int, list[float]] = {30: [], 60: []}
    for start in starts(rain):
        first = rain.frames[start[0]]
        for lag, later, speed in followed(rain, start):
            both = np.isfinite(first) & np.isfinite(later)
            sums[:, :, lags.index(lag)] += band_sums(first, later, both, rain)
            if lag == lags[0] and speed is not None:
                speeds.append(speed[first >= WET][::50])
            for after in growth:
                if abs(lag * rain.step_minutes - after) <= rain.step_minutes / 2:
                    growth[after] += changes(first, later, both, tiles(rain))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = sums[0] / np.sqrt(sums[1] * sums[2])
    values = np.concatenate(speeds) if speeds else np.array([np.nan])
    return correlation, np.percentile(values, np.arange(101)), growth


def starts(rain: Rain) -> list[tuple[int, dict[int, int]]]:
    """Frames with a context before them, and which frame follows each at which lag.

    Those that are followed for longest are taken first.
    """
    place = {int(minute): n for n, minute in enumerate(rain.minutes)}
    wet, lags = wet_share(rain.frames), rain.lags
    tiers: dict[int, list] = {}
    for minute, n in place.items():
        context = [minute - round(k * rain.step_minutes) for k in range(1, CONTEXT)]
        ready = n == CONTEXT - 1 if rain.comoving else all(earlier in place for earlier in context)
        if ready and wet[n] >= DRY:
            after = {lag: place.get(minute + round(lag * rain.step_minutes)) for lag in lags}
            reached = {lag: m for lag, m in after.items() if m is not None}
            tiers.setdefault(max(reached, default=0), []).append((n, reached))
    chosen: list = []
    for reach in sorted(tiers, reverse=True):
        if reach and len(chosen) < STARTS:
            chosen += spread(tiers[reach], STARTS - len(chosen))
    return chosen


def followed(rain: Rain, start: tuple[int, dict[int, int]]) -> Iterator:
    """Lag, the frame after it pulled to where the rain was at the start, and the speed in m/s."""
    first, after = start
    if rain.comoving:
        yield from ((lag, rain.frames[n], None) for lag, n in after.items())
        return
    context = torch.from_numpy(rain.frames[first - CONTEXT + 1 : first + 1])[None]
    motion = estimate_motion(context)
    speed = torch.hypot(*motion[0]).numpy() * rain.spacing_km * 1000 / (rain.step_minutes * 60)
    for steps, back in enumerate(trajectories(-motion, max(after)), start=1):
        if steps in after:
            later = torch.from_numpy(rain.frames[after[steps]])[None]
            yield steps, sample(later, back, nearest=True)[0].numpy(), speed


def band_sums(first: np.ndarray, later: np.ndarray, both: np.ndarray, rain: Rain) -> np.ndarray:
    """Sums of products of two frames by scale, (xy, xx, yy) x bands."""
    inside = scipy.ndimage.distance_transform_edt(np.pad(both, 1))[1:-1, 1:-1]
    fade = np.sin(np.clip(inside * rain.spacing_km / TAPER_KM, 0, 1) * np.pi / 2).astype(np.float32) ** 2
    shape = [scipy.fft.next_fast_len(length, real=True) for length in both.shape]
    transforms = []
    for frame in (first, later):
        root = np.sqrt(np.where(both, frame, 0))
        root = (root - (root * fade).sum() / max(fade.sum(), 1e-9)) * fade
        transforms.append(scipy.fft.rfft2(root, shape))
    cycles = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])) / rain.spacing_km
    sums = []
    for band in rain.bands:
        kept = (cycles > 0.5 / band) & (cycles <= 1 / band)
        x, y = (
            scipy.fft.irfft2(part * kept, shape)[: len(both), : both.shape[1]][both] for part in transforms
        )
        sums.append([float((a * b).sum(dtype=float)) for a, b in ((x, y), (x, x), (y, y))])
    return np.array(sums).T


def changes(first: np.ndarray, later: np.ndarray, both: np.ndarray, places: list) -> list[float]:
    """Mean rain of the later frame over that of the first, on cells that both have, for tiles with rain."""
    found = []
    for place in places:
        cells = both[place]
        before, after = first[place][cells], later[place][cells]
        if cells.mean() > 0.25 and (before >= WET).mean() > 0.02:
            found.append(float(after.mean() / before.mean()))
    return found


def lifetime_law(c: float, lag: np.ndarray, wavelength: np.ndarray, step: float) -> np.ndarray:
    """Correlation of a critically damped AR(2) process whose lifetime is ``c`` min per km of wavelength.

    rho(k) = p^k (1 + k (1 - p^2) / (1 + p^2)), p = exp(-step / (c wavelength)), k = lag / step
    """
    p = np.exp(-step / (c * wavelength))
    return p ** (lag / step) * (1 + lag / step * (1 - p**2) / (1 + p**2))


def fitted_c(correlation: np.ndarray, lags: list[float], wavelengths: list[float], step: float) -> float:
    """The c of `lifetime_law` with the least squares over bands and lags."""
    lag, wavelength = np.array(lags)[None], np.array(wavelengths)[:, None]

    def error(log_c: float) -> float:
        return float(np.nanmean((correlation - lifetime_law(np.exp(log_c), lag, wavelength, step)) ** 2))

    if not np.isfinite(correlation).any():
        return float("nan")
    return float(np.exp(scipy.optimize.minimize_scalar(error, bounds=(-4, 3), method="bounded").x))


def wet_share(frames: np.ndarray) -> np.ndarray:
    """Of the observed cells of each frame, the share that is wet."""
    return (frames >= WET).sum(axis=(1, 2)) / np.maximum(np.isfinite(frames).sum(axis=(1, 2)), 1)


def spread(items: Iterable, count: int) -> list:
    """At most so many of the items, evenly spread."""
    items = list(items)
    return [items[round(n)] for n in np.linspace(0, len(items) - 1, min(count, len(items)))]


def tiles(rain: Rain) -> list[tuple[slice, slice]]:
    """Squares of `TILE_KM` side by side, one where the field is smaller."""
    side = round(TILE_KM / rain.spacing_km)
    ends = [range(0, max(length - side, 0) + 1, side) for length in rain.frames.shape[-2:]]
    return [(slice(row, row + side), slice(column, column + side)) for row in ends[0] for column in ends[1]]


def wettest(mean: np.ndarray, side: int, *, observed: np.ndarray | None = None) -> tuple[slice, slice]:
    """The square box with most rain; of those that are observed as much as any, where that is to count."""
    height, width = (min(side, length) for length in mean.shape)

    def sums(values: np.ndarray) -> np.ndarray:
        total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0, dtype=float).cumsum(axis=1)
        total = total[height:] - total[:-height]
        return total[:, width:] - total[:, :-width]

    rain = sums(mean)
    if observed is not None:
        share = sums(observed) / (height * width)
        # As much as the networks may be expected to see, or the best that there is.
        rain = np.where(share >= min(0.98, share.max() - 1e-9), rain, -1)
    row, column = np.unravel_index(np.argmax(rain), rain.shape)
    return slice(row, row + height), slice(column, column + width)
