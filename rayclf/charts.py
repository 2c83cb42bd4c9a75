"""Pages of tables and charts: one HTML file with inline SVG that needs no script, no network and no other file.

A page is a list of sections, each the HTML that a function here returns; every text given to them is escaped. Pages are
well-formed XML too, and follow the reader's light or dark mode. A chart of nothing is a line that says so.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Points = Sequence[tuple[float, float | None]]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 260, 76, 14, 24, 36  # the box of a chart and its margins
_MOST_POINTS = 2 * _WIDTH  # of a line: more cannot be seen, and make the file as large as the run was long
_NAME_WIDTH, _NAME_COLUMNS, _BAR = 210, 30, 22  # of a bar chart: pixels and characters for a name, pixels for a row
_COLOURS = 6
_FILL, _STROKE = 'fill="currentColor"', 'stroke="currentColor"'
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #ffffff; --soft: #6b7280; --rule: #e5e7eb;
  --c0: #2563eb; --c1: #dc2626; --c2: #047857; --c3: #b45309; --c4: #7c3aed; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --soft: #9ca3af; --rule: #374151;
  --c0: #60a5fa; --c1: #f87171; --c2: #34d399; --c3: #fbbf24; --c4: #a78bfa; --c5: #22d3ee; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .2rem .8rem; border-bottom: 1px solid var(--rule); }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
svg { display: block; width: 100%; max-width: 720px; height: auto; margin: 1rem 0; }
text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.rule { stroke: var(--rule); } .note { color: var(--soft); }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } text[class] { fill: currentColor; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML page: the title as its heading, then the sections, which are HTML already."""
    name = escape(title)
    head = (
        f'<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{name}</title>'
        f"<style>{_STYLE}</style></head>"
    )
    body = "\n".join([f"<h1>{name}</h1>", *sections])
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def heading(text: str) -> str:
    """The heading of what follows."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """A line in a softer colour."""
    return f'<p class="note">{escape(text)}</p>'


def escape(text: str) -> str:
    """``text`` for HTML and XML; characters that XML cannot hold, such as NUL, become U+FFFD."""
    return html.escape(_NOT_XML.sub("\ufffd", text))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; fractions in four digits, a dash for what is undefined."""

    def cell(value: Any) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "–"
        return f"{value:.4f}" if isinstance(value, float) else escape(str(value))

    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def line_chart(series: Mapping[str, Points], x_name: str, y_name: str) -> str:
    """Lines with a legend; points whose second coordinate is None, NaN or infinite are left out."""
    shown = {
        name: _thin([(x, y) for x, y in points if y is not None and math.isfinite(y)])
        for name, points in series.items()
    }
    every = [point for points in shown.values() for point in points]
    if not every:
        return note("nothing to draw")
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = min(y for _, y in every), max(y for _, y in every)
    across, up = _scale(x_low, x_high, _LEFT, _WIDTH - _RIGHT), _scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    parts = [_y_axis({y_low, (y_low + y_high) / 2, y_high}, up), _x_axis({x_low, x_high}, across, x_name, _HEIGHT)]
    legend = _LEFT
    for position, (name, points) in enumerate(shown.items()):
        colour = f"c{position % _COLOURS}"
        places = [(across(x), up(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        if len(places) == 1:  # a line of one point cannot be seen
            parts.append(f'<circle class="{colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" {_FILL}/>')
        elif places:
            parts.append(f'<polyline class="{colour}" points="{path}" fill="none" {_STROKE} stroke-width="2"/>')
        parts.append(_text(name, legend, 14, "start", colour))
        legend += 8 * _columns(name) + 16
    return _svg(parts, _HEIGHT, f"{y_name} by {x_name}")


def bar_chart(bars: Sequence[tuple[str, float]], name: str, unit: str, most: int = 30) -> str:
    """Horizontal bars of ``(name, value >= 0)``, the first ``most`` of them in the order given.

    ``name`` says what is shown, ``unit`` what the values count; a value that is not finite has no bar, and a dash.
    """
    if not bars:
        return note("nothing to draw")
    shown = [(label, value if math.isfinite(value) else None) for label, value in bars[:most]]
    across = _scale(0, max((value or 0 for _, value in shown), default=0), _NAME_WIDTH, _WIDTH - 100)
    parts = []
    for row, (label, value) in enumerate(shown):
        y = _BAR * row
        length = max(across(value or 0) - _NAME_WIDTH, 0)
        full = f"<title>{escape(label)}: {_number(value)} {escape(unit)}</title>"
        bar = f'<rect class="c0" x="{_NAME_WIDTH}" y="{y + 3}" width="{length:.1f}" height="{_BAR - 6}" {_FILL}/>'
        words = _text(_short(label), _NAME_WIDTH - 8, y + 15) + _text(
            _number(value), _NAME_WIDTH + length + 6, y + 15, "start"
        )
        parts.append(f"<g>{full}{bar}{words}</g>")
    left_out = f"; the first {len(shown)} of {len(bars)}" if len(bars) > len(shown) else ""
    return note(f"{name}, {unit}{left_out}") + _svg(parts, _BAR * len(shown), f"{name}, {unit}")


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    x_name: str,
    marks: Mapping[str, float] | Iterable[tuple[str, float]] = (),
) -> str:
    """Vertical bars of ``counts`` between ``edges``, which are ascending and one more than the counts.

    A bar's height is its count, so edges should be evenly apart. ``marks`` are ``{name: x}`` or such pairs, each a
    dashed line; one that lies outside of the edges does not stretch the axis: an arrow at its end points to it. Raises
    ValueError for another number of edges.
    """
    if len(edges) != len(counts) + 1 and (len(edges) or len(counts)):
        raise ValueError(f"{len(counts)} counts need {len(counts) + 1} edges, not {len(edges)}")
    if not any(count > 0 for count in counts):
        return note("nothing to draw")
    named = dict(marks)
    head = 16 * len(named)  # each name has a line of its own, so that near marks can be read
    low, high, most = edges[0], edges[-1], max(counts)
    across = _scale(low, high, _LEFT, _WIDTH - _RIGHT)
    up = _scale(0, most, _HEIGHT - _BOTTOM + head, _TOP + head)
    parts = [_y_axis({0, most}, up), _x_axis({low, (low + high) / 2, high}, across, x_name, _HEIGHT + head)]
    for (start, stop), count in zip(pairwise(edges), counts, strict=True):
        x, y = across(start), up(count)
        full = f"<title>{_number(start)} to {_number(stop)}: {_number(count)}</title>"
        box = f'x="{x:.1f}" y="{y:.1f}" width="{max(across(stop) - x - 1, 0.5):.1f}" height="{up(0) - y:.1f}"'
        parts.append(f'<rect class="c0" {box} {_FILL}>{full}</rect>')
    for row, (name, value) in enumerate(named.items()):
        colour, y = f"c{1 + row % (_COLOURS - 1)}", 14 + 16 * row
        x = across(min(max(value, low), high))
        words = f"{name} {_number(value)}"
        if low <= value <= high:
            line = f'd="M{x:.1f} {y + 4}V{up(0):.1f}" stroke-dasharray="4 3"'
            parts.append(f'<path class="{colour}" {line} {_STROKE}/>')
        else:
            words = f"{words} →" if value > high else f"← {words}"
        parts.append(_text(words, x, y, "start" if x < _WIDTH / 2 else "end", colour))
    return _svg(parts, _HEIGHT + head, f"histogram of {x_name}")


# --- parts of a chart ------------------------------------------------------------------------------------------------


def _svg(parts: Sequence[str], height: float, name: str) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">'
    return "".join([head, *parts, "</svg>"])


def _text(text: str, x: float, y: float, anchor: str = "end", colour: str = "") -> str:
    kind = f' class="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _y_axis(values: Iterable[float], up: Callable[[float], float]) -> str:
    parts = []
    for value in sorted(set(values)):
        parts.append(f'<path class="rule" d="M{_LEFT} {up(value):.1f}H{_WIDTH - _RIGHT}" {_STROKE}/>')
        parts.append(_text(_number(value), _LEFT - 6, up(value) + 4))
    return "".join(parts)


def _x_axis(values: Iterable[float], across: Callable[[float], float], name: str, height: float) -> str:
    places = [(value, across(value)) for value in sorted(set(values))]
    # Centred below its place, but for the one at the right edge, which would be cut off.
    ticks = [_text(_number(v), x, height - 20, "middle" if x < _WIDTH - 50 else "end") for v, x in places]
    return "".join([*ticks, _text(name, (_LEFT + _WIDTH - _RIGHT) / 2, height - 4, "middle")])


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """From ``low … high`` to pixels ``start … stop``; an empty range lies at its start."""
    return lambda value: start + (value - low) / ((high - low) or 1) * (stop - start)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _columns(text: str) -> int:
    """The width of a text in characters; those of East Asian scripts are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _short(text: str) -> str:
    """As much of ``text`` as there is room for beside a bar."""
    if _columns(text) <= _NAME_COLUMNS:
        return text
    kept = text[: _NAME_COLUMNS - 1]
    while _columns(kept) >= _NAME_COLUMNS:
        kept = kept[:-1]
    return f"{kept}…"


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point and the last one, at most about ``_MOST_POINTS``."""
    stride = -(-len(points) // _MOST_POINTS) or 1
    return points[:-1:stride] + points[-1:]
