"""``report.html``: a run at a glance, in one file that needs nothing else. No text of the data is in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayclf import storage
from rayclf.charts import Points, heading, line_chart, note, page, table
from rayclf.training.run import Run

_MOST_ROWS = 200


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
        note(
            f"{len(labels)} labels, {info['label_space']['problem_type']}; {info['tuning']} tuning; "
            f"rows: {', '.join(f'{part} {count}' for part, count in status['rows'].items())}; read {status['read']} = "
            f"{status['read'] - status['quarantined']} kept + {status['quarantined']} quarantined; {info['created']}"
        ),
        heading("Loss"),
        line_chart(losses, "step", "loss"),
    ]
    if checks:
        curves: dict[str, Points] = {name: [(e["step"], e[name]) for e in checks] for name in ("accuracy", "f1_macro")}
        sections += [heading("Validation"), line_chart(curves, "step", "metric")]
    for part, metrics in info["metrics"].items():
        sections += [heading(f"Metrics, {part}"), *_metric_tables(metrics)]
    return page(f"{status['backbone']} on {status['data']}", sections)


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


def smooth(points: Sequence[tuple[float, float]], share: float = 0.9) -> list[tuple[float, float]]:
    """Running mean of the second coordinate: what is left of the old mean is ``share``, unbiased at the beginning."""
    result, mean, weight = [], 0.0, 0.0
    for x, y in points:
        mean, weight = share * mean + (1 - share) * y, share * weight + (1 - share)
        result.append((x, mean / weight))
    return result
