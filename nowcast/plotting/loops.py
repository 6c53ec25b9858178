"""Loops of maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import ExifTags, Image

from data_prep.schema import RefusedInput
from nowcast.files import written_whole
from nowcast.plotting.grids import in_metres, raster
from nowcast.plotting.maps import HEADING, draw_remark, heading, new_axes, plot_map, remark
from nowcast.plotting.palettes import Palette, palette_of

LOOPS = {".gif": "GIF", ".webp": "WebP"}
LAST_FRAME_SECONDS = 1.2
_COLOURS = 96
_NEAR = 12
"""Of 255: colours nearer than this to one of the palette are drawn as that one."""


def animate(
    fields: xr.DataArray,
    path: str | Path,
    *,
    title: str | None = None,
    frames_per_second: float = 4.0,
    palette: Palette | str | None = None,
    description: str = "",
) -> None:
    """Write an endless loop of maps.

    Args:
        fields: (time, y, x) or (lead_time, y, x) with the spatial coordinates of a rain array; mm/h, or
            probabilities (units ``1``).
        path: ``.gif`` or ``.webp``; written whole or not at all.
        title: First line of the heading, above the times.
        frames_per_second: Speed; the last frame stays for `LAST_FRAME_SECONDS`.
        palette: As of `plot_map`.
        description: What the file says of itself beside the pictures.

    Raises:
        RefusedInput: If the suffix is another, the speed is not positive, or the fields have other dims.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in LOOPS:
        raise RefusedInput("a loop is a .gif or a .webp", came=path.name, do="change the suffix")
    if frames_per_second <= 0:
        raise RefusedInput("frames_per_second is positive", came=frames_per_second, do="give 4, say")
    if fields.dims not in (("time", "y", "x"), ("lead_time", "y", "x")) or not len(fields):
        raise RefusedInput(
            "a loop shows one field or more (time, y, x) or (lead_time, y, x)", came=dict(fields.sizes),
            do="choose a member with sel, or average over members",
        )  # fmt: skip
    images = list(_frames(fields, title, palette_of(fields, palette)))
    duration = [round(1000 / frames_per_second)] * len(images)
    duration[-1] = max(duration[-1], round(1000 * LAST_FRAME_SECONDS))
    options: dict[str, Any] = {"save_all": True, "append_images": images[1:], "duration": duration, "loop": 0}
    if kind == ".gif" and description:
        options["comment"] = description
    if kind == ".webp":
        images = [image.convert("RGB") for image in images]
        options |= {"append_images": images[1:], "lossless": True, "quality": 10, "method": 1}
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = description
        options |= {"exif": exif.tobytes()} if description else {}
    with written_whole(path) as partial:
        images[0].save(partial, format=LOOPS[kind], **options)


def _frames(fields: xr.DataArray, title: str | None, palette: Palette) -> Iterator[Image.Image]:
    """Pictures of all fields with the same colours; what does not change is drawn once."""
    fields = in_metres(fields)
    texts = ["\n".join(part for part in (title, heading(field)) if part) for field in fields]
    ax = new_axes(fields[0], heading_lines=texts[0].count("\n") + 1)
    plot_map(fields[0], ax=ax, title=texts[0], palette=palette)
    heading_text, words = ax.set_title(texts[0], loc="left", **HEADING), draw_remark(ax, "")
    figure = ax.figure
    canvas = FigureCanvasAgg(figure)
    moving = [*ax.images, *ax.collections, ax.spines["geo"]]
    for artist in (*moving, heading_text, words):
        artist.set_animated(True)
    canvas.draw()
    static = canvas.copy_from_bbox(figure.bbox)
    indexed: Image.Image | None = None
    for text, field in zip(texts, fields, strict=True):
        canvas.restore_region(static)
        ax.images[0].set_data(raster(field))
        heading_text.set_text(text)
        words.set_text(remark(field, palette))
        for artist in (*moving, heading_text, words):
            artist.draw(canvas.get_renderer())
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        indexed = indexed or _indexed(picture, palette)
        yield picture.quantize(palette=indexed, dither=Image.Dither.NONE)


def _indexed(picture: Image.Image, palette: Palette) -> Image.Image:
    """The colours of the palette themselves, and the most frequent others of a picture."""
    names = (*palette.colours, palette.no_data, "white", "black")
    exact = np.array([to_rgb(name) for name in names]) * 255
    others = np.reshape(picture.quantize(_COLOURS - len(names)).getpalette() or [], (-1, 3))
    apart = np.abs(others[:, None] - exact).max(axis=-1).min(axis=-1) > _NEAR
    indexed = Image.new("P", (1, 1))
    indexed.putpalette(np.concatenate([exact.round(), others[apart]]).astype(np.uint8).tobytes())
    return indexed
