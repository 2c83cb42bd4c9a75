"""``rayclf train``"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rayclf.cli.options import (
    Backbone,
    Json,
    LabelColumn,
    Labelled,
    LabelsFile,
    Messages,
    Metrics,
    Separator,
    Set,
    Template,
    TestRows,
    TextColumn,
    TextPair,
    YamlFile,
    ask_column,
    check_lasts,
    check_there,
    collect,
    column_flags,
)
from rayclf.errors import ConfigError


def train(
    data: Labelled,
    output: Annotated[
        str, typer.Option("-o", "--output", callback=check_lasts, help="Folder for the run.", show_default=False)
    ],
    test: TestRows = None,
    backbone: Backbone = None,
    config: YamlFile = None,
    set_: Set = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    template: Template = None,
    messages: Messages = None,
    label: LabelColumn = None,
    separator: Separator = None,
    labels: LabelsFile = None,
    metric: Metrics = None,
    track: Annotated[
        list[str] | None, typer.Option(help="tensorboard or mlflow; repeatable.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUTPUT where it was interrupted; else begin one.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune a classifier on labelled data: a file, a folder, a glob, or what rayclf data prepare wrote.

    Example: rayclf train tickets.csv -o runs/tickets --set train.epochs=5
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with the run that --overwrite would replace; leave one of them out")
    check_there(data, test, config, labels)
    import rayclf
    from rayclf.cli import show
    from rayclf.cli.progress_views import TrainView
    from rayclf.errors import AmbiguousColumn

    columns = column_flags(text, text_pair, template, messages, label, separator, labels)
    flags = {
        **columns,
        "evaluation.metrics": metric,
        "output.track": track,
        "output.overwrite": overwrite or None,
    }
    overrides = collect(set_, flags)
    job: dict[str, Any] = {"test": test, "backbone": backbone, "config": config, "resume": resume}
    while True:
        try:
            if json:
                run = rayclf.train(data, output, **job, overrides=overrides)
                show.print_json({"run": str(run.folder), "artifact": str(run.artifact), "metrics": run.metrics})
                return
            with TrainView() as view:
                run = rayclf.train(data, output, **job, overrides=overrides, on_event=view)
            break
        except AmbiguousColumn as error:
            if json or not sys.stdin.isatty():
                raise
            overrides |= {f"data.{error.flag[2:]}": ask_column(error.flag, error.candidates)}
    for part, metrics in run.metrics.items():
        show.console.print(show.metrics_table(metrics, part))
    show.console.print(f"run       {run.folder}\nartifact  {run.artifact}\nreport    {run.folder / 'report.html'}")
