"""Arguments that several commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from rayclf.errors import DataError

Artifact = Annotated[str, typer.Argument(help="A run folder or an artifact.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="PyTorch device; auto takes a GPU where there is one.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text; found when not given.")]
LabelColumn = Annotated[str | None, typer.Option("--label", help="Column of the labels; found when not given.")]


def check_there(*paths: str | None) -> None:
    """Raise DataError for a local file that is not there, before anything heavy is imported."""
    for path in paths:
        if path is not None and "://" not in path and not os.path.exists(os.path.expanduser(path)):
            raise DataError(f"{path}: no such file or folder")


def check_precision(value: str) -> None:
    """Raise a usage error for an unknown precision."""
    if value not in ("auto", "fp32", "bf16"):
        raise typer.BadParameter(f"'{value}' is not one of auto, fp32, bf16", param_hint="--precision")
