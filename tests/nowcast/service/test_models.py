import os
import shutil

import numpy as np
import pytest

from data_prep.schema import RefusedInput
from nowcast.forecasters.baselines import ExtrapolationEnsemble, Persistence
from nowcast.service.models import Guarded, ModelFailed, Models
from nowcast.service.settings import Forecasts


def names(models: Models) -> list[str]:
    return [forecaster.name for forecaster in models.in_order()]


def replaced(path, content: bytes) -> None:
    partial = path.with_name("partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def test_a_model_and_its_fallbacks_are_asked_in_order():
    models = Models(Forecasts("extrapolation", ("persistence",)))
    assert names(models) == ["extrapolation", "persistence"]
    assert [models.is_fallback(model) for model in models.in_order()] == [False, True]


def test_weights_that_are_replaced_are_taken_up(network, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(network, path)
    models = Models(Forecasts(str(path)))
    first = models.in_order()[0]
    models.refresh()
    assert models.in_order()[0] is first
    replaced(path, path.read_bytes())
    models.refresh()
    assert models.in_order()[0] is not first
    assert models.problem == ""


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_broken_weights_are_refused_once_and_those_before_stay(network, tmp_path, caplog, content):
    path = tmp_path / "model.safetensors"
    shutil.copy(network, path)
    models = Models(Forecasts(str(path)))
    first = models.in_order()[0]
    replaced(path, network.read_bytes()[:1000] if content is None else content)
    models.refresh()
    models.refresh()
    assert models.in_order()[0] is first
    assert "cannot be used" in models.problem
    assert caplog.text.count("the one before stays") == 1
    replaced(path, network.read_bytes())
    models.refresh()
    assert models.problem == ""


def test_a_service_starts_on_its_fallbacks_and_takes_up_weights_when_they_come(network, tmp_path):
    path = tmp_path / "model.safetensors"
    models = Models(Forecasts(str(path)))
    assert names(models) == ["extrapolation", "persistence"]
    assert all(models.is_fallback(model) for model in models.in_order())
    shutil.copy(network, path)
    models.refresh()
    assert names(models) == ["model", "extrapolation", "persistence"]


@pytest.mark.parametrize("settings", [Forecasts("pretraind"), Forecasts(fallbacks=("guess",))])
def test_a_name_that_no_model_has_is_refused_at_the_start(settings):
    with pytest.raises(RefusedInput):
        Models(settings)


def test_a_forecast_is_measured_while_it_is_made(make_rain):
    context = make_rain(4)
    calls = []
    guarded = Guarded(ExtrapolationEnsemble(), lambda: calls.append(1))
    ensemble = guarded.forecast(context, lead_steps=3, members=5).values
    assert len(calls) == 5
    seen = np.isfinite(ensemble)
    assert guarded.wet_fraction == pytest.approx((ensemble >= 0.1).sum() / seen.sum())
    variance = ensemble[:, -1].astype(float).var(axis=0, ddof=1)
    assert guarded.spread == pytest.approx(np.sqrt(np.nanmean(variance)))


def test_a_single_member_has_no_spread(make_rain):
    guarded = Guarded(Persistence(), lambda: None)
    guarded.forecast(make_rain(4), lead_steps=2)
    assert guarded.spread == 0


def test_a_model_that_stops_early_has_failed(make_rain):
    class Short(Persistence):
        def stream(self, context, **asked):  # noqa: ARG002
            yield from ()

    with pytest.raises(ModelFailed, match="fewer members"):
        Guarded(Short(), lambda: None).forecast(make_rain(4), lead_steps=2)
