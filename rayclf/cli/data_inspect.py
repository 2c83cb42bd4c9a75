"""``rayclf data inspect``"""

from __future__ import annotations

from typing import Annotated

import typer

from rayclf.cli.options import (
    Json,
    LabelColumn,
    LabelsFile,
    Messages,
    Separator,
    Set,
    Template,
    TextColumn,
    TextPair,
    YamlFile,
    check_there,
    collect,
    column_flags,
)


def inspect(
    data: Annotated[
        str, typer.Argument(metavar="FILE", help="Labelled file, folder or glob, local or remote.", show_default=False)
    ],
    text: TextColumn = None,
    text_pair: TextPair = None,
    template: Template = None,
    messages: Messages = None,
    label: LabelColumn = None,
    separator: Separator = None,
    labels: LabelsFile = None,
    test: Annotated[str | None, typer.Option(help="Test rows, to find the texts that they share with FILE.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Whose tokenizer measures lengths; all-MiniLM-L6-v2 when not given.")
    ] = None,
    config: YamlFile = None,
    set_: Set = None,
    json: Json = False,
    html: Annotated[str | None, typer.Option(help="Also write a page with plots to this file.")] = None,
) -> None:
    """Show what is in labelled data before anything is trained: columns, labels, lengths, duplicates, bad rows.

    Example: rayclf data inspect tickets.csv --html tickets.html
    """
    check_there(data, test, labels, config)
    from rayclf.data.inspect import inspect as look

    columns = column_flags(text, text_pair, template, messages, label, separator, labels)
    overrides = collect(set_, columns)
    from rayclf.cli import show, show_data

    with show_data.RowsView("inspecting", quiet=json) as view:
        found = look(data, test=test, backbone=backbone, config=config, overrides=overrides, on_rows=view)
    if html is not None:
        from rayclf.data.inspect_report import write_report

        write_report(found, html)
    if json:
        show.print_json(found.to_json())
        return
    show_data.show(found)
    if html is not None:
        show.console.print(f"\npage  {html}", markup=False, soft_wrap=True)
