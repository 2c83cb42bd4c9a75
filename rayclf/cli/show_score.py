"""What people see of a scoring job: its progress, its state, its forecast."""

from __future__ import annotations

from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.markup import escape
from rich.table import Table

from rayclf.cli import show
from rayclf.cli.event_lines import event_line
from rayclf.cli.progress_views import ProgressView
from rayclf.cli.show import duration

if TYPE_CHECKING:
    from rayclf.scoring.forecast import Forecast
    from rayclf.scoring.pipeline import ScoreSummary


class ScoreView:
    """A progress bar with rates, errors, time left and dollars; ``quiet`` shows nothing, for ``--json``."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar = ProgressView("scoring")

    def __enter__(self) -> Self:
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.__exit__(kind, value, trace)

    def on_event(self, event: dict[str, Any]) -> None:
        """Show an event of :func:`rayclf.score`."""
        if self.quiet:
            return
        if event["kind"] == "plan":
            show.console.print(event_line(event), markup=False)
            return
        note = f"rows  {event['rows_per_second']:.0f} rows/s  {event['tokens_per_second']:.0f} tokens/s"
        note += f"  {event['errors']} errors"
        if event["seconds_left"] is not None:
            note += f"  {duration(event['seconds_left'])} left"
        if event["dollars_in_all"] is not None:
            note += f"  ${event['dollars']:.2f} of ${event['dollars_in_all']:.2f}"
        self.bar.update(int(event["rows"]), int(event["of"]), note)


def summary_line(summary: ScoreSummary) -> str:
    """A job that is done, in one line."""
    cost = "" if summary.dollars is None else f"; ${summary.dollars:.2f}"
    return (
        f"{summary.rows} rows ({summary.errors} with errors) in {summary.output}; "
        f"{summary.scored_rows} scored now at {summary.rows_per_second:.0f} rows/s{cost}"
    )


def show_summary(summary: ScoreSummary, json: bool) -> None:
    """The end of a job."""
    if json:
        show.print_json(asdict(summary))
        return
    show.console.print(escape(summary_line(summary)))


def show_forecast(found: Forecast, json: bool) -> None:
    """What the whole would take."""
    if json:
        show.print_json(asdict(found))
        return
    table = Table(title=f"forecast, from {found.sample_rows} rows that were scored", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    facts = {
        "rows": f"{found.rows:,}",
        "units": f"{found.units:,}",
        "tokens": f"{found.tokens:,}",
        "rows with errors": f"{found.error_rows:,}",
        "replicas": str(found.replicas),
        "rate": f"{found.rows_per_second:,.0f} rows/s",
        "time": duration(found.seconds),
        "output": f"{found.output_bytes / 1e6:,.1f} MB",
    }
    if found.dollars is not None:
        facts["cost"] = f"${found.dollars:,.2f}"
    for name, value in facts.items():
        table.add_row(name, value)
    show.console.print(table)


def show_status(output: str, json: bool) -> None:
    """How the job of an output fares."""
    from rayclf.scoring.status import status

    found = status(output)
    if json:
        show.print_json(asdict(found))
        return
    rate = "" if found.rows_per_second is None else f", {found.rows_per_second:.0f} rows/s"
    left = "" if not found.seconds_left or found.state == "done" else f", {duration(found.seconds_left)} of work left"
    cost = "" if found.dollars is None else f", ${found.dollars:.2f}"
    show.console.print(
        f"{found.state}: {found.rows_done} of {found.rows} rows in {found.units_done} of {found.units} units, "
        f"{found.errors} with errors{rate}{left}{cost}"
    )


def show_verified(output: str, json: bool) -> None:
    """That an output is whole."""
    from rayclf.scoring.verify import verify

    with ProgressView("checking") as view:
        report = verify(output, lambda done, of: None if json else view.update(done, of, "rows"))
    if json:
        show.print_json(asdict(report))
        return
    show.console.print(
        f"whole: {report.rows} rows in {report.units} units and {report.files} files, each once; "
        f"{report.errors} with errors; every checksum is right"
    )
