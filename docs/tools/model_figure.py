"""Draws ``docs/images/model.svg``: the networks of the paper with the shapes between their parts.

Run it again (``python docs/tools/model_figure.py``) when the networks change; a test compares the shapes with
those of the networks.
"""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "images" / "model.svg"
WIDTH, HEIGHT = 700, 1010
CONTEXT, LEADS = 4, 18
WIDTHS = (48, 96, 192, 384)
"""Of the levels of the generator, finest first."""
CRITIC = (48, 96, 192, 384, 768, 768)
"""Of the D-blocks of both discriminators."""
DATA, STACK, SAMPLER, NOISE, CRITICS = "#dbeafe", "#fef3c7", "#dcfce7", "#f3e8ff", "#ffe4e6"


def figure() -> str:
    """The figure as SVG."""
    parts = [*_generator(), *_critics()]
    return "\n".join([_HEAD, *parts, "</svg>", ""])


def shape(*sizes: int) -> str:
    """Sizes of a tensor as the figure writes them."""
    return " × ".join(map(str, sizes))


def _generator() -> list[str]:
    parts = [_title(10, 24, "Generator: observed frames and noise in, one realization out")]
    parts += _box(10, 44, 165, 46, DATA, f"{CONTEXT} observed frames", shape(CONTEXT, 1, 256, 256))
    parts += _box(10, 116, 165, 46, STACK, "space to depth", shape(4, 128, 128))
    parts += _box(395, 44, 295, 46, DATA, f"{LEADS} forecast frames", shape(LEADS, 1, 256, 256))
    parts += _box(395, 116, 295, 46, SAMPLER, "BN, ReLU, conv 1×1, depth to space", shape(4, 128, 128))
    parts += [_arrow(92, 90, 92, 116), _arrow(542, 116, 542, 90)]
    parts += [_label(205, 164, "frames together,"), _label(205, 180, "conv 3×3, ReLU:")]
    for level, width in enumerate(WIDTHS):
        top, side = 188 + 72 * level, 64 // 2**level
        parts += _box(10, top, 165, 46, STACK, "D-block, per frame", shape(width, side, side))
        parts += _box(205, top, 155, 46, STACK, "first state", shape(width, side, side))
        parts += _box(395, top, 140, 46, SAMPLER, f"ConvGRU, {LEADS} steps", shape(width, side, side))
        parts += _box(550, top, 140, 46, SAMPLER, "G-blocks, upsampled", shape(width, 2 * side, 2 * side))
        parts += [_arrow(92, top - 26, 92, top), _arrow(175, top + 23, 205, top + 23)]
        parts += [_arrow(360, top + 23, 395, top + 23), _arrow(535, top + 23, 550, top + 23)]
        if level < 3:
            parts.append(_path(f"M620 {top + 72}V{top + 59}H465V{top + 46}"))
    parts.append(_arrow(620, 188, 620, 162))
    parts += _box(10, 488, 165, 46, NOISE, "noise z", shape(8, 8, 8))
    parts += _box(205, 488, 155, 46, NOISE, "3 L-blocks, attention", shape(192, 8, 8))
    parts += _box(395, 488, 140, 46, NOISE, "L-block", shape(768, 8, 8))
    parts += [_arrow(175, 511, 205, 511), _arrow(360, 511, 395, 511), _arrow(465, 488, 465, 450)]
    parts.append(_label(475, 470, "the same at every step"))
    return parts


def _critics() -> list[str]:
    parts = [
        _title(10, 576, "Discriminators: 4 observed and 18 later frames in, one score each out"),
        *_box(190, 590, 320, 46, DATA, "observed and real, or observed and forecast", shape(22, 1, 256, 256)),
        _path("M270 636V650H172V664"),
        _path("M430 636V650H528V664"),
    ]
    spatial = [
        ("spatial: 8 of 18, halved", shape(8, 1, 128, 128)),
        ("space to depth, per frame", shape(4, 64, 64)),
        *(
            (f"D-block {number + 1}", shape(width, side, side))
            for number, (width, side) in enumerate(zip(CRITIC, (32, 16, 8, 4, 2, 2), strict=True))
        ),
        ("ReLU, sum of cells, linear, sum of 8", "score"),
    ]
    temporal = [
        ("temporal: one crop", shape(22, 1, 128, 128)),
        ("space to depth", shape(4, 22, 64, 64)),
        ("3-D D-block 1", shape(48, 11, 32, 32)),
        ("3-D D-block 2", shape(96, 5, 16, 16)),
        *(
            (f"D-block {number + 3}, per time slot", shape(width, side, side))
            for number, (width, side) in enumerate(zip(CRITIC[2:], (8, 4, 2, 2), strict=True))
        ),
        ("ReLU, sum of cells, linear, sum of 5", "score"),
    ]
    for left, chain in ((10, spatial), (366, temporal)):
        for number, (name, sizes) in enumerate(chain):
            top = 664 + 38 * number
            parts += _line(left, top, 324, CRITICS, name, sizes)
            if number:
                parts.append(_arrow(left + 162, top - 12, left + 162, top))
    return parts


def _box(x: int, y: int, width: int, height: int, colour: str, name: str, sizes: str) -> list[str]:
    middle = x + width // 2
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}" stroke="#334155"/>',
        f'<text x="{middle}" y="{y + 19}" text-anchor="middle">{name}</text>',
        f'<text x="{middle}" y="{y + 37}" text-anchor="middle" class="shape">{sizes}</text>',
    ]


def _line(x: int, y: int, width: int, colour: str, name: str, sizes: str) -> list[str]:
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="26" rx="5" fill="{colour}" stroke="#334155"/>',
        f'<text x="{x + 8}" y="{y + 17}">{name}</text>',
        f'<text x="{x + width - 8}" y="{y + 17}" text-anchor="end" class="shape">{sizes}</text>',
    ]


def _title(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" class="title">{text}</text>'


def _label(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" class="label">{text}</text>'


def _arrow(x0: int, y0: int, x1: int, y1: int) -> str:
    return _path(f"M{x0} {y0}L{x1} {y1}")


def _path(points: str) -> str:
    return f'<path d="{points}" fill="none" stroke="#334155" marker-end="url(#head)"/>'


_HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" \
width="{WIDTH}" height="{HEIGHT}">
<title>The networks of DGMR with the shapes of what flows between their parts, for 256 by 256 cells</title>
<style>text {{ font: 12.5px sans-serif; fill: #0f172a }} .shape {{ font: 12px monospace }}
.title {{ font: bold 15px sans-serif }} .label {{ font: italic 12px sans-serif }}</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0L8 4L0 8Z" fill="#334155"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"""


if __name__ == "__main__":
    FILE.write_text(figure())
