"""A matrix of counts, such as a confusion matrix: the larger the share of its row, the deeper a cell's colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayclf.charts import svg
from rayclf.charts.pages import escape, note

DEEPEST = 0.65  # opacity of a cell that is its whole row: the number on it can still be read, in light and dark mode
NAME_COLUMNS = 18

_LEFT, _RIGHT, _HEAD, _FOOT = 150, 90, 100, 10  # pixels around the cells; names of columns lean out to the right
_LARGEST_CELL = 56


@dataclass(frozen=True)
class Heatmap:
    """Counts ``values[row][column]``, None for one that is not known; each row's ``totals`` may count more than them.

    ``x_name`` says what the columns are, ``y_name`` what the rows are. For up to some 20 names: more cannot be read.
    """

    names: Sequence[str]
    values: Sequence[Sequence[float | None]]
    totals: Sequence[float]
    x_name: str
    y_name: str
    name: str

    @property
    def caption(self) -> str:
        """What is drawn, in words."""
        return self.name

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value for row in self.values for value in row)

    @property
    def shares(self) -> list[list[float]]:
        """Each cell's share of its row, 0 … 1; 0 for one that is not known."""
        return [
            [min((value or 0) / total, 1.0) if total > 0 else 0.0 for value in row]
            for row, total in zip(self.values, self.totals, strict=True)
        ]

    def svg(self) -> str:
        """The chart for a page."""
        if self.empty:
            return note("nothing to draw")
        cell = min((svg.WIDTH - _LEFT - _RIGHT) / len(self.names), _LARGEST_CELL)
        parts = [
            svg.text(f"{svg.short(name, NAME_COLUMNS)} {arrow}", _LEFT - 8, _HEAD - up)
            for name, arrow, up in ((self.x_name, "→", 24), (self.y_name, "↓", 8))
        ]
        for i, name in enumerate(self.names):
            middle = cell * (i + 0.5)
            parts.append(svg.text(svg.short(name, NAME_COLUMNS), _LEFT - 8, _HEAD + middle + 4))
            parts.append(svg.text(svg.short(name, NAME_COLUMNS), _LEFT + middle, _HEAD - 8, "start", turn=-45))
        for row, shares in enumerate(self.shares):
            for column, share in enumerate(shares):
                x, y, value = _LEFT + cell * column, _HEAD + cell * row, self.values[row][column]
                told = f"{self.names[row]} → {self.names[column]}: {svg.number(value)}"
                box = f'x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}"'
                back = f'<rect class="rule" {box} fill="none"/>'
                fill = f'<rect class="c0" {box} {svg.FILL} fill-opacity="{DEEPEST * share:.3f}"/>'
                words = svg.text(compact(value), x + cell / 2, y + cell / 2 + 4, "middle", "ink small")
                parts.append(f"<g><title>{escape(told)}</title>{back}{fill}{words if value != 0 else ''}</g>")
        return svg.svg(parts, _HEAD + cell * len(self.names) + _FOOT, self.name)


def compact(value: float | None) -> str:
    """A count in four characters at most: 1234 is 1.2k; a question mark where it is not known."""
    if value is None:
        return "?"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}" if value < 10 * size else f"{value / size:.0f}{letter}"
    return f"{value:.0f}"
