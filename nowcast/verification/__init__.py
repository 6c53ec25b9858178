"""Scores as sums that add over cases: `sums` and `spectra` make them, `scores` divides them."""

from nowcast.verification.scores import score, skill
from nowcast.verification.spectra import log_spectral_distance, power_spectrum
from nowcast.verification.sums import ensemble_crps, lead_sums

__all__ = ["ensemble_crps", "lead_sums", "log_spectral_distance", "power_spectrum", "score", "skill"]
