"""What people see: tables of labels and metrics, and progress while work is done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
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


def columns_line(reads: TextSource, label: str) -> str:
    """What is read as text and as label, with rich's markup."""
    kind, value = next((kind, value) for kind, value in reads.model_dump().items() if value and kind != "text_pair")
    pair = f" with {escape(reads.text_pair)}" if reads.text_pair else ""
    what = {"text": "text column", "template": "text by template", "messages": "chat messages in column"}[kind]
    return f"{what} [bold]{escape(value)}[/]{pair}, label column [bold]{escape(label)}[/]"


def labels_table(space: LabelSpace, parts: Mapping[str, LabelCounts]) -> Table:
    """In how many rows of each part each label holds; the first 20 labels."""
    table = Table(title=f"{len(space)} label(s), {space.problem_type}", title_justify="left")
    table.add_column("label")
    for part in parts:
        table.add_column(part, justify="right")
    for position, name in enumerate(space.names[:_MOST_LABELS]):
        table.add_row(escape(name), *(str(counts.positive[position]) for counts in parts.values()))
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
    """The headline metrics, then precision, recall and F1 of each label, the first 20."""
    table = Table(title=f"{title}, {metrics['rows']} rows", title_justify="left")
    for name in ("", "precision", "recall", "F1", "ROC-AUC", "rows"):
        table.add_column(name, justify="left" if not name else "right")
    for key, name in _HEADLINES.items():
        if key in metrics:
            table.add_row(name, number(metrics[key]))
    if interval := metrics.get("interval"):
        name = _HEADLINES.get(interval["metric"], interval["metric"])
        bounds = f"{number(interval['low'])} to {number(interval['high'])}"
        table.caption = escape(f"{name}: {interval['level']:.0%} confidence from {bounds}")
        table.caption_justify = "left"
    table.add_section()
    for row in metrics["per_label"][:_MOST_LABELS]:
        table.add_row(
            row["label"], *(number(row[k]) for k in ("precision", "recall", "f1", "roc_auc")), str(row["support"])
        )
    return table


class ProgressView:
    """A bar with rows, rate and time left on a terminal; a line every tenth of the way elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told = 0
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None, note="", visible=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` is reached."""
        self._bar.update(self._task, completed=done, total=total, note=note, visible=True)
        tenth = 10 * done // max(1, total)
        if not console.is_terminal and tenth > self._told:
            self._told = tenth
            console.print(f"{self._what} {done}/{total} {note}")


class TrainView(ProgressView):
    """Shows the events of :func:`rayclf.train`: the data, the model, the loss, each evaluation."""

    def __init__(self) -> None:
        super().__init__("training")
        self._steps = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        kind = event["kind"]
        if kind == "data":
            console.print(columns_line(event["reads"], event["label"]))
            console.print(labels_table(event["space"], event["parts"]))
            if event["quarantined"]:
                console.print(
                    f"{event['quarantined']} of {event['read']} rows set aside, see quarantine.jsonl in the run"
                )
        elif kind == "start":
            self._steps = event["steps"]
            console.print(
                f"backbone [bold]{event['backbone']}[/] ({event['parameters'] / 1e6:.1f} M parameters), "
                f"{event['tuning']} tuning, up to {event['max_length']} tokens a text, {event['workers']} worker(s), "
                f"{event['strategy']}; Ray is starting …"
            )
        elif kind == "done before":
            console.print("the run is done already: nothing is left to train")
        elif kind == "step":
            self._step = event["step"]
            note = f"steps  epoch {event['epoch']}  loss {event['loss']:.4f}  {event['rows_per_second']:.0f} rows/s"
            self.update(event["step"], max(self._steps, event["step"]), note)
        elif kind == "evaluation":
            names = ("accuracy", "f1_macro", "log_loss")
            told = "  ".join(f"{_HEADLINES[name]} {number(event[name])}" for name in names)
            when = "best" if event.get("final") else f"step {event['step']}" if event["step"] else "before training"
            console.print(f"{when}  {event['part']}: {told}")
        elif kind == "waiting":
            console.print(f"no worker has begun: needed {event['needed']}; free {event['free']}")
        elif kind == "resumed":
            console.print(f"going on after step {max(0, event['step'])}")
        elif kind == "stopping":
            console.print("stopping after a checkpoint; --resume will go on from there (Ctrl-C again: stop at once)")


class PrepareView(ProgressView):
    """Shows the events of :func:`rayclf.prepare`, and lets the user stop before anything is written."""

    def __init__(self, *, confirm: bool, quiet: bool) -> None:
        super().__init__("writing")
        self._confirm, self._quiet = confirm, quiet

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        if self._quiet:
            return
        if event["kind"] == "plan":
            plan = event["plan"]
            console.print(columns_line(plan.found.extract.reads, plan.found.extract.label))
            console.print(labels_table(plan.found.space, {name: plan.counts(name) for name in plan.names}))
            if self._confirm:
                self._bar.stop()
                typer.confirm("Write it?", default=True, abort=True)
                self._bar.start()
        else:
            self.update(event["done"], event["of"], "rows")
