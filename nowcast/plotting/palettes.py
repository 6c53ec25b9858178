"""Classes of values and their colours, by name.

``nowcast`` is the default: rates that double from class to class, each darker than the one before and told
apart by the colour-blind (tests/nowcast/plotting/test_palettes.py measures both). The others are those that
pysteps 1.21 draws intensities with (pysteps/visualization/precipfields.py, BSD-3-Clause), for eyes that know
them: levels and colours are its own, and so are their weaknesses, of rainbows that go from dark to light and
back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, is_color_like

from data_prep.schema import RefusedInput

NO_DATA = "#d9d9d9"


@dataclass(frozen=True)
class Palette:
    """Classes of values and their colours.

    Args:
        levels: Lower bounds of the classes, increasing; with ``open_end`` the last class has no upper bound,
            without it the last level is only the end of the class before.
        colours: One a class, as ``#rrggbb``.
        label: What the colour bar says, with the unit.
        open_end: Whether values above the last level get a colour of their own.
        no_data: The colour of cells without data, another than that of any class.

    Raises:
        RefusedInput: If the levels do not increase, or there is not one colour for each class.
    """

    levels: tuple[float, ...]
    colours: tuple[str, ...]
    label: str
    open_end: bool = True
    no_data: str = NO_DATA

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or not (np.isfinite(self.levels).all() and (np.diff(self.levels) > 0).all()):
            raise RefusedInput(
                "levels of a palette are two or more, increasing",
                came=self.levels,
                do="give bounds of classes",
            )
        classes = len(self.levels) - (not self.open_end)
        if len(self.colours) != classes or not all(map(is_color_like, self.colours)):
            raise RefusedInput(
                f"a palette of {len(self.levels)} levels{' and an open end' if self.open_end else ''} has "
                f"{classes} colours", came=self.colours, do="give a colour for each class",
            )  # fmt: skip

    def colour_map(self) -> Colormap:
        """Matplotlib's colour map: transparent below the first level, grey for no data."""
        inner = self.colours[:-1] if self.open_end else self.colours
        over = self.colours[-1]
        return ListedColormap(inner).with_extremes(bad=self.no_data, under=(1, 1, 1, 0), over=over)

    def norm(self) -> BoundaryNorm:
        """Matplotlib's classification: a value on a level belongs to the class above."""
        return BoundaryNorm(self.levels, len(self.levels) - 1)


_RATE = "rain rate (mm/h)"

RAIN = Palette(
    (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    ("#abf6fe", "#6cddfe", "#60bdef", "#539fe4", "#6081d5",
     "#7460be", "#913a8e", "#950f4f", "#7d031c", "#4f0b19"),
    _RATE,
)  # fmt: skip
PROBABILITY = Palette(
    tuple(n / 10 for n in range(11)),
    ("#ffffff", "#ffeed5", "#feddb3", "#fdc68f", "#fca26c",
     "#f67a51", "#e7533a", "#cf2618", "#ab0200", "#7f0000"),
    "probability",
    open_end=False,
)  # fmt: skip

PALETTES = {
    "nowcast": RAIN,
    "pysteps": Palette(
        (0.08, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0, 160.0),
        ("#9c7e94", "#640064", "#af00af", "#dc00dc", "#3232c8", "#0064ff", "#009696", "#00c832", "#64ff00",
         "#96ff00", "#c8ff00", "#ffff00", "#ffc800", "#ffa000", "#ff7d00", "#e11900", "#8b0000"),
        _RATE,
    ),
    "STEPS-BE": Palette(
        (0.1, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 40.0, 63.0, 100.0),
        ("#00ffff", "#00bfff", "#1e90ff", "#0000ff", "#7fff00", "#32cd32", "#008000", "#006400", "#ffff00",
         "#ffd700", "#ffa500", "#ff0000", "#ff00ff", "#8b008b", "#000000"),
        _RATE,
    ),
    "STEPS-NL": Palette(
        (0.1, 0.5, 1.0, 1.6, 2.5, 4.0, 6.4, 10.0, 16.0, 25.0, 40.0),
        ("#d3d3d3", "#87cefa", "#00bfff", "#0000ff", "#00008b", "#ffff00", "#ffd700", "#ff8c00", "#ff0000",
         "#8b0000", "#8b008b"),
        _RATE,
        no_data="#969696",
    ),
    "BOM-RF3": Palette(
        (0.0, 0.2, 0.5, 1.5, 2.5, 4.0, 6.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 75.0, 100.0, 150.0),
        ("#ffffff", "#f5f5ff", "#b4b4ff", "#7878ff", "#1414ff", "#00d8c3", "#009690", "#006666", "#ffff00",
         "#ffc800", "#ff9600", "#ff6400", "#ff0000", "#c80000", "#780000", "#280000", "#000000"),
        _RATE,
    ),
}  # fmt: skip
"""Palettes of rain rates. Their first class may begin at 0, as that of BOM-RF3; below it a map is white."""


def palette_named(name: str) -> Palette:
    """The palette of rain rates of that name.

    Raises:
        RefusedInput: If there is none.
    """
    if not isinstance(name, str) or name not in PALETTES:
        raise RefusedInput(
            "a palette is known by name",
            came=name,
            do=f"choose one of {', '.join(PALETTES)}, or give a Palette",
        )
    return PALETTES[name]


def palette_of(field: xr.DataArray, palette: Palette | str | None = None) -> Palette:
    """The palette to draw a field with: the one asked for, else by its units.

    Args:
        field: mm/h, or a probability (units ``1``).
        palette: A palette or its name; None for `PROBABILITY` if the units are ``1``, else `RAIN`.

    Raises:
        RefusedInput: If there is none of that name, or probabilities are to be drawn as rain.
    """
    is_probability = field.attrs.get("units") == "1"
    if palette is None:
        return PROBABILITY if is_probability else RAIN
    if isinstance(palette, Palette):
        return palette
    found = palette_named(palette)
    if is_probability:
        raise RefusedInput("a palette with a name is one of rain rates", came="a probability (units 1)",
                           do="leave the palette out, or give a Palette")  # fmt: skip
    return found
