"""``report.html``: a run at a glance, in one file that needs nothing else. No text of the data is in it."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from rayclf import storage
from rayclf.training.run import Run

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 260, 56, 28
_MOST_ROWS = 200
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem; border-bottom: 1px solid #e5e7eb; }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; } text { font-size: 12px; fill: #6b7280; } .note { color: #6b7280; }
"""


def write_report(run: Run) -> None:
    """Draw the report of a finished run from its folder."""
    info = storage.read_json(run.artifact / "rayclf.json")
    with storage.write_whole(run.folder / "report.html") as file:
        file.write(render(run.events, info, run.status).encode())


def render(events: Sequence[dict[str, Any]], info: dict[str, Any], status: dict[str, Any]) -> str:
    """The page as HTML."""
    steps = [(e["step"], e["loss"]) for e in events if e["kind"] == "step"]
    checks = [e for e in events if e["kind"] == "evaluation" and e["part"] == "validation"]
    losses: dict[str, Points] = {"training": smooth(steps), "validation": [(e["step"], e["log_loss"]) for e in checks]}
    labels = info["label_space"]["labels"]
    sections = [
        f"<h1>{html.escape(status['backbone'])} on {html.escape(str(status['data']))}</h1>",
        f"<p class=note>{len(labels)} labels, {info['label_space']['problem_type']}; {info['tuning']} tuning; "
        f"rows: {', '.join(f'{part} {count}' for part, count in status['rows'].items())}; {info['created']}</p>",
        "<h2>Loss</h2>",
        line_chart(losses, "step", "loss"),
    ]
    if checks:
        curves: dict[str, Points] = {name: [(e["step"], e[name]) for e in checks] for name in ("accuracy", "f1_macro")}
        sections += ["<h2>Validation</h2>", line_chart(curves, "step", "metric")]
    for part, metrics in info["metrics"].items():
        sections += [f"<h2>Metrics, {part}</h2>", *_metric_tables(metrics)]
    body = "\n".join(sections)
    head = f"<meta charset=utf-8><title>rayclf run</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}\n{body}\n</html>\n"


def _metric_tables(metrics: dict[str, Any]) -> list[str]:
    headline = [(name.replace("_", " "), value) for name, value in metrics.items() if not isinstance(value, list)]
    per_label = [tuple(row.values()) for row in metrics["per_label"][:_MOST_ROWS]]
    parts = [
        table(("metric", "value"), headline),
        table(("label", "precision", "recall", "F1", "ROC-AUC", "rows"), per_label),
    ]
    if metrics["confusions"]:
        pairs = [(f"{c['actual']} taken for {c['predicted']}", c["rows"]) for c in metrics["confusions"]]
        parts.append(table(("confusion", "rows"), pairs))
    return parts


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; fractions in four digits, a dash for what is undefined."""

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def smooth(points: Points, share: float = 0.9) -> list[tuple[float, float]]:
    """Running mean of the second coordinate: what is left of the old mean is ``share``, unbiased at the beginning."""
    result, mean, weight = [], 0.0, 0.0
    for x, y in points:
        mean, weight = share * mean + (1 - share) * y, share * weight + (1 - share)
        result.append((x, mean / weight))
    return result


def line_chart(series: dict[str, Points], x_name: str, y_name: str) -> str:
    """A line chart as inline SVG, with a legend; undefined points are left out."""
    shown = {name: [(x, y) for x, y in points if y is not None and math.isfinite(y)] for name, points in series.items()}
    every = [point for points in shown.values() for point in points]
    if not every:
        return "<p class=note>nothing to draw</p>"
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    y_low, y_high = min(y for _, y in every), max(y for _, y in every)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        return _LEFT + across * (_WIDTH - _LEFT - 10), 10 + (1 - up) * (_HEIGHT - _BOTTOM - 20)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(y_name)} by {html.escape(x_name)}">'
    ]
    for value in (y_low, (y_low + y_high) / 2, y_high):
        _, y = place(x_low, value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 10}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value in (x_low, x_high):
        x, _ = place(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{value:g}</text>')
    for position, (name, points) in enumerate(shown.items()):
        colour = ("#2563eb", "#dc2626", "#059669")[position % 3]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x = _LEFT + 10 + 110 * position
        parts.append(f'<text x="{x}" y="{_HEIGHT - 12}" style="fill:{colour}">{html.escape(name)}</text>')
    return "".join([*parts, "</svg>"])
