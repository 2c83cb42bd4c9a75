"""``rayclf tune``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rayclf.cli.options import (
    Backbone,
    Json,
    LabelColumn,
    Labelled,
    LabelsFile,
    Messages,
    Separator,
    Set,
    Template,
    TestRows,
    TextColumn,
    TextPair,
    YamlFile,
    check_lasts,
    check_there,
    collect,
    column_flags,
)

Searched = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        help="section.field=low..high or =value,value; repeatable. Learning rate, rank, epochs if not given.",
    ),
]


def tune(
    data: Labelled,
    output: Annotated[
        str, typer.Option("-o", "--output", callback=check_lasts, help="Folder for the search.", show_default=False)
    ],
    test: TestRows = None,
    backbone: Backbone = None,
    config: YamlFile = None,
    set_: Set = None,
    search: Searched = None,
    trials: Annotated[int, typer.Option(help="Trainings at most; the first has the settings as given.")] = 8,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so long, with what is finished.", show_default=False)
    ] = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    template: Template = None,
    messages: Messages = None,
    label: LabelColumn = None,
    separator: Separator = None,
    labels: LabelsFile = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep artifacts and checkpoints of all trials.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing search.")] = False,
    json: Json = False,
) -> None:
    """Train several times with other settings, stop the poor ones early, and keep the best run in OUTPUT/best.

    Example: rayclf tune tickets.csv -o runs/tuned --search train.learning_rate=1e-5..1e-3 --minutes 30
    """
    check_there(data, test, config, labels)
    from rayclf.cli import show
    from rayclf.training.search.tune import tune as run_search

    columns = column_flags(text, text_pair, template, messages, label, separator, labels)
    view = _View()
    found = run_search(
        data,
        output,
        test=test,
        backbone=backbone,
        config=config,
        overrides=collect(set_, {**columns, "output.overwrite": overwrite or None}),
        search=search or (),
        trials=trials,
        minutes=minutes,
        keep=keep,
        on_event=(lambda event: None) if json else view,
    )
    record = found.record
    if json:
        places = {"search": str(found.folder), "run": str(found.best.folder), "artifact": str(found.artifact)}
        show.print_json({**places, **record, "metrics": found.best.metrics})
    else:
        show.console.print(_table(found.trials, record))
        for part, metrics in found.best.metrics.items():
            show.console.print(show.metrics_table(metrics, part))
        show.console.print(f"best      {found.best.folder} (trial {record['winner']})")
        show.console.print(f"artifact  {found.artifact}\nreport    {found.folder / 'tune.html'}")
    if record["state"] == "stopped":
        raise typer.Exit(130)  # as any command that Ctrl-C has ended


class _View:
    """Shows the events of :func:`rayclf.tune`: the data, the space, a line for each trial that has ended."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        from rayclf.cli.event_lines import event_line
        from rayclf.cli.progress_views import TrainView
        from rayclf.cli.show import console, number

        if event["kind"] == "data":
            TrainView()(event)
        elif event["kind"] == "search":
            self.fields = list(event["space"])
            for path, domain in event["space"].items():
                console.print(f"searching [bold]{path}[/] in {domain}, first {event['first'][path]}")
            console.print(f"{event['trials']} trials, {event['concurrent']} at a time; Ray is starting …")
        elif event["kind"] == "trial":
            trial = event["trial"]
            values = "  ".join(f"{path.rpartition('.')[2]} {value}" for path, value in trial.values.items())
            what = f"{trial.state}: {trial.error}" if trial.error else f"{trial.state}  {number(trial.score)}"
            best = "  best so far" if trial.id == event["best"] else ""
            console.print(
                f"{event['ended']}/{event['of']}  trial {trial.id}  {values}  {what}{best}"
                f"  {_span(event['left'])} left",
                markup=False,
            )
        elif line := event_line(event):
            console.print(line, markup=False)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _table(trials: list[Any], record: Mapping[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from rayclf.cli.show import number
    from rayclf.training.search.record import ranked

    table = Table(title=f"trials by {record['metric']} on validation rows", title_justify="left")
    names = list(record["space"])
    for name in ("trial", *(name.rpartition(".")[2] for name in names), record["metric"], "state", "seconds"):
        table.add_column(name, justify="left" if name in ("trial", "state") else "right")
    for trial in ranked(trials, record["lower_is_better"]):
        values = (escape(str(trial.values[name])) for name in names)
        style = "bold" if trial.id == record["winner"] else None
        table.add_row(trial.id, *values, number(trial.score), trial.state, trial.duration, style=style)
    return table
