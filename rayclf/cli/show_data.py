"""``rayclf data inspect`` on a terminal: what was found, and the rows read so far while it looks."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rayclf.cli.show import console
from rayclf.data import inspect_report as report
from rayclf.data.inspect import Inspection

_BAR = 30  # characters of the longest bar
_TELL_ROWS = 100_000


def show(found: Inspection) -> None:
    """Print an inspection."""
    console.print(f"[bold]{escape(found.place)}[/]  {found.files} file(s)", soft_wrap=True)
    console.print(f"text: {escape(found.reads)}; label: column {escape(found.label)}", soft_wrap=True)
    for hint in found.hints:
        console.print(f"[yellow]look at this:[/] {escape(hint)}", soft_wrap=True)
    _heading("Rows")
    _facts(report.row_facts(found.rows))
    _heading(f"Columns, by the first {found.sampled_rows} rows")
    console.print(_columns(found))
    _heading("Labels")
    _facts(report.label_facts(found))
    _bars([(bar.name, bar.rows) for bar in report.label_bars(found)])
    if len(found.labels.counts) > report.MOST:
        console.print(f"… {len(found.labels.counts) - report.MOST} more")
    _heading("Token lengths")
    if found.tokens is not None:
        _facts(report.token_facts(found.tokens))
        console.print(_truncation(found))
    else:
        console.print(escape(found.tokens_note or ""), soft_wrap=True)
    _heading("Texts")
    _facts(report.other_facts(found))
    if found.test is not None:
        _heading(f"Test rows, {found.test.place}")
        _facts(report.row_facts(found.test.rows))


def _heading(text: str) -> None:
    console.print(f"\n[bold]{escape(text)}[/]")


def _facts(facts: report.Facts) -> None:
    for name, value in facts:
        console.print(f"{name:15} {value}", markup=False, soft_wrap=True)


def _bars(bars: list[tuple[str, int]]) -> None:
    most = max((rows for _, rows in bars), default=0) or 1
    digits = len(str(most))
    for name, rows in bars:
        filled = "█" * max(rows > 0, round(_BAR * rows / most))
        console.print(f"  {rows:{digits}} {filled:{_BAR}} {name}", markup=False, soft_wrap=True)


def _columns(found: Inspection) -> Table:
    table = Table()
    for name in ("column", "role", "why", "nulls", "distinct", "values"):
        table.add_column(name, justify="right" if name in ("nulls", "distinct") else "left")
    for column in found.columns:
        cells = (column.name, column.role, column.why, column.nulls, column.distinct)
        table.add_row(*(escape(str(cell)) for cell in cells), "numbers" if column.numeric else "text")
    return table


def _truncation(found: Inspection) -> Table:
    table = Table()
    for name in ("model.max_length", "texts cut", "tokens lost"):
        table.add_column(name, justify="right")
    assert found.tokens is not None
    for cut in found.tokens.truncation:
        table.add_row(str(cut.max_length), report.percent(cut.texts), report.percent(cut.tokens))
    return table


class RowsView:
    """Rows read and their rate, on stderr; how many there will be is not known before the end.

    A line that moves on a terminal, elsewhere one for every 100,000 rows. ``quiet`` shows nothing.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what, self._quiet = what, quiet
        self._console = Console(stderr=True, highlight=False)
        self._start = time.monotonic()
        self._told = 0
        self._bar = Progress(
            TextColumn(what),
            TextColumn("{task.completed:.0f} rows  {task.fields[rate]:.0f} rows/s"),
            TimeElapsedColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, rate=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int) -> None:
        """Show that ``done`` rows are read."""
        rate = done / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(self._task, completed=done, rate=rate)
        if not self._quiet and not self._console.is_terminal and done // _TELL_ROWS > self._told:
            self._told = done // _TELL_ROWS
            self._console.print(f"{self._what} {done} rows  {rate:.0f} rows/s")
