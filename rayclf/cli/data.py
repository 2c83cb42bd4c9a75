"""``rayclf data``: look at labelled input, and prepare it."""

from __future__ import annotations

import typer

from rayclf.cli import data_inspect, data_prepare

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at labelled data, and prepare it for training."
)
app.command("inspect")(data_inspect.inspect)
app.command("prepare")(data_prepare.prepare)
