"""Bars: values by name, and how often values occur."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rayclf.charts import svg
from rayclf.charts.pages import escape, note

_NAME_WIDTH, _BAR = 210, 22  # pixels for a name, and for a row


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars of ``(name, value >= 0)``, the first ``most`` of them in the order given.

    ``name`` says what is shown, ``unit`` what the values count; a value that is not finite has no bar, and a dash.
    """

    bars: Sequence[tuple[str, float | None]]
    name: str
    unit: str
    most: int = 30

    @property
    def caption(self) -> str:
        """What is drawn, in words."""
        left_out = f"; the first {len(self.shown)} of {len(self.bars)}" if len(self.bars) > self.most else ""
        return f"{self.name}, {self.unit}{left_out}"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.bars

    @property
    def shown(self) -> list[tuple[str, float | None]]:
        """The bars that are drawn; None for a value that is not finite."""
        return [(name, v if v is not None and math.isfinite(v) else None) for name, v in self.bars[: self.most]]

    def svg(self) -> str:
        """The chart for a page."""
        if self.empty:
            return note("nothing to draw")
        across = svg.scale(0, max((value or 0 for _, value in self.shown), default=0), _NAME_WIDTH, svg.WIDTH - 100)
        parts = []
        for row, (label, value) in enumerate(self.shown):
            y = _BAR * row
            length = max(across(value or 0) - _NAME_WIDTH, 0)
            full = f"<title>{escape(label)}: {svg.number(value)} {escape(self.unit)}</title>"
            size = f'width="{length:.1f}" height="{_BAR - 6}"'
            bar = f'<rect class="c0" x="{_NAME_WIDTH}" y="{y + 3}" {size} {svg.FILL}/>'
            name = svg.text(svg.short(label), _NAME_WIDTH - 8, y + 15)
            told = svg.text(svg.number(value), _NAME_WIDTH + length + 6, y + 15, "start")
            parts.append(f"<g>{full}{bar}{name}{told}</g>")
        return svg.svg(parts, _BAR * len(self.shown), f"{self.name}, {self.unit}")


@dataclass(frozen=True)
class Histogram:
    """Vertical bars of ``counts`` between ``edges``, which are ascending and one more than the counts.

    A bar's height is its count, so edges should be evenly apart. ``marks`` are ``{name: x}``, each a dashed line; one
    that lies outside of the edges does not stretch the axis: an arrow at its end points to it. Raises ValueError for
    another number of edges.
    """

    edges: Sequence[float]
    counts: Sequence[float]
    x_name: str
    marks: Mapping[str, float] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 and (len(self.edges) or len(self.counts)):
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, not {len(self.edges)}")

    @property
    def caption(self) -> str:
        """What is drawn, in words."""
        return self.name or f"histogram of {self.x_name}"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(count > 0 for count in self.counts)

    def mark(self, name: str) -> tuple[float, str]:
        """Where a mark stands, and its words, with an arrow where it lies outside of the edges."""
        value, low, high = self.marks[name], self.edges[0], self.edges[-1]
        words = f"{name} {svg.number(value)}"
        if not low <= value <= high:
            words = f"{words} →" if value > high else f"← {words}"
        return min(max(value, low), high), words

    def svg(self) -> str:
        """The chart for a page."""
        if self.empty:
            return note("nothing to draw")
        head = 16 * len(self.marks)  # each name has a line of its own, so that near marks can be read
        height = svg.HEIGHT + head
        low, high, most = self.edges[0], self.edges[-1], max(self.counts)
        across = svg.scale(low, high, svg.LEFT, svg.WIDTH - svg.RIGHT)
        up = svg.scale(0, most, height - svg.BOTTOM, svg.TOP + head)
        middle = {low, (low + high) / 2, high}
        parts = [
            svg.y_axis([(value, svg.number(value)) for value in sorted({0, most})], up),
            svg.x_axis([(value, svg.number(value)) for value in sorted(middle)], across, self.x_name, height),
        ]
        for (start, stop), count in zip(pairwise(self.edges), self.counts, strict=True):
            x, y = across(start), up(count)
            full = f"<title>{svg.number(start)} to {svg.number(stop)}: {svg.number(count)}</title>"
            box = f'x="{x:.1f}" y="{y:.1f}" width="{max(across(stop) - x - 1, 0.5):.1f}" height="{up(0) - y:.1f}"'
            parts.append(f'<rect class="c0" {box} {svg.FILL}>{full}</rect>')
        for row, (name, value) in enumerate(self.marks.items()):
            colour, y = f"c{1 + row % (svg.COLOURS - 1)}", 14 + 16 * row
            place, words = self.mark(name)
            x = across(place)
            if low <= value <= high:
                line = f'd="M{x:.1f} {y + 4}V{up(0):.1f}" stroke-dasharray="4 3"'
                parts.append(f'<path class="{colour}" {line} {svg.STROKE}/>')
            parts.append(svg.text(words, x, y, "start" if x < svg.WIDTH / 2 else "end", colour))
        return svg.svg(parts, height, self.caption)
