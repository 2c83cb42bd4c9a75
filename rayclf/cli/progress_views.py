"""What people see while work is done: bars with rates and time left, and what a training tells on its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rayclf.cli.event_lines import event_line
from rayclf.cli.show import columns_line, console, labels_table
from rayclf.data.texts import TextSource
from rayclf.data.weights import LabelCounts
from rayclf.labels import LabelSpace


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


def _print_data(
    reads: TextSource, label: str, space: LabelSpace, parts: Mapping[str, LabelCounts], hints: Sequence[str]
) -> None:
    console.print(columns_line(reads, label))
    for hint in hints:
        console.print(f"[yellow]look at this:[/] {escape(hint)}", soft_wrap=True)
    console.print(labels_table(space, parts))


class TrainView(ProgressView):
    """Shows the events of :func:`rayclf.train`: the data, the model, the loss, each evaluation."""

    def __init__(self) -> None:
        super().__init__("training")
        self._steps = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        kind = event["kind"]
        if kind == "data":
            _print_data(event["reads"], event["label"], event["space"], event["parts"], event["hints"])
            if event["quarantined"]:
                console.print(
                    f"{event['quarantined']} of {event['read']} rows set aside, see quarantine.jsonl in the run"
                )
        elif kind == "start":
            self._steps = event["steps"]
            console.print(escape(f"{event_line(event)}; Ray is starting …"))
        elif kind == "step":
            note = f"steps  epoch {event['epoch']}  loss {event['loss']:.4f}  {event['rows_per_second']:.0f} rows/s"
            self.update(event["step"], max(self._steps, event["step"]), note)
        elif kind == "stopping":
            console.print("stopping after a checkpoint; --resume will go on from there (Ctrl-C again: stop at once)")
        elif (line := event_line(event)) is not None:
            console.print(escape(line))


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
            found, parts = plan.found, {name: plan.counts(name) for name in plan.names}
            _print_data(found.extract.reads, found.extract.label, found.space, parts, event["hints"])
            if self._confirm:
                self._bar.stop()
                typer.confirm("Write it?", default=True, abort=True)
                self._bar.start()
        else:
            self.update(event["done"], event["of"], "rows")
