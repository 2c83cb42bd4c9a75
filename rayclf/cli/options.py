"""Arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rayclf.errors import ConfigError, DataError


def check_lasts(output: str | None) -> str | None:
    """``output`` as it is; raises ConfigError where a Ray job would write into the folder that is deleted with it."""
    # Ray sets this variable for the command of a job, and for nothing else.
    if output and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "://" not in output and not os.path.isabs(output):
        raise ConfigError(
            f"output: '{output}' would be lost with the job's working directory; give a folder that all nodes share, "
            "such as /mnt/shared/runs/x, or an address in object storage"
        )
    return output


Labelled = Annotated[
    str, typer.Argument(help="Labelled CSV, TSV, JSONL or Parquet, or prepared data.", show_default=False)
]
TestRows = Annotated[str | None, typer.Option("--test", help="File of test rows; else a tenth of DATA is held out.")]
Backbone = Annotated[
    str | None, typer.Option("--backbone", help="Local folder or hub id; all-MiniLM-L6-v2 when not given.")
]
Artifact = Annotated[str, typer.Argument(help="A run folder or an artifact.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="PyTorch device; auto takes a GPU where there is one.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, or int8 on a CPU.")]
Runtime = Annotated[str, typer.Option(help="auto, torch, or onnx on a CPU.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text; found when not given.")]
LabelColumn = Annotated[str | None, typer.Option("--label", help="Column of the labels; found when not given.")]
TextPair = Annotated[str | None, typer.Option(help="Column of the second text, where two are classified together.")]
Template = Annotated[str | None, typer.Option(help="Text from several columns: 'Title: {title}\\n{body}'.")]
Messages = Annotated[str | None, typer.Option(help="Column of chat messages.")]
Separator = Annotated[str | None, typer.Option(help="What parts several labels in one cell; | unless told otherwise.")]
LabelsFile = Annotated[
    str | None, typer.Option("--labels", help="File that declares the labels: TSV, JSON, YAML or SKOS.")
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="Own metric as file.py:function; repeatable.", show_default=False)
]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.field=value, over the YAML; repeatable.")]
YamlFile = Annotated[str | None, typer.Option("--config", help="YAML file.")]

_COLUMNS = (
    "data.text", "data.text_pair", "data.template", "data.messages", "data.label", "data.separator", "labels.file",
)  # fmt: skip


def collect(set_: list[str] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of ``--set`` with those of the flags that were given laid over them."""
    from rayclf.config_file import parse_override

    return dict(map(parse_override, set_ or [])) | {path: value for path, value in flags.items() if value is not None}


def column_flags(*given: str | None) -> dict[str, Any]:
    """What ``--text``, ``--text-pair``, ``--template``, ``--messages``, ``--label``, ``--separator`` and ``--labels``,
    given in this order, stand for in the configuration."""
    return dict(zip(_COLUMNS, given, strict=True))


def ask_column(flag: str, candidates: tuple[str, ...]) -> str:
    """Which of several columns is meant."""
    answer = ""
    while answer not in candidates:
        answer = typer.prompt(f"Which column is the {flag[2:]}: {', '.join(candidates)}?")
    return answer


def check_there(*paths: str | None) -> None:
    """Raise DataError for a local file that is not there, before anything heavy is imported."""
    for path in paths:
        if path is None or "://" in path or any(mark in path for mark in "*?["):
            continue
        if not os.path.exists(os.path.expanduser(path)):
            raise DataError(f"{path}: no such file or folder")


_CHOICES = {"precision": ("auto", "fp32", "bf16", "int8"), "runtime": ("auto", "torch", "onnx")}


def check_choice(flag: str, value: str) -> None:
    """Raise a usage error for a word that ``--precision`` or ``--runtime`` does not know."""
    if value not in _CHOICES[flag]:
        raise typer.BadParameter(f"'{value}' is not one of {', '.join(_CHOICES[flag])}", param_hint=f"--{flag}")
