"""``rayclf runs``: training runs by what lies in their folders, from any machine that sees these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayclf.cli.options import Json
from rayclf.errors import ConfigError

if TYPE_CHECKING:
    from rayclf.training.runs import RunSummary

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, show, follow, compare and delete training runs."
)
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]


@app.command("list")
def list_(
    folder: Annotated[str, typer.Argument(help="Where to look, and in all folders below.")] = "runs",
    json: Json = False,
) -> None:
    """List the runs below a folder: state, progress, metric, times.

    Example: rayclf runs list /mnt/shared/runs
    """
    from pathlib import Path

    from rich.markup import escape
    from rich.table import Table

    from rayclf import storage
    from rayclf.cli import show
    from rayclf.training.run import Run
    from rayclf.training.runs import find_runs, summary

    found = [summary(Run(place)) for place in find_runs(folder)]
    if json:
        show.print_json([_plain(one) for one in found])
        return
    if not found:
        show.console.print(f"no runs below {escape(folder)}")
        return
    table = Table(box=None)
    for name in ("run", "state", "progress", "metric", "started", "time"):
        table.add_column(name, justify="right" if name == "time" else "left", no_wrap=True)
    top = storage.local_path(folder, "FOLDER")
    for one in found:
        name = Path(one.folder).relative_to(top).as_posix()
        name = folder if name == "." else name
        table.add_row(escape(name), one.state, _progress(one), _headline(one), (one.started or "")[:16], _time(one))
    show.print_wide(table)


@app.command("show")
def show_(run: RunFolder, json: Json = False) -> None:
    """Show a run: state, progress, data, and the metrics of each part.

    Example: rayclf runs show runs/tickets
    """
    from rich.markup import escape

    from rayclf.cli import show
    from rayclf.training.comparison import settings_of
    from rayclf.training.runs import open_run, summary

    opened = open_run(run)
    told = summary(opened)
    if json:
        settings = {} if told.state == "unreadable" else settings_of(opened)
        show.print_json(_plain(told) | {"settings": settings})
        return
    left = None if told.seconds_left is None else _duration(told.seconds_left)
    facts = {
        "run": told.folder,
        "state": told.state,
        "error": told.error,
        "progress": _progress(told) + (f", {left} left" if left else ""),
        "resumed": f"{told.resumed} time(s)" if told.resumed else None,
        "started": told.started,
        "ended": told.ended,
        "time": _time(told),
        "host": told.host,
        "backbone": told.backbone,
        "data": told.data,
        "artifact": str(opened.artifact) if opened.artifact.is_dir() else None,
    }
    for name, value in facts.items():
        if value:
            show.console.print(f"{name:<9} {escape(value)}", soft_wrap=True)
    if told.metrics:
        names = list(dict.fromkeys(name for values in told.metrics.values() for name in values))
        rows = {name: [values.get(name) for values in told.metrics.values()] for name in names}
        show.console.print(_table("metric", list(told.metrics), rows))


@app.command()
def follow(
    run: RunFolder,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many past lines to begin with.")] = 10,
    json: Json = False,
) -> None:
    """Print steps and evaluations as they are written, until the run ends. Ctrl-C leaves the run alone.

    Exits with 0 when the run is done, with 1 when it failed, stopped or died. Example: rayclf runs follow runs/tickets
    """
    from datetime import UTC, datetime

    from rayclf.cli import show
    from rayclf.cli.event_lines import event_line
    from rayclf.training.runs import follow, open_run

    state = ""
    for event in follow(open_run(run), past=lines):
        state = event.get("state", state) if event["kind"] == "ended" else state
        if json:
            print(show.as_json(event), flush=True)
        elif (line := event_line(event)) is not None:
            when = datetime.fromtimestamp(event["time"], UTC) if "time" in event else datetime.now(UTC)
            print(f"{when:%Y-%m-%d %H:%M:%S} {line}", flush=True)
    if state != "done":
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Two run folders or more.", show_default=False)],
    json: Json = False,
) -> None:
    """Show the settings in which runs differ, and their metrics side by side.

    Example: rayclf runs compare runs/small runs/large
    """
    from dataclasses import asdict

    from rayclf.cli import show
    from rayclf.training.comparison import compare
    from rayclf.training.runs import open_run

    if len(runs) < 2:
        raise ConfigError("RUN: give two runs or more to compare")
    found = compare([open_run(run) for run in runs])
    if json:
        show.print_json(asdict(found))
        return
    show.console.print(_table("setting", runs, found.settings) if found.settings else "all settings are the same")
    if found.metrics:
        show.console.print(_table("metric", runs, found.metrics))


@app.command()
def delete(run: RunFolder, yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False) -> None:
    """Delete a run with its artifact and checkpoints; one that is at work is refused.

    Example: rayclf runs delete runs/tickets
    """
    from rayclf.training.runs import check_idle, delete, open_run, summary

    opened = open_run(run)
    check_idle(opened)  # before anybody is asked
    if not yes:
        told = summary(opened)
        artifact = ", with its artifact" if opened.artifact.is_dir() else ""
        typer.confirm(f"Delete {run} ({told.state}, {_progress(told)}{artifact})?", abort=True)
    delete(run)


def _plain(told: RunSummary) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(told)


def _progress(told: RunSummary) -> str:
    if told.step is None:
        return "no step yet"
    return f"step {told.step}" + (f"/{told.steps}" if told.steps is not None else "")


def _headline(told: RunSummary) -> str:
    """The metric that chose the checkpoint, of the test rows where there are any."""
    from rayclf.cli.show import number

    name = told.metric or ""
    for part in ("test", "validation"):
        values = (told.metrics or {}).get(part, {})
        if name in values:
            return f"{name} {number(values[name])} ({part})"
    return ""


def _time(told: RunSummary) -> str:
    return "" if told.seconds is None else _duration(told.seconds)


def _duration(seconds: float) -> str:
    from rayclf.cli.show import duration

    return duration(seconds)


def _table(what: str, runs: Sequence[str], rows: Any) -> Any:
    """A column a run, a row a setting or metric; floats in four digits, a dash for none."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None)
    table.add_column(what, overflow="fold")
    for run in runs:
        table.add_column(escape(run), justify="right", overflow="fold")
    for name, values in rows.items():
        table.add_row(escape(name), *(escape(_cell(value)) for value in values))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
