"""mm/h to network value and back: the only place where the two meet."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from data_prep.schema import RefusedInput

TransformName = Literal["rain_rate", "square_root"]
TRANSFORMS: tuple[TransformName, ...] = ("rain_rate", "square_root")
"""``rain_rate`` is the paper's: the network works in mm/h. ``square_root`` evens out the heavy tail."""


def refuse_unknown_transform(name: str) -> None:
    """Refuse a transform that is not in `TRANSFORMS`.

    Raises:
        RefusedInput: If the name is unknown.
    """
    if name not in TRANSFORMS:
        raise RefusedInput(f"transform is one of {TRANSFORMS}", came=name, do="correct the configuration")


def to_network(rain: Tensor, transform: str) -> Tensor:
    """Rain rate in mm/h, not negative, to network value; any shape. Missing cells become 0, as dry ones."""
    rain = rain.nan_to_num(nan=0.0)
    return rain.sqrt() if transform == "square_root" else rain


def to_rain(value: Tensor, transform: str) -> Tensor:
    """Network value to rain rate in mm/h, any shape.

    Negative values give negative rates, so that a loss still pulls at them; forecasts are cut off at 0.
    """
    return value * value.abs() if transform == "square_root" else value
