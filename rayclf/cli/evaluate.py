"""``rayclf evaluate``"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rayclf.cli.options import (
    Artifact,
    Device,
    Json,
    LabelColumn,
    Metrics,
    Precision,
    Separator,
    TextColumn,
    check_choice,
    check_there,
)


def evaluate(
    artifact: Artifact,
    data: Annotated[str, typer.Argument(help="Labelled file.", show_default=False)],
    text: TextColumn = None,
    label: LabelColumn = None,
    separator: Separator = None,
    metric: Metrics = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Measure a classifier on a labelled file.

    Example: rayclf evaluate runs/tickets new_tickets.csv
    """
    check_choice("precision", precision)
    check_there(artifact, data)
    import rayclf
    from rayclf.cli import show
    from rayclf.cli.progress_views import ProgressView

    options: dict[str, Any] = {
        "text": text,
        "label": label,
        "separator": separator,
        "metrics": metric or (),
        "device": device,
        "precision": precision,
    }
    if json:
        show.print_json(rayclf.evaluate(artifact, data, **options))
        return
    with ProgressView("evaluating") as view:
        metrics = rayclf.evaluate(
            artifact, data, **options, on_progress=lambda done, total: view.update(done, total, "rows")
        )
    show.console.print(show.metrics_table(metrics, data))
    for pair in metrics["confusions"][:5]:
        show.console.print(f"{pair['rows']} rows of [bold]{pair['actual']}[/] taken for [bold]{pair['predicted']}[/]")
