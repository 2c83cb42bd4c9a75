"""Pages of tables and charts: one HTML file with inline SVG that needs no script, no network and no other file.

A page is a list of sections, each the HTML that a function here returns; every text given to them is escaped. Pages are
well-formed XML too, and follow the reader's light or dark mode. A chart is a frozen description of what is drawn
(:class:`LineChart`, :class:`BarChart`, :class:`Histogram`, :class:`Heatmap`): its ``svg()`` is for a page and
:func:`write_png` makes a picture file of the same description. A chart of nothing is a line that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rayclf.charts.bars import BarChart, Histogram
from rayclf.charts.heatmap import Heatmap
from rayclf.charts.lines import LineChart, Points
from rayclf.charts.pages import escape, heading, note, page, table
from rayclf.charts.png import Chart, write_png

__all__ = [
    "BarChart", "Chart", "Heatmap", "Histogram", "LineChart", "Points", "bar_chart", "escape", "figure", "heading",
    "histogram", "line_chart", "note", "page", "table", "write_png",
]  # fmt: skip


def figure(chart: Chart) -> str:
    """A chart with its caption above it."""
    return f"<figure><figcaption>{escape(chart.caption)}</figcaption>{chart.svg()}</figure>"


def line_chart(series: Mapping[str, Points], x_name: str, y_name: str) -> str:
    """The SVG of a :class:`LineChart`."""
    return LineChart(series, x_name, y_name).svg()


def bar_chart(bars: Sequence[tuple[str, float]], name: str, unit: str, most: int = 30) -> str:
    """The SVG of a :class:`BarChart` below a line that says what is shown."""
    chart = BarChart(bars, name, unit, most)
    return chart.svg() if chart.empty else note(chart.caption) + chart.svg()


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    x_name: str,
    marks: Mapping[str, float] | Iterable[tuple[str, float]] = (),
) -> str:
    """The SVG of a :class:`Histogram`."""
    return Histogram(edges, counts, x_name, dict(marks)).svg()
