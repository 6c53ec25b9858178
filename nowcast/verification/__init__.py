"""Scores as sums that add over cases: `sums` and its siblings make them, `scores` divides them."""

from nowcast.verification.crps import ensemble_crps
from nowcast.verification.labels import label_sums
from nowcast.verification.score_table import SCORES, Score
from nowcast.verification.scores import score, skill
from nowcast.verification.spectra import log_spectral_distance, power_spectrum
from nowcast.verification.sums import ScoreSettings, lead_sums

__all__ = [
    "SCORES",
    "Score",
    "ScoreSettings",
    "ensemble_crps",
    "label_sums",
    "lead_sums",
    "log_spectral_distance",
    "power_spectrum",
    "score",
    "skill",
]
