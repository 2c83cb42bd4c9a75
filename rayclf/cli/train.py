"""``rayclf train``"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rayclf.cli.options import Json, LabelColumn, TextColumn, check_there


def train(
    data: Annotated[
        str, typer.Argument(help="Labelled CSV, TSV, JSONL or Parquet file, also .gz.", show_default=False)
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="Folder for the run.", show_default=False)],
    test: Annotated[str | None, typer.Option(help="File of test rows; else a tenth of DATA is held out.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Local folder or hub id; all-MiniLM-L6-v2 when not given.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value, over the YAML; repeatable.")
    ] = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune a classifier on a labelled file.

    Example: rayclf train tickets.csv -o runs/tickets --set train.epochs=5
    """
    check_there(data, test, config)
    import rayclf
    from rayclf.cli import show
    from rayclf.config import parse_override
    from rayclf.errors import AmbiguousColumn

    overrides: dict[str, Any] = dict(map(parse_override, set_ or []))
    flags = {"data.text": text, "data.label": label, "output.overwrite": overwrite or None}
    overrides |= {path: value for path, value in flags.items() if value is not None}
    while True:
        try:
            if json:
                run = rayclf.train(data, output, test=test, backbone=backbone, config=config, overrides=overrides)
                show.print_json({"run": str(run.folder), "artifact": str(run.artifact), "metrics": run.metrics})
                return
            with show.TrainView() as view:
                run = rayclf.train(
                    data, output, test=test, backbone=backbone, config=config, overrides=overrides, on_event=view
                )
            break
        except AmbiguousColumn as error:
            if json or not sys.stdin.isatty():
                raise
            overrides |= {f"data.{error.flag[2:]}": _ask(error.flag, error.candidates)}
    for part, metrics in run.metrics.items():
        show.console.print(show.metrics_table(metrics, part))
    show.console.print(f"run       {run.folder}\nartifact  {run.artifact}\nreport    {run.folder / 'report.html'}")


def _ask(flag: str, candidates: tuple[str, ...]) -> str:
    answer = ""
    while answer not in candidates:
        answer = typer.prompt(f"Which column is the {flag[2:]}: {', '.join(candidates)}?")
    return answer
