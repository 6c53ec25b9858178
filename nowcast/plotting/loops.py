"""Loops of maps."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import ExifTags, Image

from data_prep.schema import RefusedInput
from nowcast.files import written_whole
from nowcast.plotting.grids import in_metres, raster, refuse_other_units
from nowcast.plotting.maps import HEADING, draw_remark, heading, new_axes, plot_map, range_edge, remark
from nowcast.plotting.palettes import Palette, palette_of

LOOPS = {".gif": "GIF", ".webp": "WebP", ".mp4": "MP4"}
"""Kinds of loops by suffix; MP4 where ffmpeg is."""
LAST_FRAME_SECONDS = 1.2
_SLOWEST, _FASTEST = 0.1, 50.0
"""Frames per second: GIF counts in hundredths of a second."""
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
    """Write an endless loop of maps, or a video of them.

    Args:
        fields: (time, y, x) or (lead_time, y, x) with the spatial coordinates of a rain array; mm/h, or
            probabilities (units ``1``).
        path: ``.gif``, ``.webp`` or, where ffmpeg is on the ``PATH``, ``.mp4``; written whole or not at all.
        title: First line of the heading, above the times.
        frames_per_second: Speed; the last frame stays for `LAST_FRAME_SECONDS`.
        palette: As of `plot_map`.
        description: What the file says of itself beside the pictures.

    Raises:
        RefusedInput: If the suffix is another, the speed is none that viewers show, the fields have other
            dims, or ffmpeg is absent or fails; and as `plot_map`.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in LOOPS:
        raise RefusedInput("a loop is a .gif, a .webp or an .mp4", came=path.name, do="change the suffix")
    ffmpeg = shutil.which("ffmpeg")
    if kind == ".mp4" and ffmpeg is None:
        raise RefusedInput("an .mp4 is written by ffmpeg", came="no ffmpeg on the PATH",
                           do="install ffmpeg, or write a .gif or .webp")  # fmt: skip
    if not _SLOWEST <= frames_per_second <= _FASTEST:
        raise RefusedInput(f"frames_per_second are {_SLOWEST:g} to {_FASTEST:g}", came=frames_per_second,
                           do="give 4, say")  # fmt: skip
    fields = in_metres(fields)
    if not isinstance(palette, Palette):
        refuse_other_units(fields)
    palette = palette_of(fields, palette)
    if fields.dims not in (("time", "y", "x"), ("lead_time", "y", "x")) or not len(fields):
        raise RefusedInput(
            "a loop shows one field or more (time, y, x) or (lead_time, y, x)", came=dict(fields.sizes),
            do="choose a member with sel, or average over members",
        )  # fmt: skip
    pictures = _pictures(fields, title, palette)
    with written_whole(path) as partial:
        if kind == ".mp4":
            _write_video(pictures, Path(partial), str(ffmpeg), frames_per_second, description)
        else:
            _write_loop(pictures, Path(partial), LOOPS[kind], palette, frames_per_second, description)


def _write_loop(
    pictures: Iterator[Image.Image],
    path: Path,
    kind: str,
    palette: Palette,
    frames_per_second: float,
    description: str,
) -> None:
    """Write pictures as GIF or WebP, with the same few colours in all of them."""
    images: list[Image.Image] = []
    indexed: Image.Image | None = None
    for picture in pictures:
        indexed = indexed or _indexed(picture, palette)
        images.append(picture.quantize(palette=indexed, dither=Image.Dither.NONE))
    duration = [round(1000 / frames_per_second)] * len(images)
    duration[-1] = max(duration[-1], round(1000 * LAST_FRAME_SECONDS))
    options: dict[str, Any] = {"save_all": True, "append_images": images[1:], "duration": duration, "loop": 0}
    if kind == "GIF" and description:
        options["comment"] = description
    if kind == "WebP":
        images = [image.convert("RGB") for image in images]
        options |= {"append_images": images[1:], "lossless": True, "quality": 10, "method": 1}
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = description
        options |= {"exif": exif.tobytes()} if description else {}
    images[0].save(path, format=kind, **options)


def _write_video(
    pictures: Iterator[Image.Image], path: Path, ffmpeg: str, frames_per_second: float, description: str
) -> None:
    """Hand pictures to ffmpeg, the last one often enough to stay."""
    picture = next(pictures)
    rate = f"{frames_per_second:g}"
    command = [
        ffmpeg, "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{picture.width}x{picture.height}", "-r", rate,
        "-i", "-",
        # Players expect halved colour, which needs even sides.
        "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p", "-movflags", "+faststart",
        "-metadata", f"comment={description}", "-f", "mp4", str(path),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
            assert process.stdin is not None
            # If ffmpeg ends early, what it said tells more than the broken pipe.
            with suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(picture.tobytes())
                for picture in pictures:
                    pipe.write(picture.tobytes())
                for _ in range(round(LAST_FRAME_SECONDS * frames_per_second) - 1):
                    pipe.write(picture.tobytes())
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
    if process.returncode:
        raise RefusedInput("ffmpeg writes the .mp4", came=words or f"exit status {process.returncode}",
                           do="repair ffmpeg, or write a .gif or .webp")  # fmt: skip


def _pictures(fields: xr.DataArray, title: str | None, palette: Palette) -> Iterator[Image.Image]:
    """Maps of all fields; what does not change is drawn once."""
    texts = ["\n".join(part for part in (title, heading(field)) if part) for field in fields]
    ax = new_axes(fields[0], heading_lines=texts[0].count("\n") + 1)
    plot_map(fields[0], ax=ax, title=texts[0], palette=palette)
    edge = ax.collections[0]  # drawn first
    heading_text, words = ax.set_title(texts[0], loc="left", parse_math=False, **HEADING), draw_remark(ax, "")
    moving = [*ax.images, *ax.collections, ax.spines["geo"], heading_text, words]
    canvas = FigureCanvasAgg(ax.figure)
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    static = canvas.copy_from_bbox(ax.figure.bbox)
    for text, field in zip(texts, fields, strict=True):
        canvas.restore_region(static)
        ax.images[0].set_data(raster(field))
        edge.set_segments(range_edge(field))
        heading_text.set_text(text)
        words.set_text(remark(field, palette))
        for artist in moving:
            artist.draw(canvas.get_renderer())
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _indexed(picture: Image.Image, palette: Palette) -> Image.Image:
    """The colours of the palette themselves, and the most frequent others of a picture."""
    names = (*palette.colours, palette.no_data, "white", "black")
    exact = np.array([to_rgb(name) for name in names]) * 255
    others = np.reshape(picture.quantize(_COLOURS - len(names)).getpalette() or [], (-1, 3))
    apart = np.abs(others[:, None] - exact).max(axis=-1).min(axis=-1) > _NEAR
    indexed = Image.new("P", (1, 1))
    indexed.putpalette(np.concatenate([exact.round(), others[apart]]).astype(np.uint8).tobytes())
    return indexed
