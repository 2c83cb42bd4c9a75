"""``rayclf score``"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from rayclf.cli.options import Json, Precision, Runtime, TextColumn, check_choice, check_lasts, check_there


class Layout(StrEnum):
    """How probabilities are written."""

    LIST = "list"
    COLUMNS = "columns"
    NONE = "none"


class TooLong(StrEnum):
    """What becomes of a text of more tokens than the classifier reads."""

    CUT = "cut"
    ERROR = "error"


def score(
    artifact: Annotated[str | None, typer.Argument(help="A run folder or an artifact.", show_default=False)] = None,
    source: Annotated[
        str | None, typer.Argument(metavar="INPUT", help="A data file, a folder of them or a glob.", show_default=False)
    ] = None,
    output: Annotated[
        str | None, typer.Argument(callback=check_lasts, help="Folder for the Parquet output.", show_default=False)
    ] = None,
    text: TextColumn = None,
    columns: Annotated[str | None, typer.Option(help="Input columns to keep, a,b,c; all when not given.")] = None,
    probabilities: Annotated[Layout, typer.Option(help="As one list, one column a label, or none.")] = Layout.LIST,
    top_k: Annotated[int | None, typer.Option(min=1, help="Add the names and probabilities of so many labels.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Probability from which a label holds, for the artifact's own.")
    ] = None,
    partition_by_label: Annotated[
        bool, typer.Option("--partition-by-label", help="Write Hive folders label=….")
    ] = False,
    too_long: Annotated[TooLong, typer.Option(help="A text of too many tokens is cut, or an error.")] = TooLong.CUT,
    also: Annotated[
        list[str] | None,
        typer.Option(help="One more artifact for the same rows in the same pass; repeatable.", show_default=False),
    ] = None,
    replicas: Annotated[
        str | None, typer.Option(help="Scoring processes, N or MIN,MAX; one a GPU or core when not given.")
    ] = None,
    gpus_per_replica: Annotated[float, typer.Option(min=0.01, help="May be a fraction of a GPU.")] = 1.0,
    precision: Precision = "auto",
    runtime: Runtime = "auto",
    max_errors: Annotated[int | None, typer.Option(min=0, help="Stop after more rows with errors.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of the whole cluster, in dollars.")] = None,
    push_gateway: Annotated[str | None, typer.Option(help="Prometheus push gateway to tell of the end.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Score a few rows; tell time, cost and size of the whole.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--overwrite", help="Go on with what OUTPUT holds, or replace it.")
    ] = True,
    status: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="Tell how the job of this output fares, and nothing else.")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="Prove that this output is whole, and nothing else.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a corpus into Parquet files. The same command again finishes what is missing.

    Example: rayclf score runs/tickets tickets.parquet scored/
    """
    from rayclf.cli import show_score

    if status is not None:
        show_score.show_status(status, json)
        return
    if verify is not None:
        show_score.show_verified(verify, json)
        return
    if artifact is None or source is None or (output is None and not dry_run):
        raise typer.BadParameter("give ARTIFACT, INPUT and OUTPUT, or --status OUTPUT, or --verify OUTPUT")
    check_choice("precision", precision)
    check_choice("runtime", runtime)
    check_there(artifact, *(also or ()), source)
    options: dict[str, Any] = {
        "also": also or [],
        "text": text,
        "columns": columns.split(",") if columns else None,
        "probabilities": probabilities.value,
        "top_k": top_k,
        "threshold": threshold,
        "partition_by_label": partition_by_label,
        "too_long": too_long.value,
        "precision": precision,
        "runtime": runtime,
        "replicas": parse_replicas(replicas),
        "gpus_per_replica": gpus_per_replica,
        "price_per_hour": price_per_hour,
    }
    import rayclf

    if dry_run or output is None:
        show_score.show_forecast(rayclf.forecast(artifact, source, **options), json)
        return
    with show_score.ScoreView(quiet=json) as view:
        summary = rayclf.score(
            artifact,
            source,
            output,
            **options,
            max_errors=max_errors,
            push_gateway=push_gateway,
            overwrite=not resume,
            on_event=view.on_event,
        )
    show_score.show_summary(summary, json)


def parse_replicas(value: str | None) -> int | tuple[int, int] | None:
    """``4`` or ``1,8``; raises a usage error for what is neither."""
    if value is None:
        return None
    try:
        numbers = [int(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise typer.BadParameter(f"'{value}' is neither a number nor MIN,MAX", param_hint="--replicas")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
