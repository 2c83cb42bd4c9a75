"""What charts are made of: scales, axes, texts, and how numbers and names are shortened to fit."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from rayclf.charts.pages import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 260, 76, 14, 24, 36  # the box of a chart and its margins
COLOURS = 8
FILL, STROKE = 'fill="currentColor"', 'stroke="currentColor"'
NAME_COLUMNS = 30  # characters that a name beside a chart has room for

Place = Callable[[float], float]


def svg(parts: Sequence[str], height: float, name: str) -> str:
    """The picture that the parts make; ``name`` is what a screen reader says."""
    head = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(name)}">'
    return "".join([head, *parts, "</svg>"])


def text(words: str, x: float, y: float, anchor: str = "end", kind: str = "", turn: float = 0) -> str:
    """Words at a place; ``kind`` is a class of the page's style, ``turn`` degrees clockwise."""
    named = f' class="{kind}"' if kind else ""
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}{turned}>{escape(words)}</text>'


def y_axis(values: Iterable[tuple[float, str]], up: Place) -> str:
    """Rules across the chart at ``(value, words)``."""
    parts = []
    for value, words in values:
        parts.append(f'<path class="rule" d="M{LEFT} {up(value):.1f}H{WIDTH - RIGHT}" {STROKE}/>')
        parts.append(text(words, LEFT - 6, up(value) + 4))
    return "".join(parts)


def x_axis(values: Iterable[tuple[float, str]], across: Place, name: str, height: float) -> str:
    """Words below a chart at ``(value, words)``, and the name of the axis."""
    places = [(words, across(value)) for value, words in values]
    # Centred below its place, but for the one at the right edge, which would be cut off.
    parts = [text(words, x, height - 20, "middle" if x < WIDTH - 50 else "end") for words, x in places]
    return "".join([*parts, text(name, (LEFT + WIDTH - RIGHT) / 2, height - 4, "middle")])


def scale(low: float, high: float, start: float, stop: float) -> Place:
    """From ``low … high`` to pixels ``start … stop``; what lies outside is put on the edge, an empty range at start."""
    return lambda value: start + (min(max(value, low), high) - low) / ((high - low) or 1) * (stop - start)


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[tuple[float, str]]:
    """Round values (1, 2 or 5 times a power of ten apart) in ``low … high`` and how to write them.

    There are at most about ``most``; ``whole`` values only, where all that is counted is whole.
    """
    step = _round_step((high - low) / most) if math.isfinite(high - low) else 0.0
    if whole:
        step = max(step, 1.0)
    if step == 0 or low == high:
        return [(value, number(value)) for value in sorted({low, high})]
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [min(max(n * step, low), high) for n in range(first, min(last, first + 2 * most) + 1)] or [low, high]
    if not 1e-3 <= max(abs(low), abs(high)) < 1e7:
        return [(value, f"{value:.3g}") for value in values]
    digits = max(0, -math.floor(math.log10(step)))
    return [(value, f"{value:,.{digits}f}") for value in values]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 0.0
    return next((power * times for times in (1, 2, 5, 10) if power * times >= least), 0.0)


def number(value: float | None) -> str:
    """A number for a person, a dash for none; large ones with commas, fractions in three digits."""
    if value is None:
        return "–"
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def columns(words: str) -> int:
    """The width of a text in characters; those of East Asian scripts are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in words)


def short(words: str, most: int = NAME_COLUMNS) -> str:
    """As much of a text as ``most`` columns hold."""
    if columns(words) <= most:
        return words
    kept = words[: most - 1]
    while columns(kept) >= most:
        kept = kept[:-1]
    return f"{kept}…"
