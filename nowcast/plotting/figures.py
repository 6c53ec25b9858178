"""Figures in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.schema import RefusedInput
from nowcast.files import written_whole


def save_figure(figure: Figure | Axes, path: str | Path, *, dpi: float = 150, description: str = "") -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: Any matplotlib figure, or axes, as `plot_map` returns them, whose figure is meant.
        path: The suffix chooses the format, as ``.png``, ``.pdf``, ``.svg``.
        dpi: Pixels per inch.
        description: What a ``.png`` says of itself beside the picture.

    Raises:
        RefusedInput: If matplotlib does not write this suffix.
    """
    if isinstance(figure, Axes):
        figure = figure.get_figure(root=True)  # type: ignore[assignment]
    assert isinstance(figure, Figure)
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise RefusedInput(
            f"a figure is one of {', '.join(sorted(known))}", came=path.name, do="change the suffix"
        )
    with written_whole(path) as partial:
        told: dict[str, Any] = {}
        if description and kind == "png":
            told["metadata"] = {"Description": description}
        figure.savefig(partial, dpi=dpi, format=kind, **told)
