"""Scores from sums: add over cases first, divide last."""

from __future__ import annotations

import xarray as xr

PERFECT = {"csi": 1.0, "member_csi": 1.0, "mae": 0.0, "rmse": 0.0, "crps": 0.0}
"""Value of a perfect forecast, for every score that has a skill."""

ATTRIBUTES = {
    "csi": {"long_name": "critical success index of the ensemble mean", "units": "1"},
    "member_csi": {"long_name": "critical success index of the members, pooled", "units": "1"},
    "frequency_bias": {"long_name": "events forecast by the ensemble mean / events observed", "units": "1"},
    "mae": {"long_name": "mean absolute error of the ensemble mean", "units": "mm h-1"},
    "rmse": {"long_name": "root mean square error of the ensemble mean", "units": "mm h-1"},
    "crps": {"long_name": "continuous ranked probability score of the ensemble", "units": "mm h-1"},
    "bias": {"long_name": "mean rain forecast / mean rain observed", "units": "1"},
}


def score(sums: xr.Dataset) -> xr.Dataset:
    """Scores of sums that are already added over the cases that count.

    Formulas after the WMO Joint Working Group on Forecast Verification Research:
    CSI = hits / (hits + misses + false alarms), frequency bias = (hits + false alarms) / (hits + misses),
    bias = sum of forecast / sum of observed. A score whose divisor is 0 is NaN.

    Args:
        sums: As `sums.lead_sums` makes them, with any dims.

    Returns:
        The variables of `ATTRIBUTES`.
    """
    scores = xr.Dataset(
        {
            "csi": _csi(sums, ""),
            "member_csi": _csi(sums, "member_"),
            "frequency_bias": (sums["hits"] + sums["false_alarms"]) / (sums["hits"] + sums["misses"]),
            "mae": sums["absolute_error"] / sums["cells"],
            "rmse": (sums["squared_error"] / sums["cells"]) ** 0.5,
            "crps": sums["crps"] / sums["cells"],
            "bias": sums["forecast"] / sums["observed"],
        }
    )
    for name, attributes in ATTRIBUTES.items():
        scores[name].attrs.update(attributes)
    return scores


def skill(scores: xr.Dataset, reference: str) -> xr.Dataset:
    """Skill of every model against one of them: 1 is perfect, 0 is the reference, less is worse.

    skill = (score - reference) / (perfect - reference), NaN where the reference is perfect.

    Args:
        scores: As `score` makes them, with dim ``model``.
        reference: Name of the model to compare with.

    Returns:
        A variable ``<score>_skill`` for every score in `PERFECT`.
    """
    against = scores.sel(model=reference, drop=True)
    result = {}
    for name, perfect in PERFECT.items():
        room = perfect - against[name]
        result[f"{name}_skill"] = ((scores[name] - against[name]) / room.where(room != 0)).assign_attrs(
            long_name=f"skill in {ATTRIBUTES[name]['long_name']} against {reference}", units="1"
        )
    return xr.Dataset(result)


def _csi(sums: xr.Dataset, prefix: str) -> xr.DataArray:
    hits = sums[f"{prefix}hits"]
    return hits / (hits + sums[f"{prefix}misses"] + sums[f"{prefix}false_alarms"])
