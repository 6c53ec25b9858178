"""Variance of rain fields by spatial scale, and how far that of a forecast is from that of the observed rain.

Arrays are numpy or torch; the functions use what both have and stay on the device they are given.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from nowcast.verification.sums import Array


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
    height, width = fields.shape[-2:]
    if min(height, width) < 2:
        raise ValueError(
            f"a spectrum needs fields of 2 x 2 cells or more, got {height} x {width}; give a larger field"
        )
    xp = _namespace(fields)
    rain = xp.where(xp.isfinite(fields) if mask is None else mask, fields, 0)
    # The window would else smear the mean rain into ring 1.
    waves = rain - rain.mean((-2, -1))[..., None, None]
    window = np.outer(_hann(height), _hann(width))
    tapered = waves * xp.asarray(window, dtype=waves.dtype, device=waves.device)
    density = abs(xp.fft.fft2(tapered)) ** 2 / float((window**2).sum())
    return xp.stack([density[(..., *cells)].mean(-1) for cells in _rings(height, width)], -1)


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
    xp = _namespace(forecast)
    counts = (forecast > 0) & (observed > 0)
    decibels = 10 * xp.log10(xp.where(counts, forecast, 1) / xp.where(counts, observed, 1))
    rings = counts.sum(-1)
    return ((decibels**2).sum(-1) / xp.where(rings > 0, rings, float("nan"))) ** 0.5


def _namespace(array: Array) -> Any:
    """Numpy or torch; whoever holds a tensor has imported torch, and scores alone do not need it."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def _hann(length: int) -> np.ndarray:
    """Zero half a cell outside the field, so that no row is lost."""
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2


def _rings(height: int, width: int) -> list[tuple[np.ndarray, ...]]:
    """Indexes into a (H, W) transform, ring by ring; the corners beyond the last ring are in none."""
    side = min(height, width)
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * side
    return [np.nonzero(np.rint(cycles) == ring) for ring in range(1, side // 2 + 1)]
