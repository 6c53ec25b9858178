"""Variance of rain fields by spatial scale, and how far that of a forecast is from that of the observed rain.

Arrays are numpy or torch; the functions use what both have and stay on the device they are given.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft

from nowcast.verification.arrays import Array, as_numpy, device_of, namespace


def power_spectrum(fields: Array, mask: Array | None = None) -> Array:
    """Radially averaged power spectral density.

    The density is P = |FFT(w (f - mean f))|^2 / sum w^2, with f the rain, missing cells counted as dry, and w
    a Hann window along both sides against the jump between opposite edges. Ring k is the mean of P over all
    wavenumbers, in any direction, that round to k cycles per min(H, W) cells: structures of min(H, W) / k
    cells. White noise of variance v has a power of about v in every ring, whatever the size of the field.

    Borders of missing cells are jumps that stay, so compare fields with the same ones.

    Args:
        fields: mm/h, (..., H, W).
        mask: True where the cell counts, broadcast to (..., H, W); where the field is finite if not given.

    Returns:
        Rings 1 to min(H, W) // 2, (..., rings), mm2 h-2; they add over cases.

    Raises:
        ValueError: If a side is shorter than 2 cells.
    """
    return _ring_means(_density(fields, mask), fields.shape[-1])


def mean_power_spectrum(members: Array, mask: Array | None = None) -> np.ndarray:
    """Spectra of the members of an ensemble, averaged; with memory for one of them.

    Args:
        members: mm/h, (M, H, W).
        mask: As that of `power_spectrum`.

    Returns:
        (rings,), as `power_spectrum` gives them, in the memory of this machine.

    Raises:
        ValueError: If a side is shorter than 2 cells.
    """
    density = sum(_density(member, mask) for member in members) / members.shape[0]
    return _ring_means(as_numpy(density), members.shape[-1])


def log_spectral_distance(forecast: Array, observed: Array) -> Array:
    """Root mean square distance of two spectra in decibels.

        LSD = sqrt( mean over rings k of ( 10 log10( P_forecast(k) / P_observed(k) ) )^2 )

    The measure of Harris et al. 2022 (doi:10.1029/2022MS003120), here of spectra that are already added over
    the cases that count, so that a case with hardly any rain weighs little. Rings in which either power is 0
    are left out.

    Args:
        forecast: As `power_spectrum` makes them, the mean over members, added over cases, (..., rings).
        observed: Added over the same cases, (..., rings).

    Returns:
        dB, (...); 0 is perfect, NaN where no ring is left.

    Raises:
        ValueError: If the numbers of rings differ.
    """
    if forecast.shape[-1] != observed.shape[-1]:
        raise ValueError(
            "spectra to compare must have the same rings, "
            f"got {forecast.shape[-1]} and {observed.shape[-1]}; take them of fields of one size"
        )
    xp = namespace(forecast)
    counts = (forecast > 0) & (observed > 0)
    decibels = 10 * xp.log10(xp.where(counts, forecast, 1) / xp.where(counts, observed, 1))
    rings = counts.sum(-1)
    return ((decibels**2).sum(-1) / xp.where(rings > 0, rings, float("nan"))) ** 0.5


def _density(fields: Array, mask: Array | None) -> Array:
    """Power by wavenumber, (..., H, W // 2 + 1): the half that a real field needs."""
    height, width = fields.shape[-2:]
    if min(height, width) < 2:
        raise ValueError(
            f"a spectrum needs fields of 2 x 2 cells or more, got {height} x {width}; give a larger field"
        )
    xp = namespace(fields)
    counts = xp.isfinite(fields) if mask is None else mask
    rain = fields if bool(counts.all()) else xp.where(counts, fields, 0)
    # The window would else smear the mean rain into ring 1.
    waves = rain - rain.mean((-2, -1))[..., None, None]
    down, across = _hann(height), _hann(width)
    own = {"dtype": waves.dtype, **device_of(waves)}
    waves *= xp.asarray(down, **own)[:, None]
    waves *= xp.asarray(across, **own)
    # The transform of scipy is several times faster than that of numpy.
    transform = (scipy.fft if xp is np else xp.fft).rfft2(waves)
    return (transform.real**2 + transform.imag**2) / float((down**2).sum() * (across**2).sum())


def _ring_means(density: Array, width: int) -> Array:
    """Means over the rings of what `_density` gives of fields so wide, (..., rings)."""
    xp = namespace(density)
    flat = density.reshape(*density.shape[:-2], -1)
    own = {"dtype": flat.dtype, **device_of(flat)}
    rings = _rings(density.shape[-2], width)
    return xp.stack([flat[..., cells] @ xp.asarray(weights, **own) for cells, weights in rings], -1)


def _hann(length: int) -> np.ndarray:
    """Zero half a cell outside the field, so that no row is lost."""
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2


@lru_cache(maxsize=8)
def _rings(height: int, width: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Ring by ring, indexes into a flattened half-plane transform and weights that add up to 1.

    A wavenumber of the half that is not computed has the power of its mirror image, which counts twice. The
    corners beyond the last ring are in none.
    """
    side = min(height, width)
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).reshape(-1) * side
    mirrored = np.arange(width // 2 + 1)
    twice = np.broadcast_to((mirrored > 0) & (2 * mirrored != width), (height, width // 2 + 1)).reshape(-1)
    number = np.rint(cycles).astype(int)
    order = np.argsort(number, kind="stable")
    edges = np.searchsorted(number[order], np.arange(1, side // 2 + 2))
    rings = [order[first:last] for first, last in zip(edges[:-1], edges[1:], strict=True)]
    return tuple((ring, (1.0 + twice[ring]) / (1.0 + twice[ring]).sum()) for ring in rings)
