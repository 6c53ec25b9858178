"""From the name of a model to a forecaster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from data_prep.schema import RefusedInput
from nowcast.forecaster import Forecaster

BASELINES = (
    "persistence",
    "extrapolation",
    "extrapolation-ensemble",
    "climatology",
    "sprog",
    "anvil",
    "steps",
)
PRETRAINED = "pretrained"
"""The network that is shipped."""
NAMES = (PRETRAINED, *BASELINES)
"""Models that need no file of the user's."""


def load_forecaster(
    model: str | Path = PRETRAINED, *, device: str = "cpu", radar: xr.DataArray | None = None
) -> Forecaster:
    """Load a forecaster.

    Args:
        model: ``pretrained``, name of a baseline (one of `BASELINES`), path of a checkpoint or weights file,
            or folder of forecast files.
        device: Where it computes, as torch names devices.
        radar: Rain array of a store with splits; only climatology needs it.

    Raises:
        RefusedInput: If it is neither a known name nor a file of ours, or what it needs is not there.
    """
    if model in BASELINES:
        return _baseline(str(model), device=device, radar=radar)
    if model == PRETRAINED:
        from nowcast.forecasters.gan_forecaster import GANForecaster
        from nowcast.weights import pretrained_path

        return GANForecaster.from_file(pretrained_path(), device=device)
    if Path(model).is_dir():
        from nowcast.forecasters.stored_forecasts import StoredForecasts

        return StoredForecasts(model)
    if not Path(model).is_file():
        raise RefusedInput(
            f"a model is one of {', '.join(NAMES)}, a checkpoint, weights file or folder of forecasts",
            came=model,
            do="correct --model; nowcast train fit prints where its checkpoint lies",
        )
    from nowcast.forecasters.gan_forecaster import GANForecaster

    return GANForecaster.from_file(model, device=device)


def _baseline(name: str, *, device: str, radar: xr.DataArray | None) -> Forecaster:
    from nowcast.forecasters.baselines import Climatology, Extrapolation, ExtrapolationEnsemble, Persistence
    from nowcast.forecasters.pysteps_baselines import Anvil, SProg, Steps

    if name == Persistence.name:
        return Persistence()
    if name == Climatology.name:
        if radar is None:
            raise RefusedInput(
                "climatology draws its members from a store",
                came="no store",
                do="forecast from a RADAR.zarr, or give load_forecaster its rain array as radar",
            )
        return Climatology(radar)
    moving = (Extrapolation, ExtrapolationEnsemble, SProg, Anvil, Steps)
    return {kind.name: kind for kind in moving}[name](device=device)


def load_forecasters(
    models: Sequence[str], *, device: str = "cpu", radar: xr.DataArray | None = None
) -> dict[str, Forecaster]:
    """Load several forecasters, by name.

    Args:
        models: As for `load_forecaster`, or ``NAME=PATH`` to give a name of one's own.
        device: Where they compute.
        radar: As for `load_forecaster`.

    Raises:
        RefusedInput: If one cannot be loaded, or two models have one name.
    """
    forecasters: dict[str, Forecaster] = {}
    for model in models:
        # Lightning's own names of checkpoints hold equals signs, too.
        name, _, path = ("", "", model) if Path(model).exists() else model.partition("=")
        forecaster = load_forecaster(path or model, device=device, radar=radar)
        label = name if path and name else forecaster.name
        if label in forecasters and model != label:
            raise RefusedInput(
                "models to compare have different names", came=f"{label} twice", do="use NAME=PATH"
            )
        if label in NAMES and label != forecaster.name:
            raise RefusedInput(f"{label} is the model of that name", came=model, do="choose another NAME")
        forecasters[label] = forecaster
    return forecasters
