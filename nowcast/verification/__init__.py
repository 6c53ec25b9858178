"""Scores as sums that add over cases: `sums` makes them, `scores` divides them."""

from nowcast.verification.scores import score, skill
from nowcast.verification.sums import ensemble_crps, lead_sums

__all__ = ["ensemble_crps", "lead_sums", "score", "skill"]
