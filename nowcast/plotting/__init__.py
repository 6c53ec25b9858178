"""Figures of labelled arrays: maps, panels, loops, charts. No network is needed.

Nothing here holds a figure open: what is returned belongs to the caller, and pyplot does not know it.
"""

import nowcast.accessor  # noqa: F401, registers the methods of xarray's objects
from nowcast.plotting.diagrams import (
    plot_economic_value,
    plot_rank_histogram,
    plot_reliability,
    plot_roc,
    plot_spectrum,
)
from nowcast.plotting.figures import save_figure
from nowcast.plotting.grids import in_metres, projection_of
from nowcast.plotting.loops import animate
from nowcast.plotting.maps import plot_map
from nowcast.plotting.motion import plot_motion
from nowcast.plotting.palettes import PALETTES, PROBABILITY, RAIN, Palette, palette_named
from nowcast.plotting.panels import plot_exceedance, plot_panel, plot_stamps
from nowcast.plotting.points import plot_plume
from nowcast.plotting.scores import plot_scores
from nowcast.plotting.stores import plot_calendar
from nowcast.plotting.training import plot_training

__all__ = ["PALETTES", "PROBABILITY", "Palette", "RAIN", "animate", "in_metres", "palette_named",
           "plot_calendar", "plot_economic_value", "plot_exceedance", "plot_map", "plot_motion",
           "plot_panel", "plot_plume", "plot_rank_histogram", "plot_reliability", "plot_roc", "plot_scores",
           "plot_spectrum", "plot_stamps", "plot_training", "projection_of", "save_figure"]  # fmt: skip
