"""Charts as PNG files, drawn by Matplotlib from the descriptions that make the SVG of a page.

Matplotlib takes a second to import, so that happens when the first file is written. Neither its ``pyplot`` nor a screen
is used: the Agg renderer draws into memory.
"""

from __future__ import annotations

import warnings
from typing import IO, TYPE_CHECKING, Any

from rayclf.charts import svg
from rayclf.charts.bars import BarChart, Histogram
from rayclf.charts.heatmap import DEEPEST, NAME_COLUMNS, Heatmap, compact
from rayclf.charts.lines import LineChart
from rayclf.charts.pages import LIGHT, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Chart = LineChart | BarChart | Histogram | Heatmap

_DPI, _INCH = 144, 100  # dots of the file, and pixels of the SVG, an inch
# Looked for on the machine, for letters that Matplotlib's own font has not; without them a box stands for a letter.
_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei", "Noto Sans Arabic",
    "Noto Sans Devanagari", "Arial Unicode MS",
)  # fmt: skip


def write_png(chart: Chart, file: IO[bytes]) -> None:
    """Draw a chart in the colours of light mode into ``file``; raises ValueError when it is empty."""
    if chart.empty:
        raise ValueError(f"{chart.caption}: nothing to draw")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    style: Any = {
        "font.family": ["DejaVu Sans", *(name for name in _FONTS if name in installed)],
        "font.size": 8,
        "text.parse_math": False,  # a dollar sign in the name of a label is one
        "text.color": LIGHT["ink"],
        "axes.labelcolor": LIGHT["soft"],
        "axes.edgecolor": LIGHT["rule"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": LIGHT["soft"],
        "ytick.color": LIGHT["soft"],
        "grid.color": LIGHT["rule"],
    }
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.simplefilter("ignore")  # of letters that no font here has
        figure = Figure(figsize=_size(chart), dpi=_DPI, layout="constrained", facecolor=LIGHT["paper"])
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.set_title(_words(chart.caption, 90), loc="left", fontsize=9, fontweight="bold")
        match chart:
            case LineChart():
                _lines(chart, axes)
            case BarChart():
                _bars(chart, axes)
            case Histogram():
                _histogram(chart, axes)
            case Heatmap():
                _heatmap(chart, axes)
        # Not figure.savefig, which draws twice; and without its version, so that the same chart is the same bytes.
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})


def _size(chart: Chart) -> tuple[float, float]:
    match chart:
        case LineChart():
            height = chart.height + 60 + 10 * len(chart.lines)
        case BarChart():
            height = 70 + 22 * len(chart.shown)
        case Histogram():
            height = svg.HEIGHT + 60
        case Heatmap():
            height = 200 + min(28 * len(chart.names), 480)
    return svg.WIDTH / _INCH, height / _INCH


def _words(text: str, most: int = svg.NAME_COLUMNS) -> str:
    return svg.short(" ".join(legible(text).split()), most) or " "


def _lines(chart: LineChart, axes: Axes) -> None:
    handles = []
    for name, line in chart.lines.items():
        colour, style = LIGHT[chart.colours[name]], "--" if name in chart.reference else "-"
        x, y, width = [x for x, _ in line], [y for _, y in line], 0.9 if chart.colours[name] == "soft" else 1.6
        handles += axes.plot(x, y, color=colour, linestyle=style, linewidth=width, alpha=chart.opacity(name))
        dots = chart.dotted[name]
        axes.plot([x for x, _ in dots], [y for _, y in dots], "o", color=colour, markersize=4)
    names = [_words(name, 60) for name in chart.lines]
    places: Any = axes.figure
    places.legend(handles, names, loc="outside lower left", frameon=False, fontsize=7, ncols=2)
    axes.set_xlabel(_words(chart.x_name))
    axes.set_ylabel(_words(chart.y_name))
    axes.grid(axis="y")
    if chart.unit:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)


def _bars(chart: BarChart, axes: Axes) -> None:
    places = range(len(chart.shown))
    drawn = axes.barh(places, [value or 0 for _, value in chart.shown], color=LIGHT["c0"], height=0.7)
    axes.bar_label(drawn, [svg.number(value) for _, value in chart.shown], padding=3, color=LIGHT["soft"], fontsize=7)
    axes.set_yticks(places, [_words(name) for name, _ in chart.shown])
    axes.invert_yaxis()
    axes.set_xlabel(_words(chart.unit))
    axes.margins(y=0.01)


def _histogram(chart: Histogram, axes: Axes) -> None:
    axes.stairs(chart.counts, chart.edges, fill=True, color=LIGHT["c0"])
    axes.set_xlabel(_words(chart.x_name))
    axes.grid(axis="y")
    for row, name in enumerate(chart.marks):
        place, words = chart.mark(name)
        colour = LIGHT[f"c{1 + row % (svg.COLOURS - 1)}"]
        axes.axvline(place, color=colour, linestyle="--", linewidth=1, label=_words(words))
    if chart.marks:
        axes.legend(frameon=False, fontsize=7)


def _heatmap(chart: Heatmap, axes: Axes) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    full, paper = to_rgb(LIGHT["c0"]), to_rgb(LIGHT["paper"])
    deepest = tuple(DEEPEST * c + (1 - DEEPEST) * p for c, p in zip(full, paper, strict=True))
    colours = LinearSegmentedColormap.from_list("shares", [paper, deepest])
    axes.imshow(chart.shares, cmap=colours, vmin=0, vmax=1)
    for row, values in enumerate(chart.values):
        for column, value in enumerate(values):
            if value != 0:
                axes.text(column, row, compact(value), ha="center", va="center", fontsize=7)
    names, places = [_words(name, NAME_COLUMNS) for name in chart.names], range(len(chart.names))
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    axes.set_xlabel(_words(chart.x_name))
    axes.set_ylabel(_words(chart.y_name))
