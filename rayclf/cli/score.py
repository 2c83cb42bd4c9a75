"""``rayclf score``"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rayclf.cli.options import Artifact, Json, Precision, TextColumn, check_precision, check_there


class Layout(StrEnum):
    """How probabilities are written."""

    LIST = "list"
    COLUMNS = "columns"
    NONE = "none"


def score(
    artifact: Artifact,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A data file, or a folder of them.", show_default=False)
    ],
    output: Annotated[str, typer.Argument(help="Folder for the Parquet output.", show_default=False)],
    text: TextColumn = None,
    columns: Annotated[str | None, typer.Option(help="Input columns to keep, a,b,c; all when not given.")] = None,
    probabilities: Annotated[Layout, typer.Option(help="As one list, one column a label, or none.")] = Layout.LIST,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Scoring processes; one a GPU or core when not given.")
    ] = None,
    precision: Precision = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output of another job.")] = False,
    json: Json = False,
) -> None:
    """Score a corpus into Parquet files. The same command again finishes what is missing.

    Example: rayclf score runs/tickets tickets.parquet scored/
    """
    check_precision(precision)
    check_there(artifact, source)
    import rayclf
    from rayclf.cli import show

    with show.ProgressView("scoring") as view:

        def on_event(event: dict[str, object]) -> None:
            if json:
                return
            if event["kind"] == "plan":
                show.console.print(f"{event['rows']} rows in {event['units']} units, {event['done']} rows done before")
            elif event["kind"] == "unit":
                note = f"rows  {event['rows_per_second']:.0f} rows/s  {event['errors']} errors"
                view.update(int(str(event["rows"])), int(str(event["of"])), note)

        summary = rayclf.score(
            artifact,
            source,
            output,
            text=text,
            columns=columns.split(",") if columns else None,
            probabilities=probabilities.value,
            precision=precision,
            replicas=replicas,
            overwrite=overwrite,
            on_event=on_event,
        )
    if json:
        from dataclasses import asdict

        show.print_json(asdict(summary))
        return
    show.console.print(
        f"{summary.rows} rows ({summary.errors} with errors) in {summary.output}; "
        f"{summary.scored_rows} scored now at {summary.rows_per_second:.0f} rows/s"
    )
