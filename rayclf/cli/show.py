"""What people see: numbers, tables of labels and metrics, JSON where it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rayclf import storage
from rayclf.data.dataset import DatasetRecord
from rayclf.data.texts import TextSource
from rayclf.data.weights import LabelCounts
from rayclf.labels import LabelSpace

console = Console(highlight=False)
_MOST_LABELS = 20
_HEADLINES = {
    "accuracy": "accuracy",
    "subset_accuracy": "accuracy, whole rows",
    "hamming_loss": "Hamming loss",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1, macro",
    "f1_micro": "F1, micro",
    "f1_weighted": "F1, weighted",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "roc_auc": "ROC-AUC",
    "log_loss": "log loss",
}


def print_json(value: Any) -> None:
    """Print ``value`` as JSON, for ``--json``."""
    print(json.dumps(storage.plain(value), indent=2, ensure_ascii=False))


def as_json(value: Any) -> str:
    """``value`` as JSON on one line."""
    return json.dumps(storage.plain(value), ensure_ascii=False)


def print_wide(table: Table) -> None:
    """Print a table as wide as it needs: a terminal that is narrower wraps its lines, and loses no column."""
    before = console.width
    console.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    try:
        console.print(table)
    finally:
        console.width = before


def number(value: Any) -> str:
    """A metric in four digits, a dash where it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``1 day, 2:03:04``."""
    return str(timedelta(seconds=round(seconds)))


def columns_line(reads: TextSource, label: str) -> str:
    """What is read as text and as label, with rich's markup."""
    kind, value = next((kind, value) for kind, value in reads.model_dump().items() if value and kind != "text_pair")
    pair = f" with {escape(reads.text_pair)}" if reads.text_pair else ""
    what = {"text": "text column", "template": "text by template", "messages": "chat messages in column"}[kind]
    return f"{what} [bold]{escape(value)}[/]{pair}, label column [bold]{escape(label)}[/]"


def labels_table(space: LabelSpace, parts: Mapping[str, LabelCounts]) -> Table:
    """In how many rows of each part each label holds; of many labels the 20 with the most rows."""
    table = Table(title=f"{len(space)} label(s), {space.problem_type}", title_justify="left")
    table.add_column("label")
    for part in parts:
        table.add_column(part, justify="right")
    for position in _foremost([sum(counts.positive[n] for counts in parts.values()) for n in range(len(space))]):
        table.add_row(escape(space.names[position]), *(str(counts.positive[position]) for counts in parts.values()))
    if len(space) > _MOST_LABELS:
        table.add_row(f"… {len(space) - _MOST_LABELS} more")
    table.add_section()
    table.add_row("rows", *(str(counts.rows) for counts in parts.values()))
    return table


def dataset_summary(record: DatasetRecord) -> Table:
    """Rows read, kept and set aside, with reasons; what rebalancing reached; rows of each part."""
    table = Table(title="prepared", title_justify="left")
    table.add_column("rows")
    table.add_column("", justify="right")
    table.add_row("read", str(record.read))
    table.add_row("kept", str(record.kept))
    table.add_row("quarantined", str(record.quarantined))
    for reason, count in list(record.reasons.items())[:_MOST_LABELS]:
        table.add_row(escape(f"  {reason}"), str(count))
    table.add_section()
    for name, part in record.parts.items():
        table.add_row(name, str(part.rows))
    for name, reached in list(record.rebalanced.items())[:_MOST_LABELS]:
        table.add_row(escape(f"  {name}"), ", ".join(f"{key} {value:g}" for key, value in reached.items()))
    return table


def metrics_table(metrics: Mapping[str, Any], title: str) -> Table:
    """The headline metrics, then precision, recall and F1 of each label; of many the 20 with the most rows."""
    table = Table(title=f"{title}, {metrics['rows']} rows", title_justify="left")
    for name in ("", "precision", "recall", "F1", "ROC-AUC", "rows"):
        table.add_column(name, justify="left" if not name else "right")
    for key, name in _HEADLINES.items():
        if key in metrics and not (key == "accuracy" and "subset_accuracy" in metrics):  # two names of one number
            table.add_row(name, number(metrics[key]))
    if interval := metrics.get("interval"):
        name = _HEADLINES.get(interval["metric"], interval["metric"])
        bounds = f"{number(interval['low'])} to {number(interval['high'])}"
        table.caption = escape(f"{name}: {interval['level']:.0%} confidence from {bounds}")
        table.caption_justify = "left"
    table.add_section()
    labels = metrics["per_label"]
    for row in (labels[position] for position in _foremost([row["support"] for row in labels])):
        table.add_row(
            row["label"], *(number(row[k]) for k in ("precision", "recall", "f1", "roc_auc")), str(row["support"])
        )
    if len(labels) > _MOST_LABELS:
        table.add_row(f"… {len(labels) - _MOST_LABELS} more")
    return table


def _foremost(rows: Sequence[int]) -> list[int]:
    """Positions of the labels to show: all in their order, or of many those with the most rows, most first."""
    if len(rows) <= _MOST_LABELS:
        return list(range(len(rows)))
    return sorted(range(len(rows)), key=lambda position: -rows[position])[:_MOST_LABELS]
