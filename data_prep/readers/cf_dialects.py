"""What some providers' netCDF says otherwise than the CF conventions, told by the global attributes.

*Rainfields* (Bureau of Meteorology, ``source`` begins with ``rainfields``). Some -2 stand beside the -1 that
``_FillValue`` names, and no attribute explains them; they are no data too, as are -1 and -32768 whichever of
them ``_FillValue`` names. Any other negative number is refused, as everywhere. Older files (3.0) have no
bounds, and x from -128 to 127.5 km, y from 128 to -127.5 km in steps of 0.5 km about the radar, which is the
origin of their projection. Those are the upper left corners of the cells: only then is the grid 256 km wide
and centred on the radar, as it is in newer files (3.2) of the same product, whose bounds run from -128 to
128 km and whose x and y are the middles. No latitude or longitude is stated that could prove it.

*OpenMRG* (``comment`` speaks of pseudo-dBZ). Rain rate was made from 8-bit reflectivity by Z = 200 R^1.6
(Marshall and Palmer), and one file derived from it holds mm/h without any units. They are taken for mm/h if
the reflectivities that belong to them lie on the levels that the comment names, -30 + 0.4 n dBZ, which sums
or other units do not. (Another file states its units as ``sum 5min``; `cf_values` reads that.)
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from data_prep.readers.cf_geometry import Axis
from data_prep.readers.cf_source import Source

LEVEL_TOLERANCE = 0.01
"""Levels of reflectivity by which rates may miss them."""
SYMMETRY_TOLERANCE = 1e-3
"""Cells by which a grid may miss being centred on the radar."""
HIGHEST_LEVEL = 255

_PSEUDO_DBZ = re.compile(
    r"pseudo-dBZ \(integer 0-255\).*scale_factor \(([-\d.]+)\) and add_offset \(([-\d.]+)\)", re.DOTALL
)


class Dialect(NamedTuple):
    """Departures from CF.

    Attributes:
        no_data: Stored values that mean no data though no attribute says so.
        corners: Whether x and y may be the upper left corners of the cells.
        levels: Step and offset in dBZ of the reflectivity behind rates that have no units.
    """

    no_data: tuple[int, ...] = ()
    corners: bool = False
    levels: tuple[float, float] | None = None


def dialect_of(source: Source) -> Dialect:
    """The dialect of a file, plain CF where it is none that is known."""
    if str(source.attributes.get("source", "")).startswith("rainfields"):
        return Dialect(no_data=(-1, -2, -32768), corners=True)
    if match := _PSEUDO_DBZ.search(str(source.attributes.get("comment", ""))):
        return Dialect(levels=(float(match[1]), float(match[2])))
    return Dialect()


def centred(axis: Axis) -> Axis:
    """An axis of corners as one of cell centres: if that centres it on the origin, where the radar is."""
    step = axis.values[-1] - axis.values[-2]
    if abs(axis.values[0] + axis.values[-1] + step) > SYMMETRY_TOLERANCE * abs(step):
        return axis
    return axis._replace(values=axis.values + step / 2)


def on_levels(rate: np.ndarray, levels: tuple[float, float]) -> bool:
    """Whether rates, mm/h, are those of reflectivities on the given levels."""
    step, offset = levels
    rate = rate[~np.isnan(rate)].astype(np.float64)
    if not (rate > 0).all() or step <= 0:
        return False
    number = (10 * np.log10(200 * rate**1.6) - offset) / step
    off = np.abs(number - np.round(number))
    return bool((off <= LEVEL_TOLERANCE).all() and (np.round(number) <= HIGHEST_LEVEL).all())
