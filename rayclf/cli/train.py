"""``rayclf train``"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rayclf.cli.options import (
    Json,
    LabelColumn,
    LabelsFile,
    Metrics,
    Set,
    Template,
    TextColumn,
    YamlFile,
    ask_column,
    check_lasts,
    check_there,
    collect,
)


def train(
    data: Annotated[
        str, typer.Argument(help="Labelled CSV, TSV, JSONL or Parquet, or prepared data.", show_default=False)
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", callback=check_lasts, help="Folder for the run.", show_default=False)
    ],
    test: Annotated[str | None, typer.Option(help="File of test rows; else a tenth of DATA is held out.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Local folder or hub id; all-MiniLM-L6-v2 when not given.")
    ] = None,
    config: YamlFile = None,
    set_: Set = None,
    text: TextColumn = None,
    template: Template = None,
    label: LabelColumn = None,
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
    check_there(data, test, config, labels)
    import rayclf
    from rayclf.cli import show
    from rayclf.errors import AmbiguousColumn

    flags = {
        "data.text": text,
        "data.template": template,
        "data.label": label,
        "labels.file": labels,
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
            with show.TrainView() as view:
                run = rayclf.train(data, output, **job, overrides=overrides, on_event=view)
            break
        except AmbiguousColumn as error:
            if json or not sys.stdin.isatty():
                raise
            overrides |= {f"data.{error.flag[2:]}": ask_column(error.flag, error.candidates)}
    for part, metrics in run.metrics.items():
        show.console.print(show.metrics_table(metrics, part))
    show.console.print(f"run       {run.folder}\nartifact  {run.artifact}\nreport    {run.folder / 'report.html'}")
