"""``rayclf plan``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import (
    Json,
    LabelColumn,
    Messages,
    Separator,
    Set,
    Template,
    TextColumn,
    TextPair,
    check_there,
    collect,
    column_flags,
)


def plan(
    config: Annotated[str | None, typer.Argument(help="YAML file of the job.", show_default=False)] = None,
    data: Annotated[str | None, typer.Option(help="What is to be trained on: it is counted and sampled.")] = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    template: Template = None,
    messages: Messages = None,
    label: LabelColumn = None,
    separator: Separator = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows, where there is no --data.")] = None,
    tokens_per_row: Annotated[
        float | None, typer.Option(min=1, help="Mean tokens of a row; model.max_length when not known.")
    ] = None,
    labels: Annotated[
        int | None, typer.Option(min=1, help="Number of labels, where there is no --data; else 2.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Folder or hub id; its config.json is enough. all-MiniLM-L6-v2 when not given.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="t4, l4, a10g, rtx4090, a100-40, a100-80, l40s, h100, h200, b200, mi300x or cpu.")
    ] = "h100",
    gpus: Annotated[int | None, typer.Option(min=1, help="How many of them; resources.workers when not given.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Tell what a training takes of memory and time, before a GPU is rented; exit with 2 when it cannot fit.

    Example: rayclf plan --backbone Qwen/Qwen3-8B --rows 100000 --tokens-per-row 120 --device h100 --gpus 8
    """
    check_there(config, data)
    from rayclf.cli import show
    from rayclf.training.cost.estimate import estimate

    found = estimate(
        config,
        data=data,
        rows=rows,
        tokens_per_row=tokens_per_row,
        labels=labels,
        backbone=backbone,
        device=device,
        gpus=gpus,
        overrides=collect(set_, column_flags(text, text_pair, template, messages, label, separator, None)),
    )
    if json:
        show.print_json(found.to_json())
    else:
        from rayclf.cli.show_plan import show_estimate

        show_estimate(found)
        if tokens_per_row is not None and tokens_per_row > found.tokens_per_row:
            show.console.print(f"--tokens-per-row {tokens_per_row:g}: longer texts are cut; see model.max_length")
    found.require()
