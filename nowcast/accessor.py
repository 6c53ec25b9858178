"""What can be made of rain, a forecast, scores or a store, as methods of xarray's own objects.

``array.nowcast.plot_map()`` is ``nowcast.plotting.plot_map(array)``, with the same arguments, docstring and
errors. The methods are there as soon as a name of `nowcast` or of `nowcast.plotting` has been used; what they
need is imported with the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import MethodType
from typing import Any

import xarray as xr

from nowcast.verification.score_text import Lead


class FirstArgument:
    """A function as a method of its first argument.

    Args:
        home: Module that has the function, by the name of the method.
    """

    def __init__(self, home: str = "nowcast.plotting") -> None:
        self.home = home

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, accessor: _Accessor | None, owner: type) -> Callable[..., Any]:
        function = getattr(import_module(self.home), self.name)
        return function if accessor is None else MethodType(function, accessor.held)


class _Accessor:
    """Holds what the methods are about."""

    def __init__(self, held: Any) -> None:
        self.held = held


@xr.register_dataarray_accessor("nowcast")
class OfArray(_Accessor):
    """Methods of rain arrays, fields and forecasts."""

    plot_map = FirstArgument()
    plot_stamps = FirstArgument()
    plot_exceedance = FirstArgument()
    plot_plume = FirstArgument()
    animate = FirstArgument()
    exceedance_probability = FirstArgument("nowcast.fields")

    def plot_panel(
        self,
        observed: xr.DataArray | None = None,
        *,
        lead_times: Lead | Sequence[Lead] | None = None,
        threshold: float = 1.0,
        palette: Any = None,
    ) -> Any:
        """Maps of this forecast beside what fell: `nowcast.plotting.plot_panel`."""
        plot = import_module("nowcast.plotting").plot_panel
        return plot(observed, self.held, lead_times=lead_times, threshold=threshold, palette=palette)

    def plot_motion(
        self, *, spacing: float | None = None, title: str | None = None, palette: Any = None
    ) -> Any:
        """The last of these frames (time, y, x) with the motion that they show.

        See `nowcast.motion_field.motion_field` and `nowcast.plotting.plot_motion`.
        """
        motion = import_module("nowcast.motion_field").motion_field(self.held)
        plot = import_module("nowcast.plotting").plot_motion
        return plot(self.held.isel(time=-1), motion, spacing=spacing, title=title, palette=palette)


@xr.register_dataset_accessor("nowcast")
class OfDataset(_Accessor):
    """Methods of scores, as `nowcast.verify` returns them, and of stores."""

    plot_scores = FirstArgument()
    plot_reliability = FirstArgument()
    plot_rank_histogram = FirstArgument()
    plot_roc = FirstArgument()
    plot_spectrum = FirstArgument()
    plot_economic_value = FirstArgument()
    plot_calendar = FirstArgument()
