"""Lines: a loss by step, a rate by another."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rayclf.charts import svg
from rayclf.charts.pages import note

Points = Sequence[tuple[float, float | None]]
Line = list[tuple[float, float]]

_MOST_POINTS = 2 * svg.WIDTH  # of a line: more cannot be seen, and make the file as large as the run was long
_MOST_DOTS = 60
_LEGEND = 16  # pixels of a row


@dataclass(frozen=True)
class LineChart:
    """Lines with a legend; points that have None, NaN or infinity for a coordinate are left out.

    Those named in ``reference`` are dashed and grey, to compare the others with, those in ``faint`` pale, behind a
    smoothed line of the same. ``marks`` are single places on the
    line of that name. ``dots`` shows each point of lines that have few. ``unit`` lets both axes go from 0 to 1 instead
    of from the least to the greatest value.
    """

    series: Mapping[str, Points]
    x_name: str
    y_name: str
    name: str = ""
    reference: Collection[str] = ()
    faint: Collection[str] = ()
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    dots: bool = False
    unit: bool = False
    height: int = svg.HEIGHT

    @property
    def caption(self) -> str:
        """What is drawn, in words."""
        return self.name or f"{self.y_name} by {self.x_name}"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw; references alone say nothing."""
        return not any(line for name, line in self.lines.items() if name not in self.reference)

    @cached_property
    def lines(self) -> dict[str, Line]:
        """The points that are drawn: finite ones, and no more than can be seen."""
        return {
            name: _thin([(x, y) for x, y in points if y is not None and math.isfinite(x) and math.isfinite(y)])
            for name, points in self.series.items()
        }

    @property
    def dotted(self) -> dict[str, Line]:
        """The points that are drawn as dots: of short lines, all when asked, and a line of one cannot be seen else."""
        few = _MOST_DOTS if self.dots else 1
        found = {name: line for name, line in self.lines.items() if len(line) <= few and name not in self.reference}
        marks = {name: [place] for name, place in self.marks.items() if all(map(math.isfinite, place))}
        return {name: [*found.get(name, []), *marks.get(name, [])] for name in self.lines}

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each line, as a class of the page's style."""
        pale = {*self.reference, *self.faint}
        own = [name for name in self.series if name not in pale]
        return dict.fromkeys(pale, "soft") | {name: f"c{i % svg.COLOURS}" for i, name in enumerate(own)}

    def opacity(self, name: str) -> float:
        """How well a line is seen."""
        return 0.45 if name in self.faint else 1.0

    @property
    def ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The least and greatest value of both axes."""
        if self.unit:
            return (0.0, 1.0), (0.0, 1.0)
        every = [point for lines in (self.lines, self.dotted) for line in lines.values() for point in line]
        x, y = [x for x, _ in every], [y for _, y in every]
        return (min(x), max(x)), (min(y), max(y))

    def svg(self) -> str:
        """The chart for a page."""
        if self.empty:
            return note("nothing to draw")
        legend, rows = self._legend()
        height = self.height + _LEGEND * (rows - 1)
        x_range, y_range = self.ranges
        across = svg.scale(*x_range, svg.LEFT, svg.WIDTH - svg.RIGHT)
        up = svg.scale(*y_range, height - svg.BOTTOM, svg.TOP + _LEGEND * (rows - 1))
        whole = all(x == int(x) for line in self.lines.values() for x, _ in line) and not self.unit
        parts = [
            svg.y_axis(svg.ticks(*y_range), up),
            svg.x_axis(svg.ticks(*x_range, 8, whole), across, self.x_name, height),
        ]
        for name, line in self.lines.items():
            kind = f'class="{self.colours[name]}"'
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
            if len(line) > 1:
                style = 'stroke-dasharray="5 4"' if name in self.reference else 'stroke-width="2"'
                if name in self.faint:
                    style = f'stroke-opacity="{self.opacity(name)}"'
                style = f'fill="none" {svg.STROKE} stroke-linejoin="round" {style}'
                parts.append(f'<polyline {kind} points="{path}" {style}/>')
            for x, y in self.dotted[name]:
                words = f"<title>{svg.number(x)}: {svg.number(y)}</title>"
                parts.append(f'<circle {kind} cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" {svg.FILL}>{words}</circle>')
        return svg.svg([*parts, *legend], height, self.caption)

    def _legend(self) -> tuple[list[str], int]:
        """The names in the colours of their lines, in as many rows as they need."""
        parts, x, row = [], svg.LEFT, 0
        for name in self.lines:
            shown = svg.short(name, 80)
            width = 8 * svg.columns(shown) + 16
            if x > svg.LEFT and x + width > svg.WIDTH:
                x, row = svg.LEFT, row + 1
            parts.append(svg.text(shown, x, 14 + _LEGEND * row, "start", self.colours[name]))
            x += width
        return parts, row + 1


def _thin(points: Line) -> Line:
    """Every n-th point and the last one, at most about ``_MOST_POINTS``."""
    stride = -(-len(points) // _MOST_POINTS) or 1
    return points[:-1:stride] + points[-1:]
