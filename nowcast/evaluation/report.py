"""One HTML file that says how good forecasts were: readable without a network, on paper and on a phone.

Whatever comes from outside, as names of models, paths and messages, passes through `html.escape`.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nowcast.evaluation.report_sections import Section, sections
from nowcast.evaluation.report_words import (
    cells_sentence,
    definitions,
    facts,
    failures_rows,
    headline,
    score_rows,
)
from nowcast.files import written_whole
from nowcast.plotting.charts import OBSERVED, PANEL_SIZE, Look, Undefined, looks_of, member_counts
from nowcast.verification.score_text import interval_note

DPI = 180
"""Of figures, which are shown at about 96 so that they are sharp on a phone and on paper."""
COLOURS = 128
"""Of the palette of a figure."""
SHOWN_FAILURES = 20
STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 80rem;
  margin: 0 auto; padding: 0 1rem 3rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.5rem 0 .5rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; border-top: 1px solid #ccc; padding-top: .8rem }
p, ul { max-width: 46rem; margin: .4rem 0 } .note { color: #444; font-size: .92rem }
.headline { font-size: 1.08rem } .headline li { margin: .35rem 0; overflow-wrap: anywhere }
nav { font-size: .9rem } nav a { margin-right: .9em; white-space: nowrap }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; margin: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .22rem .8rem .22rem 0;
  border-bottom: 1px solid #e3e3e3 }
td { overflow-wrap: anywhere } .facts th { font-weight: 500; color: #444; white-space: nowrap }
.numbers td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
  padding-left: .6rem }
.numbers thead th { text-align: right } .numbers thead th:first-child { text-align: left }
.numbers .group th { padding-top: .8rem; font-weight: 600 } .numbers small { color: #555; display: block }
.numbers tbody th { font-weight: 400 }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .88rem; margin: .4rem 0 }
.legend span { overflow-wrap: anywhere } .legend svg { vertical-align: -2px; margin-right: .35em }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr));
  gap: .4rem 1rem } .panels figure { margin: 0; max-width: 34rem } .panels .wide { max-width: 52rem;
  grid-column: 1 / -1 } .panels img { display: block; width: 100%; height: auto }
figure { margin: .6rem 0 }
.map img { max-width: none; height: auto } figcaption { font-size: .92rem; margin-bottom: .2rem }
code { font-size: .86rem; overflow-wrap: anywhere }
@media print { html { font-size: 11px } body { max-width: none; font-size: 1rem } nav { display: none }
  h2, .note, .legend { break-after: avoid } figure, tr { break-inside: avoid }
  .panels { gap: 0; grid-template-columns: repeat(3, 1fr) }
  .map img { max-width: 100% } }
"""
_SHAPES = {
    "o": '<circle cx="17" cy="6" r="3"/>',
    "s": '<path d="M14 3h6v6h-6z"/>',
    "^": '<path d="M17 2l4 7h-8z"/>',
    "D": '<path d="M17 2l4 4l-4 4l-4 -4z"/>',
    "v": '<path d="M17 10l4 -7h-8z"/>',
    "<": '<path d="M13 6l7 -4v8z"/>',
    "P": '<path d="M15.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"/>',
    "x": '<path d="M14 3l6 6M20 3l-6 6" fill="none" stroke-width="1.5"/>',
}
_DASHES = {"-": "", "--": "6 3", ":": "1.5 2.5", "-.": "6 2 1.5 2"}


def write_report(
    path: str | Path,
    *,
    scores: xr.Dataset,
    intervals: xr.Dataset | None = None,
    by_case: xr.Dataset | None = None,
    failures: Sequence[tuple[str, np.datetime64, str]] = (),
    about: Mapping[str, object] | None = None,
    case_maps: Iterable[tuple[str, Figure]] = (),
) -> None:
    """Write a report, whole or not at all.

    Args:
        path: Of the HTML file.
        scores: Scores, ``<score>_skill`` and, for spectra, ``power`` and ``observed_power`` with the
            coordinate ``wavelength(ring)``, by (model, lead_time, ...); attribute ``reference``.
        intervals: ``<score>_low``, ``<score>_high`` and those of skill, by (model, lead_time, ...); over all
            lead times together ``crps_skill_all_leads_low``, ``_high`` and ``crps_all_leads_p_value`` by
            (model); attributes ``blocks``, ``level`` and ``indicative``.
        by_case: ``crps`` and ``cells`` by (case, model) or (case, model, lead_time), with the coordinate
            ``reference_time(case)``.
        failures: Model, reference time and message of what gave no forecast.
        about: Facts by name, shown in their order.
        case_maps: Captions and figures, as `nowcast.plotting.cases.draw_case` makes them.
    """
    scores = _whole(scores)
    intervals = None if intervals is None else _whole(intervals)
    by_case = None if by_case is None else _whole(by_case)
    looks = looks_of(scores)
    figures = [
        (section.key, section.title, _section(section, _legend(scores, looks, section)))
        for section in sections(scores, intervals, by_case)
    ]
    parts = [
        ("facts", "What was compared, and on what", _facts(scores, about or {}, failures)),
        *figures,
        ("maps", "Maps: best, median and worst case by CRPS", _maps(case_maps)),
        ("numbers", "Scores in numbers", _numbers(scores, intervals)),
        ("definitions", "Settings and definitions", _definitions(scores)),
        ("intervals", "How far to trust the intervals", _trust(intervals)),
    ]
    parts = [part for part in parts if part[2]]
    links = " ".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in parts)
    body = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2>{text}</section>\n' for key, title, text in parts
    )
    with written_whole(Path(path)) as name:
        Path(name).write_text(
            _document(scores, _headline(scores, intervals), links, body), encoding="utf-8", errors="replace"
        )


def _whole(dataset: xr.Dataset) -> xr.Dataset:
    """Of datasets by region the first one, which is the whole field."""
    return dataset.isel(region=0) if "region" in dataset.dims else dataset


def _document(scores: xr.Dataset, first: str, links: str, body: str) -> str:
    title = f"Verification against {escape(str(scores.attrs.get('reference', 'the reference')))}"
    # Browsers then refuse whatever is not in the file itself.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{title}</h1>\n{first}\n<nav>{links}</nav>\n{body}</body></html>\n"
    )


def _headline(scores: xr.Dataset, intervals: xr.Dataset | None) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in headline(scores, intervals))
    return f'<ul class="headline">{lines}</ul><p class="note">{escape(interval_note(intervals))}</p>'


def _facts(
    scores: xr.Dataset, about: Mapping[str, object], failures: Sequence[tuple[str, np.datetime64, str]]
) -> str:
    rows = _rows(facts(scores, about))
    return (
        f'<div class="scroll"><table class="facts">{rows}</table></div>'
        f"<p>{escape(cells_sentence(scores))}</p>{_failures(failures)}"
    )


def _failures(failures: Sequence[tuple[str, np.datetime64, str]]) -> str:
    if not failures:
        return "<p>No model failed on a case.</p>"
    rows = list(failures_rows(failures))
    table = _rows([("Model", "Reference time", "What went wrong"), *rows[:SHOWN_FAILURES]])
    more = len(rows) - SHOWN_FAILURES
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    by_model = Counter(model for model, *_ in rows)
    counts = ", ".join(f"{model} {count}" for model, count in by_model.items())
    return (
        f"<p><strong>Forecasts that failed: {len(rows)}</strong> ({escape(counts)}).</p>"
        f'<div class="scroll"><table>{table}</table></div>{rest}'
    )


def _rows(rows: Iterable[Sequence[str]]) -> str:
    """Table rows of text, the first column as heading."""
    return "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )


def _panels(section: Section) -> Iterator[str]:
    """Its panels as text, but those of which nothing is defined."""
    for place, draw in enumerate(section.panels, start=1):
        with suppress(Undefined):
            figure = draw()
            yield _figure(figure, f"{section.title}, panel {place}: {_title_of(figure)}")


def _section(section: Section, legend: str) -> str:
    """Its text; empty if nothing is defined of what it would show."""
    panels = "".join(_panels(section))
    if not panels:
        return ""
    return (
        f'<p class="note">{escape(section.note)}</p><div class="legend">{legend}</div>'
        f'<div class="panels">{panels}</div>'
    )


def _title_of(figure: Figure) -> str:
    return figure.axes[0].get_title(loc="left")


def _figure(figure: Figure, alt: str, caption: str = "") -> str:
    """A figure as a picture in the text."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    wide = ' class="wide"' if figure.get_figwidth() > 1.5 * PANEL_SIZE[0] else ""
    above = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure{wide}>{above}<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}"></figure>'
    )


def _legend(scores: xr.Dataset, looks: Mapping[str, Look], section: Section) -> str:
    """Every model that the panels of a section show."""
    counts = member_counts(scores)
    entries = []
    for model, look in looks.items():
        if section.ensembles_only and counts[model] == 1:
            continue
        kind = f"{counts[model]} members" if counts[model] > 1 else "deterministic"
        reference = ", reference" if model == scores.attrs.get("reference") else ""
        entries.append(_swatch(look, f"{model} ({kind}{reference})"))
    if section.observed:
        entries.append(_swatch(OBSERVED, "observed"))
    return "".join(entries)


def _swatch(look: Look, text: str) -> str:
    """A piece of the model's line; drawn, not coloured background, because browsers do not print that."""
    shape, dashes = _SHAPES.get(look.marker, ""), _DASHES[look.dashes]
    return (
        f'<span><svg width="34" height="12" aria-hidden="true" fill="{look.colour}" stroke="{look.colour}">'
        f'<path d="M0 6h34" stroke-width="2" stroke-dasharray="{dashes}"/>{shape}</svg>{escape(text)}</span>'
    )


def _maps(case_maps: Iterable[tuple[str, Figure]]) -> str:
    return "".join(
        f'<div class="scroll map">{_figure(figure, f"Maps of rain: {caption}", caption)}</div>'
        for caption, figure in case_maps
    )


def _numbers(scores: xr.Dataset, intervals: xr.Dataset | None) -> str:
    """All headline scores at some lead times, each with its interval below it."""
    leads, groups = score_rows(scores, intervals)
    head = "".join(f'<th scope="col">{lead:g} min</th>' for lead in leads)
    lines = []
    for title, rows in groups:
        lines.append(f'<tr class="group"><th colspan="{len(leads) + 1}">{escape(title)}</th></tr>')
        for model, cells in rows:
            lines.append(f'<tr><th scope="row">{escape(model)}</th>{"".join(map(_cell, cells))}</tr>')
    if not lines:
        return ""
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: tuple[str, str]) -> str:
    value, interval = cell
    return f"<td>{escape(value)}{f'<small>{escape(interval)}</small>' if interval else ''}</td>"


def _definitions(scores: xr.Dataset) -> str:
    return "".join(
        f'<p>{escape(title)}</p><div class="scroll"><table>{_rows(rows)}</table></div>'
        for title, rows in definitions(scores)
    )


def _trust(intervals: xr.Dataset | None) -> str:
    return (
        f"<p>{escape(interval_note(intervals))} Forecasts that start minutes apart see the same weather, so "
        "the units that are drawn are blocks of neighbouring cases, the same for all models. Few blocks hold "
        "few weather situations: for the mean of independent normal blocks a percentile interval of 95 % "
        "holds the truth in about 84 % of all cases with 5 blocks, in 90 % with 10 and in 94 % with 40. Many "
        "scores, lead times and models are looked at here, and some of so many differ by chance.</p>"
    )
