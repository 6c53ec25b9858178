"""Radar nowcasting: forecasts of the rain of the next hours, with members, maps and honest scores.

The names below are the public interface. They load on first use, so that ``import nowcast`` costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "open_radar": "data_prep.schema",
    "RefusedInput": "data_prep.schema",
    "load_forecaster": "nowcast.forecasters.load",
    "exceedance_probability": "nowcast.fields",
    "read_forecast": "nowcast.products.forecast_file",
    "write_forecast": "nowcast.products.forecast_file",
    "verify": "nowcast.evaluation.evaluate",
    "plot_map": "nowcast.plotting",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nowcast' has no attribute {name!r}")
    import_module("nowcast.accessor")  # xarray's objects have the methods of nowcast from now on
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
